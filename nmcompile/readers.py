"""A graph -> who reads each channel of a convolution's result: whom it must be computed for."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx

from nmcompile.convs import named_arguments, read_conv

aten = torch.ops.aten

# The readers of each channel of a value; None among them stands for what needs it in any case.
Readers = list[frozenset[fx.Node | None]]

_POINTWISE = (
    aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default,
    aten.prelu.default, aten._prelu_kernel.default, aten.silu.default, aten.gelu.default,
    aten.sigmoid.default, aten.tanh.default, aten.elu.default, aten.hardtanh.default,
    aten.clamp.default, aten.mish.default, aten.hardswish.default,
)  # fmt: skip
_ANYONE: frozenset[fx.Node | None] = frozenset({None})


def channel_readers(module: fx.GraphModule) -> dict[fx.Node, Readers]:
    """The readers of every convolution's channels: the nodes of the convolutions that they meet.

    Activations, splits and concatenations on the way keep channels apart; whatever else uses a
    channel, a sum or a mean, needs it in any case.
    """
    known: dict[fx.Node, Readers] = {}
    for node in reversed(module.graph.nodes):
        count = _channels(node)
        if count:
            found: Readers = [frozenset()] * count
            for user in node.users:
                found = [a | b for a, b in zip(found, _as_read(node, user, known), strict=True)]
            known[node] = found
    return {node: readers for node, readers in known.items() if read_conv(node) is not None}


def _as_read(node: fx.Node, user: fx.Node, known: Mapping[fx.Node, Readers]) -> Readers:
    """The readers that one user of a node stands for."""
    count = _channels(node)
    conv = read_conv(user)
    if conv is not None and conv.op != "linear" and conv.groups == 1 and conv.source is node:
        return [frozenset({user})] * count
    if user.target in _POINTWISE and user.args[0] is node:
        return known[user]
    if user.target is aten.split_with_sizes.default and _is_by_channel(user):
        return _of_parts(user, known)
    if user.target is aten.cat.default and _is_by_channel(user):
        return _of_piece(node, user, known[user])
    return [_ANYONE] * count


def _of_parts(split: fx.Node, known: Mapping[fx.Node, Readers]) -> Readers:
    sizes = named_arguments(split)["split_sizes"]
    parts: list[Readers] = [[frozenset()] * size for size in sizes]
    for user in split.users:
        if user.target is not operator.getitem:
            return [_ANYONE] * sum(sizes)
        index = int(user.args[1])  # type: ignore[arg-type]
        parts[index] = [a | b for a, b in zip(parts[index], known[user], strict=True)]
    return [readers for part in parts for readers in part]


def _of_piece(node: fx.Node, cat: fx.Node, whole: Readers) -> Readers:
    """A node may be several pieces of a concatenation."""
    found: Readers = [frozenset()] * _channels(node)
    first = 0
    for piece in named_arguments(cat)["tensors"]:
        size = _channels(piece)
        if piece is node:
            own = whole[first : first + size]
            found = [a | b for a, b in zip(found, own, strict=True)]
        first += size
    return found


def _is_by_channel(node: fx.Node) -> bool:
    return bool(named_arguments(node)["dim"] == 1)


def _channels(node: fx.Node) -> int:
    """Of an image N x C x H x W; 0 of anything else."""
    value = node.meta.get("val")
    count: object = value.shape[1] if isinstance(value, torch.Tensor) and value.dim() == 4 else 0
    return count if isinstance(count, int) else 0  # a symbolic size is no number of channels
