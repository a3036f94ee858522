"""Convolution followed by batch norm -> one convolution with the norm in its weight and bias."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx

from nmcompile.context import Context
from nmcompile.convs import (
    Conv,
    from_canonical,
    get_tensor,
    read_conv,
    set_tensor,
    to_canonical,
)
from nmcompile.pipeline import compiler_pass
from nmcompile.program import Program

aten = torch.ops.aten


@compiler_pass(needs={"constants folded"}, gives={"batch norm folded"}, changes="graph")
def fold_batch_norm(program: Program, ctx: Context) -> Program:
    """Folds every inference-mode batch norm whose input is a convolution used by it alone."""
    module = program.clone_module()
    for norm in list(module.graph.nodes):
        if norm.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        source = norm.args[0]
        conv = read_conv(source)
        if conv is None or len(source.users) > 1 or len(conv.weight.users) > 1:
            continue
        if conv.op == "linear" and source.meta["val"].dim() != 2:
            continue  # the norm is over axis 1, the layer's outputs are the last axis
        _fold(module, norm, source, conv)
    module.graph.eliminate_dead_code()
    module.recompile()
    return program.with_module(module)


def _fold(module: fx.GraphModule, norm: fx.Node, source: fx.Node, conv: Conv) -> None:
    scale, shift = _affine(module, norm)
    name = str(conv.weight.target)
    weight = get_tensor(module, name)
    canonical = to_canonical(weight, conv.op, conv.groups) * scale[:, None, None, None]
    set_tensor(module, name, from_canonical(canonical, conv.op, conv.groups))
    bias = shift
    if conv.bias is not None:
        bias = shift + scale * get_tensor(module, str(conv.bias.target))
    bias_name = name + "_folded_bias"  # a module may own several weights
    set_tensor(module, bias_name, bias)
    with module.graph.inserting_before(source):
        bias_node = module.graph.get_attr(bias_name)
    bias_node.meta["val"] = bias
    source.args = (*source.args[:2], bias_node, *source.args[3:])
    for user in list(norm.users):
        if user.target is operator.getitem and user.args[1] == 0:
            user.replace_all_uses_with(source)
            module.graph.erase_node(user)
    if not norm.users:
        module.graph.erase_node(norm)


def _affine(module: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """y = scale * x + shift of a batch norm with running statistics."""

    def tensor(argument: Any) -> Tensor | None:
        return None if argument is None else get_tensor(module, str(argument.target))

    _, gamma, beta, mean, variance, _, eps = cast("tuple[Any, ...]", norm.args)
    running, spread = tensor(mean), tensor(variance)
    assert running is not None
    assert spread is not None
    scale = (spread.double() + float(eps)).rsqrt()
    factor = tensor(gamma)
    if factor is not None:
        scale = scale * factor
    offset = tensor(beta)
    shift = -running * scale + (0.0 if offset is None else offset)
    return scale.float(), shift.float()
