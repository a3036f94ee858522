"""Nodes computed from weights alone (weight norm, re-parameterised kernels) -> one weight."""

from __future__ import annotations

import operator
from typing import Any

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
    parts: dict[fx.Node, Any] = {}  # what splits a weight, and its parts
    for node in list(module.graph.nodes):
        if node.target is operator.getitem and node.args[0] in parts:
            result = parts[node.args[0]][node.args[1]]
        elif _is_constant(node):
            result = _evaluated(module, node)
        else:
            continue
        if isinstance(result, list | tuple):
            parts[node] = result
        elif isinstance(result, torch.Tensor) and result.is_floating_point():
            _replace(module, node, result)
    module.graph.eliminate_dead_code()
    module.recompile()
    return program.with_module(module)


def _evaluated(module: fx.GraphModule, node: fx.Node) -> Any:
    values = {n: get_tensor(module, str(n.target)) for n in node.all_input_nodes}
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _is_constant(node: fx.Node) -> bool:
    inputs = node.all_input_nodes
    return (
        node.op == "call_function"
        and bool(inputs)
        and all(n.op == "get_attr" for n in inputs)
        and isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def _replace(module: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> None:
    name = _FOLDED + node.name
    set_tensor(module, name, value)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta["val"] = node.meta.get("val", value)
    node.replace_all_uses_with(constant)
    module.graph.erase_node(node)
