"""A graph in fp32 -> the same in fp16 or bf16, with casts at its inputs and outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from nmcompile.convs import get_tensor, set_tensor
from nmcompile.runtime.native.cuda_pack import Half

aten = torch.ops.aten
DTYPES = {Half.FP16: torch.float16, Half.BF16: torch.bfloat16}


def in_halves(module: fx.GraphModule, half: Half) -> None:
    """Converts weights, constants and every request for fp32, in place.

    Images come and go in fp32, and are cast at the borders. Values that the nodes' metadata
    describes are no longer of those types: the graph is to be exported again.
    """
    dtype, graph = DTYPES[half], module.graph
    for name in {str(node.target) for node in graph.nodes if node.op == "get_attr"}:
        value = get_tensor(module, name)
        if value.dtype is torch.float32:
            set_tensor(module, name, value.to(dtype))
    for node in list(graph.nodes):
        if node.op == "call_function":
            node.args = fx.node.map_aggregate(node.args, lambda value: _other(value, dtype))
            node.kwargs = fx.node.map_aggregate(node.kwargs, lambda value: _other(value, dtype))
        elif node.op == "placeholder" and _is_fp32(node):
            with graph.inserting_after(_last_input(graph)):
                cast = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
            node.replace_all_uses_with(cast, lambda user, made=cast: user is not made)
        elif node.op == "output":
            with graph.inserting_before(node):
                node.args = fx.node.map_arg(node.args, lambda value: _widened(graph, value))
    module.recompile()


def _other(value: Any, dtype: torch.dtype) -> Any:
    return dtype if value is torch.float32 else value


def _last_input(graph: fx.Graph) -> fx.Node:
    inputs: list[fx.Node] = graph.find_nodes(op="placeholder")
    return inputs[-1]


def _is_fp32(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.float32


def _widened(graph: fx.Graph, node: fx.Node) -> fx.Node:
    return graph.call_function(aten._to_copy.default, (node,), {"dtype": torch.float32})
