"""Graph with what only training needs (dropout, detach, clones) -> the same without it."""

from __future__ import annotations

import torch

from nmcompile.context import Context
from nmcompile.pipeline import compiler_pass
from nmcompile.program import Program

aten = torch.ops.aten

# Each gives its first argument back at inference; drop-out ones carry a train flag last.
_IDENTITIES = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
}


@compiler_pass(needs=set(), gives={"clean"}, changes="graph")
def drop_inference_noops(program: Program, ctx: Context) -> Program:
    """Removes dropout, detach, alias and clone nodes, and additions of a literal zero."""
    module = program.clone_module()
    for node in list(module.graph.nodes):
        if node.op == "call_function" and _is_noop(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return program.with_module(module)


def _is_noop(node: torch.fx.Node) -> bool:
    if node.target in (aten.dropout.default, aten.feature_dropout.default):
        return not node.args[2]
    if node.target is aten.add.Tensor:
        return isinstance(node.args[1], int | float) and node.args[1] == 0
    return node.target in _IDENTITIES
