"""Graph -> how far, in input pixels, an output pixel looks; None where it sees the whole image."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from nmcompile.convs import Conv, read_conv
from nmcompile.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class Field:
    """What a value's pixels depend on.

    Attributes:
        stride: input pixels per pixel of the value (1/2 after enlarging twice).
        reach: input pixels beyond a pixel's own place, on either side.
    """

    stride: Fraction
    reach: Fraction


class _SeesAll(Exception):
    """An operation that mixes the whole image."""


def receptive_halo(program: Program) -> tuple[int | None, str]:
    """The halo in input pixels and "", or None and the operation that sees the whole image."""
    fields: dict[fx.Node, Field | None] = {}
    maps = {extra.name for extra in program.interface.extra_inputs if "H" in extra.shape}
    for node in program.module.graph.nodes:
        if node.op == "placeholder":
            spatial = node.name in maps | {program.interface.input_name}
            fields[node] = Field(Fraction(1), Fraction(0)) if spatial else None
        elif node.op == "get_attr":
            fields[node] = None
        elif node.op == "output":
            field = fields[node.all_input_nodes[0]]
            reach = Fraction(0) if field is None else field.reach
            return int(-(-reach // 1)) + 1, ""
        else:
            try:
                fields[node] = _field(node, fields)
            except _SeesAll:
                name = str(node.target).removeprefix("aten.")
                return None, f"{name} ({node.name}) mixes the whole image"
    raise RuntimeError("a graph without output")


def _field(node: fx.Node, fields: dict[fx.Node, Field | None]) -> Field | None:
    inputs = [fields[n] for n in node.all_input_nodes]
    known = [field for field in inputs if field is not None]
    if not known or not _is_tensor(node):
        return None
    conv = read_conv(node)
    if conv is not None and conv.op != "linear":
        return _convolved(fields[conv.source], conv, conv.weight.meta["val"].shape)
    rule = _RULES.get(node.target)
    if rule is not None:
        changed: Field = rule(known[0], node)
        return changed
    if node.target is aten.cat.default and node.args[1:] not in ((1,), (-3,)):
        raise _SeesAll  # image parts side by side
    if node.target in _POINTWISE or _is_elementwise(node):
        if len({field.stride for field in known}) > 1:
            raise _SeesAll
        return Field(known[0].stride, max(field.reach for field in known))
    raise _SeesAll


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, (torch.Tensor, list, tuple))


def _is_elementwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        torch.Tag.pointwise in node.target.tags
    )


def _window(field: Field, before: int, after: int, step: int = 1) -> Field:
    """A window of `before` and `after` neighbours, then every `step`-th pixel."""
    return Field(field.stride * step, field.reach + field.stride * max(before, after))


def _convolved(field: Field | None, conv: Conv, weight: Any) -> Field:
    if field is None:
        raise _SeesAll
    (height, width), (dy, dx) = weight[2:], conv.dilation
    if conv.stride[0] != conv.stride[1]:
        raise _SeesAll
    step = conv.stride[0]
    left, right, top, bottom = conv.padding
    spans = ((dy * (height - 1), top, bottom), (dx * (width - 1), left, right))
    before = max(first for _, first, _ in spans)
    after = max(span - first for span, first, _ in spans)
    if conv.op == "conv2d":
        return _window(field, before, after, step)
    reach = max(max(span - first, last) for span, first, last in spans)
    return Field(field.stride / step, field.reach + field.stride * (Fraction(reach, step) + 1))


def _max_pool(field: Field, node: fx.Node) -> Field:
    kernel = node.args[1]
    stride = node.args[2] if len(node.args) > 2 and node.args[2] else kernel
    padding = node.args[3] if len(node.args) > 3 else [0, 0]
    size, step, pad = (_one(value) for value in (kernel, stride, padding))
    return _window(field, pad, size - 1 - pad, step)


def _one(value: Any) -> int:
    items = [value] if isinstance(value, int) else list(value)
    if len(set(items)) != 1:
        raise _SeesAll
    return int(items[0])


def _shuffle(field: Field, node: fx.Node) -> Field:
    return Field(field.stride / int(node.args[1]), field.reach)  # type: ignore[arg-type]


def _unshuffle(field: Field, node: fx.Node) -> Field:
    factor = int(node.args[1])  # type: ignore[call-overload]
    return Field(field.stride * factor, field.reach + field.stride * (factor - 1))


def _enlarged(taps: int) -> Any:
    def rule(field: Field, node: fx.Node) -> Field:
        factors = [a for a in node.args if isinstance(a, (list, tuple)) and _all_float(a)]
        if not factors or len(set(factors[0])) != 1 or factors[0][0] < 1:
            raise _SeesAll  # a size that comes from the image, or shrinking
        if taps and True in node.args:
            raise _SeesAll  # aligned corners tie every pixel to the image's size
        factor = Fraction(factors[0][0]).limit_denominator(64)
        return Field(field.stride / factor, field.reach + field.stride * (taps + 1))

    return rule


def _all_float(items: Any) -> bool:
    return bool(items) and all(isinstance(item, float) for item in items)


def _pad(field: Field, node: fx.Node) -> Field:
    amounts = list(node.args[1])  # type: ignore[arg-type]
    spatial = amounts[:4]
    if not all(isinstance(item, int) for item in spatial):
        raise _SeesAll  # depends on the image's size
    return Field(field.stride, field.reach + field.stride * max((*map(abs, spatial), 0)))


def _channels_only(axis_at: int) -> Any:
    """Concatenation and splitting keep pixels apart along channels only."""

    def rule(field: Field, node: fx.Node) -> Field:
        axis = node.args[axis_at] if len(node.args) > axis_at else 0
        if axis not in (1, -3, 0):
            raise _SeesAll
        return field

    return rule


_RULES: dict[Any, Any] = {
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _max_pool,
    aten.pixel_shuffle.default: _shuffle,
    aten.pixel_unshuffle.default: _unshuffle,
    aten.upsample_nearest2d.vec: _enlarged(0),
    aten.upsample_bilinear2d.vec: _enlarged(1),
    aten.upsample_bicubic2d.vec: _enlarged(2),
    aten.pad.default: _pad,
    aten.split_with_sizes.default: _channels_only(2),
    aten.split.Tensor: _channels_only(2),
    aten.slice.Tensor: _channels_only(1),
    aten.select.int: _channels_only(1),
}
_POINTWISE = {
    operator.getitem,
    aten.prelu.default,
    aten.cat.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.contiguous.default,
}
