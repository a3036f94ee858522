"""An operation and what its inputs look at -> what its result looks at, if that is not all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from nmcompile.convs import Conv, named_arguments, read_conv
from nmcompile.receptive_field.fields import Field, NotLocal, Surroundings

aten = torch.ops.aten
Arguments = dict[str, Any]
Fields = Mapping[fx.Node, Field | None]
Rule = Callable[[fx.Node, Arguments, Field, Fields, Surroundings], Field]


def field_of(node: fx.Node, fields: Fields, around: Surroundings) -> Field | None:
    """The field of a node's value, None if it has no pixels.

    Raises:
        NotLocal: it may depend on more of the image than a window.
    """
    value = node.meta.get("val")
    if not isinstance(value, (Tensor, list, tuple)):
        return None  # a size, which whatever uses it has to answer for
    known = [field for n in node.all_input_nodes if (field := fields.get(n)) is not None]
    if not known:
        return _constant(node, value, around)
    arguments = named_arguments(node)
    conv = read_conv(node, constant=False)
    if conv is not None:
        return _convolved(conv, fields)
    rule = RULES.get(node.target)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = _elementwise
    if rule is None:
        raise NotLocal
    return rule(node, arguments, known[0], fields, around)


def _constant(node: fx.Node, value: Any, around: Surroundings) -> Field | None:
    """What is made of weights and sizes alone: no pixels, or the same pixel everywhere."""
    follows = isinstance(value, Tensor) and around.depends(value)
    made_of_sizes = any(not isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes)
    if node.target in _PICTURES and not _has_node(node, "fill_value"):
        field = around.picture(value)
        if field is None and follows:
            raise NotLocal("follows the image's size")
        return field
    if follows or (made_of_sizes and not any(_is_tensor(n) for n in node.all_input_nodes)):
        raise NotLocal("depends on where a pixel stands, or on the image's size")
    return None


def _has_node(node: fx.Node, name: str) -> bool:
    return isinstance(named_arguments(node).get(name), fx.Node)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _convolved(conv: Conv, fields: Fields) -> Field:
    field = fields.get(conv.source)
    if field is None or fields.get(conv.weight) is not None:
        raise NotLocal("has a kernel that comes from the image")
    rank = len(conv.source.meta["val"].shape)
    if conv.op == "linear":
        return _apart(field, [rank - 1])
    if field.axes != (rank - 2, rank - 1) or conv.stride[0] != conv.stride[1]:
        raise NotLocal
    height, width = (int(size) for size in conv.weight.meta["val"].shape[2:])
    left, right, top, bottom = conv.padding
    step = conv.stride[0]
    reaches = [d * (k - 1) for d, k in zip(conv.dilation, (height, width), strict=True)]
    if conv.op == "conv2d":
        after = max(reaches[0] - top, reaches[1] - left)
        return field.window(max(top, left), after, step)
    before = max(Fraction(reaches[0] - top, step), Fraction(reaches[1] - left, step))
    return field.window(before, max(Fraction(top, step), Fraction(left, step)), Fraction(1, step))


def _apart(field: Field, axes: Sequence[int]) -> Field:
    """For operations along other axes than height and width."""
    if set(axes) & set(field.axes):
        raise NotLocal
    return field


def _axes(node: fx.Node, dims: Any) -> list[int]:
    rank = len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(rank))
    items = dims if isinstance(dims, (list, tuple)) else [dims]
    return [int(item) % rank for item in items]


def _elementwise(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    """All inputs lie pixel on pixel, aligned at their last axes."""
    rank = len(node.meta["val"].shape)
    found: list[Field] = []
    for source in node.all_input_nodes:
        value = source.meta.get("val")
        if not isinstance(value, Tensor):
            raise NotLocal("depends on the image's size")
        own, behind = fields.get(source), len(value.shape) - rank
        if own is not None:
            found.append(own.moved([axis - behind for axis in own.axes]))
    merged = _merged(found)
    for source in node.all_input_nodes:
        sizes = source.meta["val"].shape
        places = [axis + len(sizes) - rank for axis in merged.axes]
        if fields.get(source) is None and any(sizes[p] != 1 for p in places if p >= 0):
            raise NotLocal("adds what depends on where a pixel stands")
    return merged


def _merged(found: Sequence[Field]) -> Field:
    first = found[0]
    if any((field.stride, field.axes) != (first.stride, first.axes) for field in found):
        raise NotLocal("joins pictures of different proportions")
    low, high = min(field.low for field in found), max(field.high for field in found)
    return Field(first.stride, low, high, first.axes)


def _same(node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings) -> Field:
    return field


def _along(name: str) -> Rule:
    """Works along the axes that argument `name` lists, and keeps them."""

    def rule(
        node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
    ) -> Field:
        return _apart(field, _axes(node, a[name]))

    return rule


def _reduced(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    axes = _axes(node, a.get("dim"))
    _apart(field, axes)
    if a.get("keepdim"):
        return field
    return field.moved([axis - sum(gone < axis for gone in axes) for axis in field.axes])


def _layer_norm(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    return _apart(field, _axes(node, list(range(-len(a["normalized_shape"]), 0))))


def _permuted(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    if "dims" in a:
        order = _axes(node, a["dims"])
    else:
        order = list(range(len(node.meta["val"].shape)))
        first, second = _axes(node, [a["dim0"], a["dim1"]])
        order[first], order[second] = second, first
    return field.moved([order.index(axis) for axis in field.axes])


def _reshaped(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    """Height and width may move, but must stay axes of their own."""
    source, target = (list(n.meta["val"].shape) for n in (node.all_input_nodes[0], node))
    places = []
    for axis in field.axes:
        match = (
            place
            for place in range(len(target))
            if around.same([target[place]], [source[axis]])
            and around.same(target[:place], source[:axis])
        )
        place = next(match, None)
        if place is None:
            raise NotLocal("moves pixels between axes")
        places.append(place)
    return field.moved(places)


def _removed(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    return _reduced(node, {"dim": a["dim"]}, field, fields, around)


def _joined(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    """Concatenation, or a part written over: along channels only."""
    tensors = [n for n in node.all_input_nodes if _is_tensor(n)]
    found = [own for n in tensors if (own := fields.get(n)) is not None]
    merged = _apart(_merged(found), [a["dim"] % len(tensors[0].meta["val"].shape)])
    for tensor in tensors:
        sizes = tensor.meta["val"].shape
        if fields.get(tensor) is None and any(sizes[axis] != 1 for axis in merged.axes):
            raise NotLocal("adds what depends on where a pixel stands")
    return merged


def _cut(node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings) -> Field:
    if not set(_axes(node, a["dim"])) & set(field.axes):
        return field
    start, end = a["start"] or 0, a["end"]
    if not isinstance(start, int) or start < 0 or a["step"] != 1:
        raise NotLocal("cuts out a part that depends on the image's size")
    lost = -end if isinstance(end, int) and end < 0 else 0
    return field.window(0, start + lost, 1)


def _repeated(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    source, target = (n.meta["val"].shape for n in (node.all_input_nodes[0], node))
    longer = len(target) - len(source)
    if any(not around.same([source[i]], [target[i + longer]]) for i in field.axes):
        raise NotLocal("repeats the image")
    return field.moved([axis + longer for axis in field.axes])


def _padded(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    """Only what is added before a pixel moves it; a mirrored border makes both sides alike."""
    amounts = list(a.get("pad") or a["padding"])
    mode = a.get("mode") or ("reflect" if "reflection" in str(node.target) else "replicate")
    rank = len(node.meta["val"].shape)
    before, lost = [0, 0], 0
    for place, axis in enumerate(field.axes):
        behind = 2 * (rank - 1 - axis)
        if behind + 1 < len(amounts):
            first, last = amounts[behind : behind + 2]
            if not isinstance(first, int) or first < 0:
                raise NotLocal("pads by what depends on the image's size")
            before[place] = first
            lost = max(lost, -last if isinstance(last, int) else 0)
    if mode == "circular":
        raise NotLocal
    if mode != "constant":
        reach = max(-field.low, field.high) + 2 * abs(field.stride - 1)
        field = Field(field.stride, -reach, reach, field.axes)
    return field.window(max(before), lost - min(before), 1)


def _pooled(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    size, pad = _pair(a["kernel_size"]), _pair(a["padding"])
    step = _pair(a["stride"] or a["kernel_size"])
    dilation = _pair(a.get("dilation", 1))
    if step[0] != step[1] or field.axes != (2, 3):
        raise NotLocal
    reaches = [d * (k - 1) - p for d, k, p in zip(dilation, size, pad, strict=True)]
    return field.window(max(pad), max(reaches), step[0])


def _pair(value: Any) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return [int(items[0]), int(items[-1])]


def _shuffled(
    node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
) -> Field:
    if field.axes != (2, 3):
        raise NotLocal
    if "upscale_factor" in a:
        factor = int(a["upscale_factor"])
        return field.window(Fraction(factor - 1, factor), 0, Fraction(1, factor))
    factor = int(a["downscale_factor"])
    return field.window(0, factor - 1, factor)


def _resized(taps: int) -> Rule:
    """Interpolation by `taps` neighbours on either side; 0 takes the pixel itself."""

    def rule(
        node: fx.Node, a: Arguments, field: Field, fields: Fields, around: Surroundings
    ) -> Field:
        if a.get("align_corners") or field.axes != (2, 3):
            raise NotLocal("ties every pixel to the image's size")
        given = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
        if given[0] and given[1]:
            factors = [Fraction(item).limit_denominator(64) for item in given]
        else:
            target, source = (n.meta["val"].shape for n in (node, node.all_input_nodes[0]))
            factors = [around.ratio(target[axis], source[axis]) for axis in (2, 3)]
        factor = factors[0]
        if factor is None or factor != factors[1]:
            raise NotLocal("resizes by a factor that depends on the image's size")
        if taps == 0:
            return field.window(max(Fraction(0), 1 - 1 / factor), 0, 1 / factor)
        centre = (1 / factor - 1) / 2  # where pixel 0 of the result lies in the source
        return field.window(taps - centre, taps + centre, 1 / factor)

    return rule


_PICTURES = {
    aten.expand.default, aten.repeat.default, aten.full.default, aten.zeros.default,
    aten.ones.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
}  # fmt: skip
_ALIKE: dict[Rule, tuple[Any, ...]] = {
    _same: (
        aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default,
        aten.prelu.default, aten.dropout.default, aten.feature_dropout.default, aten.lift_fresh_copy.default,
        aten.type_as.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other,
        aten._to_copy.default, aten._native_batch_norm_legit_no_training.default,
        aten.zeros_like.default, aten.ones_like.default, aten.full_like.default,
    ),
    _elementwise: (
        aten.hardswish.default, aten.log_sigmoid.default, aten.rsub.Tensor,
        aten.masked_fill.Tensor, aten.where.ScalarOther, aten.where.ScalarSelf,
        aten.where.Scalar, aten.copy.default, aten.fill.Tensor, aten.fill.Scalar,
        aten.expand_as.default,
    ),
    _along("dim"): (
        aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten.glu.default,
        aten.cumsum.default, aten.chunk.default, aten.split.Tensor,
        aten.split_with_sizes.default, aten.tensor_split.sections, aten.narrow.default,
        aten.index_select.default,
    ),
    _along("dims"): (aten.flip.default, aten.roll.default),
    _reduced: (
        aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
        aten.max.dim, aten.min.dim, aten.var.dim, aten.var.correction, aten.std.dim,
        aten.std.correction, aten.var_mean.correction, aten.linalg_vector_norm.default,
        aten.norm.ScalarOpt_dim, aten.logsumexp.default, aten.argmax.default, aten.prod.dim_int,
    ),
    _layer_norm: (aten.layer_norm.default, aten.native_layer_norm.default),
    _permuted: (aten.permute.default, aten.transpose.int),
    _reshaped: (
        aten.view.default, aten._unsafe_view.default, aten.reshape.default,
        aten.flatten.using_ints, aten.unflatten.int, aten.squeeze.dim, aten.squeeze.dims,
        aten.squeeze.default, aten.unsqueeze.default,
    ),
    _removed: (aten.select.int, aten.unbind.int),
    _joined: (aten.cat.default, aten.slice_scatter.default, aten.select_scatter.default),
    _cut: (aten.slice.Tensor,),
    _repeated: (aten.expand.default, aten.repeat.default),
    _padded: (
        aten.pad.default, aten.constant_pad_nd.default, aten.reflection_pad2d.default,
        aten.replication_pad2d.default,
    ),
    _pooled: (
        aten.max_pool2d.default, aten.max_pool2d_with_indices.default, aten.avg_pool2d.default,
    ),
    _shuffled: (aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
    _resized(0): (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default),
    _resized(1): (
        aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default,
        aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact2d.default,
    ),
    _resized(2): (aten.upsample_bicubic2d.vec, aten.upsample_bicubic2d.default),
}  # fmt: skip
RULES: dict[Any, Rule] = {target: rule for rule, targets in _ALIKE.items() for target in targets}
