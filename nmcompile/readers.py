"""A graph -> who reads each channel of a convolution's result, and what is computed for them."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from nmcompile.convs import get_tensor, named_arguments, read_conv, weight_uses
from nmcompile.plan import Plan
from nmcompile.program import Program

aten = torch.ops.aten

# A convolution and the number of its input channel; None stands for what needs a channel anyway.
Reader = tuple[fx.Node, int] | None
Readers = list[frozenset[Reader]]  # of each channel of a value

_POINTWISE = (
    aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default,
    aten.prelu.default, aten._prelu_kernel.default, aten.silu.default, aten.gelu.default,
    aten.sigmoid.default, aten.tanh.default, aten.elu.default, aten.hardtanh.default,
    aten.clamp.default, aten.mish.default, aten.hardswish.default,
)  # fmt: skip
_ANYONE: frozenset[Reader] = frozenset({None})


@dataclass(frozen=True)
class Live:
    """What counts of a convolution.

    Attributes:
        outputs: bool, one a channel that it makes: somebody reads it.
        inputs: bool, one a channel that it is given: those outputs read it.
    """

    outputs: Tensor
    inputs: Tensor


def channel_readers(module: fx.GraphModule) -> dict[fx.Node, Readers]:
    """The readers of every convolution's channels: the convolutions that they meet.

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


def sole_reader(readers: frozenset[Reader]) -> fx.Node | None:
    """The convolution that reads a channel, if nothing else does."""
    (first, *others) = readers or (None,)
    return None if others or first is None else first[0]


def needed(module: fx.GraphModule, skipped: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes that the output depends on where those convolutions read nothing."""
    found: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        conv = read_conv(node) if node in skipped else None
        if node.op == "output":
            found.add(node)
        if node in found:
            unread = None if conv is None else conv.source
            found.update(source for source in node.all_input_nodes if source is not unread)
    return found


def through(module: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """By weight name, the other weights without which it would serve nothing."""
    uses = weight_uses(module)
    left = {name: needed(module, nodes) for name, nodes in uses.items()}
    return {
        name: tuple(other for other, own in left.items() if other != name and own.isdisjoint(nodes))
        for name, nodes in uses.items()
    }


def repeats(module: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """By weight name, the weights without which it would be given something twice.

    A 1x1 convolution gathers results and what was added to them, side by side, as IMDN's does with
    its blocks: where the branch between two of them is skipped, they differ by its bias.
    """
    uses, found = weight_uses(module), dict[str, tuple[str, ...]]()
    for name, nodes in uses.items():
        conv = read_conv(nodes[0])
        if len(nodes) == 1 and conv is not None and conv.op == "conv2d" and conv.groups == 1:
            pieces = _pieces(conv.source) if not any(conv.padding) else []
            ends = (_end_of_branch(piece, pieces) for piece in pieces)
            names = tuple(end for end in ends if end is not None and len(uses[end]) == 1)
            found |= {name: names} if names else {}
    return found


def counted(program: Program) -> Plan:
    """The plan of a pruned network, its MACs without those of outputs that nobody reads."""
    plan = program.the_plan
    rows = {node: live.outputs for node, live in live_channels(program.module).items()}
    uses, layers = weight_uses(program.module), []
    for layer in plan.layers:
        read = [rows[node] for node in uses[layer.name] if node in rows]
        if len(read) == layer.uses and not torch.cat(read).all():
            weight = get_tensor(program.module, layer.name)
            kept = (weight != 0).flatten(1).sum(1)
            macs = layer.macs // (layer.params * layer.uses) * sum(int(kept[r].sum()) for r in read)
            own = dataclasses.replace(layer.chosen, macs=macs)
            choices = tuple(own if x.pattern == layer.pattern else x for x in layer.choices)
            layer = dataclasses.replace(layer, choices=choices)
        layers.append(layer)
    return plan.with_layers(layers)


def live_channels(module: fx.GraphModule) -> dict[fx.Node, Live]:
    """What counts of each plain convolution, zeros in weights reading nothing."""
    found: dict[fx.Node, Live] = {}
    skipped = [
        node
        for name, nodes in weight_uses(module).items()
        for node in nodes
        if not get_tensor(module, name).any()
    ]
    serving = needed(module, skipped)
    for node, readers in channel_readers(module).items():  # the last first
        conv = read_conv(node)
        assert conv is not None
        if conv.op == "conv2d" and conv.groups == 1:
            read = [any(r is None or found[r[0]].inputs[r[1]] for r in x) for x in readers]
            rows = torch.tensor(read) & (node in serving)
            weight = get_tensor(module, str(conv.weight.target))[rows]
            found[node] = Live(rows, (weight != 0).any(0).flatten(1).any(1))
    return found


def _as_read(node: fx.Node, user: fx.Node, known: Mapping[fx.Node, Readers]) -> Readers:
    """The readers that one user of a node stands for."""
    count = _channels(node)
    conv = read_conv(user)
    if conv is not None and conv.op == "conv2d" and conv.groups == 1 and conv.source is node:
        return [frozenset({(user, channel)}) for channel in range(count)]
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


def _pieces(source: fx.Node) -> list[fx.Node]:
    """What a concatenation of channels joins; nothing of another node."""
    if source.target is not aten.cat.default or not _is_by_channel(source):
        return []
    return list(named_arguments(source)["tensors"])


def _end_of_branch(piece: fx.Node, pieces: Collection[fx.Node]) -> str | None:
    """The weight whose result a piece is, added to another piece."""
    if piece.target is not aten.add.Tensor or piece.kwargs.get("alpha", 1) != 1:
        return None
    for branch, other in (piece.args[:2], piece.args[1::-1]):
        if not isinstance(branch, fx.Node) or len(branch.users) != 1 or other not in pieces:
            continue
        conv = read_conv(branch)
        if conv is not None:
            return str(conv.weight.target)
    return None


def _is_by_channel(node: fx.Node) -> bool:
    return bool(named_arguments(node)["dim"] == 1)


def _channels(node: fx.Node) -> int:
    """Of an image N x C x H x W; 0 of anything else."""
    value = node.meta.get("val")
    count: object = value.shape[1] if isinstance(value, torch.Tensor) and value.dim() == 4 else 0
    return count if isinstance(count, int) else 0  # a symbolic size is no number of channels
