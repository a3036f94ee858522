"""Nodes computed from weights alone (weight norm, re-parameterised kernels) -> one weight."""

from __future__ import annotations

import torch
from torch import fx

from nmcompile.context import Context
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.pipeline import compiler_pass
from nmcompile.program import Program

_FOLDED = "folded."


@compiler_pass(needs={"clean"}, gives={"constants folded"}, changes="graph")
def fold_constants(program: Program, ctx: Context) -> Program:
    """Evaluates every operation whose tensor inputs are all weights or buffers."""
    module = program.clone_module()
    for node in list(module.graph.nodes):
        if not _is_constant(node):
            continue
        inputs = [get_tensor(module, str(n.target)) for n in node.all_input_nodes]
        values = dict(zip(node.all_input_nodes, inputs, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n, v=values: v[n])
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            _replace(module, node, result)
    module.graph.eliminate_dead_code()
    module.recompile()
    return program.with_module(module)


def _is_constant(node: fx.Node) -> bool:
    inputs = node.all_input_nodes
    return (
        node.op == "call_function"
        and bool(inputs)
        and all(n.op == "get_attr" for n in inputs)
        and isinstance(node.target, torch._ops.OpOverload)
    )


def _replace(module: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> None:
    name = _FOLDED + node.name
    set_tensor(module, name, value)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta["val"] = node.meta.get("val", value)
    node.replace_all_uses_with(constant)
    module.graph.erase_node(node)
