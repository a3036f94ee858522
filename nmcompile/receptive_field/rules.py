"""An operation and what its inputs look at -> what its result looks at, if that is not all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from nmcompile.convs import Conv, named_arguments, read_conv
from nmcompile.receptive_field.fields import Field, NotLocalError, Surroundings

aten = torch.ops.aten

Fields = Mapping[fx.Node, Field | None]


@dataclass(frozen=True)
class Call:
    """One operation on at least one value that has pixels.

    Attributes:
        node: the operation.
        arguments: name -> argument.
        tensors: its inputs that are tensors (or lists of them).
        fields: what each value looks at; None where it has no pixels.
        around: the image's sizes.
    """

    node: fx.Node
    arguments: dict[str, Any]
    tensors: tuple[fx.Node, ...]
    fields: Fields
    around: Surroundings

    @property
    def field(self) -> Field:
        """Of the first input that has pixels."""
        return next(field for n in self.tensors if (field := self.fields.get(n)) is not None)

    @property
    def source(self) -> list[Any]:
        """The first input's sizes."""
        return list(self.tensors[0].meta["val"].shape)

    @property
    def target(self) -> list[Any]:
        """The result's sizes."""
        return list(self.node.meta["val"].shape)

    def axes(self, dims: Any) -> list[int]:
        """Axes of the first input, counted from 0; all if none are named."""
        rank = len(self.source)
        if dims is None or dims in ([], ()):
            return list(range(rank))
        return [int(item) % rank for item in (dims if isinstance(dims, (list, tuple)) else [dims])]

    def along(self, dims: Any) -> Field:
        """The same field, for what works along other axes than height and width."""
        if set(self.axes(dims)) & set(self.field.axes):
            raise NotLocalError
        return self.field


Rule = Callable[[Call], Field]


def field_of(node: fx.Node, fields: Fields, around: Surroundings) -> Field | None:
    """The field of a node's value, None if it has no pixels.

    Raises:
        NotLocalError: it may depend on more of the image than a window.
    """
    value = node.meta.get("val")
    if not isinstance(value, (Tensor, list, tuple)):
        return None  # a size, which whatever uses it has to answer for
    tensors = tuple(n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor))
    if all(fields.get(n) is None for n in tensors):
        return _constant(node, value, bool(tensors), around)
    conv = read_conv(node, constant=False)
    if conv is not None:
        return _convolved(conv, fields)
    rule = RULES.get(node.target)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = _elementwise
    if rule is None:
        raise NotLocalError
    return rule(Call(node, named_arguments(node), tensors, fields, around))


def _constant(node: fx.Node, value: Any, of_tensors: bool, around: Surroundings) -> Field | None:
    """What is made of weights and sizes alone: no pixels, or the same pixel everywhere."""
    follows = isinstance(value, Tensor) and around.depends(value)
    filling = named_arguments(node).get("fill_value") if node.target in _PICTURES else node
    if not isinstance(filling, fx.Node):
        field = around.picture(value)
        if field is None and follows:
            raise NotLocalError("follows the image's size")
        return field
    if follows or (node.all_input_nodes and not of_tensors):
        raise NotLocalError("depends on where a pixel stands, or on the image's size")
    return None


def _convolved(conv: Conv, fields: Fields) -> Field:
    field = fields.get(conv.source)
    if field is None or fields.get(conv.weight) is not None:
        raise NotLocalError("has a kernel that comes from the image")
    rank = len(conv.source.meta["val"].shape)
    if conv.op == "linear" and rank - 1 not in field.axes:
        return field
    if field.axes != (rank - 2, rank - 1) or conv.stride[0] != conv.stride[1]:
        raise NotLocalError
    sizes = conv.weight.meta["val"].shape[2:]
    left, _, top, _ = conv.padding
    before, step = (top, left), conv.stride[0]
    after = [d * (int(k) - 1) - pad for d, k, pad in zip(conv.dilation, sizes, before, strict=True)]
    if conv.op == "conv2d":
        return field.window(before, after, step)
    back, ahead = ([Fraction(n, step) for n in side] for side in (after, before))
    return field.window(back, ahead, Fraction(1, step))


def _elementwise(call: Call) -> Field:
    """All inputs lie pixel on pixel, aligned at their last axes."""
    if len(call.tensors) < len(call.node.all_input_nodes):
        raise NotLocalError("depends on the image's size")
    rank = len(call.target)
    found, plain = [], []
    for tensor in call.tensors:
        field, sizes = call.fields.get(tensor), list(tensor.meta["val"].shape)
        behind = rank - len(sizes)
        if field is None:
            plain.append([1] * behind + sizes)
        else:
            found.append(field.moved([axis + behind for axis in field.axes]))
    return _merged(found, plain)


def _merged(found: Sequence[Field], plain: Sequence[list[Any]]) -> Field:
    """The field of values laid on one another; `plain` has the sizes of those without pixels."""
    first = found[0]
    if any((field.stride, field.axes) != (first.stride, first.axes) for field in found):
        raise NotLocalError("joins pictures of different proportions")
    if any(sizes[axis] != 1 for sizes in plain for axis in first.axes):
        raise NotLocalError("adds what depends on where a pixel stands")
    low = (min(f.low[0] for f in found), min(f.low[1] for f in found))
    high = (max(f.high[0] for f in found), max(f.high[1] for f in found))
    return Field(first.stride, low, high, first.axes)


def _same(call: Call) -> Field:
    return call.field


def _along_dim(call: Call) -> Field:
    return call.along(call.arguments["dim"])


def _along_dims(call: Call) -> Field:
    return call.along(call.arguments["dims"])


def _normalized(call: Call) -> Field:
    return call.along(list(range(-len(call.arguments["normalized_shape"]), 0)))


def _reduced(call: Call) -> Field:
    dims = call.arguments.get("dim")
    field = call.along(dims)
    if call.arguments.get("keepdim"):
        return field
    return field.moved([axis - sum(gone < axis for gone in call.axes(dims)) for axis in field.axes])


def _permuted(call: Call) -> Field:
    if "dims" in call.arguments:
        order = call.axes(call.arguments["dims"])
    else:
        order = call.axes(None)
        first, second = call.axes([call.arguments["dim0"], call.arguments["dim1"]])
        order[first], order[second] = second, first
    return call.field.moved([order.index(axis) for axis in call.field.axes])


def _reshaped(call: Call) -> Field:
    """Height and width may move, but must stay axes of their own."""
    source, target, same = call.source, call.target, call.around.same
    places = []
    for axis in call.field.axes:
        fitting = [
            place
            for place in range(len(target))
            if same([target[place]], [source[axis]]) and same(target[:place], source[:axis])
        ]
        if not fitting:
            raise NotLocalError("moves pixels between axes")
        places.append(fitting[-1])
    return call.field.moved(places)


def _laid_together(call: Call) -> Field:
    found = [field for n in call.tensors if (field := call.fields.get(n)) is not None]
    plain = [list(n.meta["val"].shape) for n in call.tensors if call.fields.get(n) is None]
    return _merged(found, plain)


def _joined(call: Call) -> Field:
    """Concatenation, or a part written over: along channels only."""
    merged = _laid_together(call)
    call.along(call.arguments["dim"])
    return merged


def _stacked(call: Call) -> Field:
    """Joined along a new axis, which moves those behind it."""
    field, new = _laid_together(call), call.arguments["dim"] % len(call.target)
    return field.moved([axis + (axis >= new) for axis in field.axes])


def _cut(call: Call) -> Field:
    (axis,) = call.axes(call.arguments["dim"])
    if axis not in call.field.axes:
        return call.field
    start, end = call.arguments["start"] or 0, call.arguments["end"]
    if not isinstance(start, int) or start < 0 or call.arguments["step"] != 1:
        raise NotLocalError("cuts out a part that depends on the image's size")
    lost = -end if isinstance(end, int) and end < 0 else 0
    return call.field.window((0, 0), [start + lost if axis == a else 0 for a in call.field.axes])


def _repeated(call: Call) -> Field:
    source, target = call.source, call.target
    longer = len(target) - len(source)
    if any(not call.around.same([source[i]], [target[i + longer]]) for i in call.field.axes):
        raise NotLocalError("repeats the image")
    return call.field.moved([axis + longer for axis in call.field.axes])


def _padded(call: Call) -> Field:
    """Only what is added before a pixel moves it; a mirrored border makes both sides alike."""
    amounts = list(call.arguments.get("pad") or call.arguments["padding"])
    default = "constant" if "constant" in str(call.node.target) else "reflect"
    mode, field = call.arguments.get("mode", default), call.field
    before, lost = [0, 0], [0, 0]
    for place, axis in enumerate(field.axes):
        pair = amounts[2 * (len(call.target) - 1 - axis) :][:2]
        if pair:
            if not isinstance(pair[0], int) or pair[0] < 0:
                raise NotLocalError("pads by what depends on the image's size")
            before[place] = pair[0]
            lost[place] = max(0, -pair[1]) if isinstance(pair[1], int) else 0
    if mode == "circular":
        raise NotLocalError
    if mode != "constant":
        reach = field.reach + 2 * abs(field.stride - 1)
        field = Field(field.stride, (-reach, -reach), (reach, reach), field.axes)
    return field.window(before, [last - first for first, last in zip(before, lost, strict=True)])


def _pooled(call: Call) -> Field:
    a = call.arguments
    size, pad = _pair(a["kernel_size"]), _pair(a["padding"])
    step, dilation = _pair(a["stride"] or a["kernel_size"]), _pair(a.get("dilation", 1))
    if step[0] != step[1] or call.field.axes != (2, 3):
        raise NotLocalError
    after = [d * (k - 1) - p for d, k, p in zip(dilation, size, pad, strict=True)]
    return call.field.window(pad, after, step[0])


def _pair(value: Any) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return [int(items[0]), int(items[-1])]


def _shuffled(call: Call) -> Field:
    if call.field.axes != (2, 3):
        raise NotLocalError
    if "upscale_factor" in call.arguments:
        factor = int(call.arguments["upscale_factor"])
        return call.field.window([Fraction(factor - 1, factor)] * 2, (0, 0), Fraction(1, factor))
    factor = int(call.arguments["downscale_factor"])
    return call.field.window((0, 0), [factor - 1] * 2, factor)


def _resized(first: int, last: int, centre: Callable[[Fraction], Fraction]) -> Rule:
    """Interpolation between neighbours `first` to `last` of the pixel below a place.

    Pixel j of the result lies at j / factor + centre(factor) in the source.
    """

    def rule(call: Call) -> Field:
        a = call.arguments
        if a.get("align_corners") or call.field.axes != (2, 3):
            raise NotLocalError("ties every pixel to the image's size")
        factors: list[Fraction | None]
        given = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
        if given[0] and given[1]:
            factors = [Fraction(item).limit_denominator(64) for item in given]
        else:
            factors = [call.around.ratio(call.target[i], call.source[i]) for i in (2, 3)]
        factor = factors[0]
        if factor is None or factor != factors[1]:
            raise NotLocalError("resizes by a factor that depends on the image's size")
        shift = centre(factor)
        above = [(j / factor + shift) % 1 for j in range(factor.numerator)]
        before, after = max(above) - first - shift, last - min(above) + shift
        return call.field.window([before] * 2, [after] * 2, 1 / factor)

    return rule


def _middle(factor: Fraction) -> Fraction:
    """Pixels are points at their middles."""
    return (1 / factor - 1) / 2


def _exact(factor: Fraction) -> Fraction:
    """The pixel that holds the middle of the result's."""
    return 1 / factor / 2


# Values that are the same at every place, if the network's own weights and literals fill them.
_PICTURES = {
    aten.expand.default, aten.repeat.default, aten.full.default, aten.zeros.default,
    aten.ones.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
}  # fmt: skip
_TARGETS: dict[Rule, tuple[Any, ...]] = {
    _same: (
        aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default,
        aten.dropout.default, aten.feature_dropout.default, aten.lift_fresh_copy.default,
        aten.type_as.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other,
        aten._to_copy.default, aten._native_batch_norm_legit_no_training.default,
        aten.prelu.default, aten.zeros_like.default, aten.ones_like.default,
    ),
    _elementwise: (
        aten.hardswish.default, aten.log_sigmoid.default, aten.rsub.Tensor,
        aten.masked_fill.Tensor, aten.where.ScalarOther, aten.where.ScalarSelf,
        aten.where.Scalar, aten.copy.default, aten.fill.Tensor, aten.fill.Scalar,
        aten.expand_as.default,
    ),
    _along_dim: (
        aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten.glu.default,
        aten.cumsum.default, aten.chunk.default, aten.split.Tensor, aten.split.sizes,
        aten.split_with_sizes.default, aten.tensor_split.sections, aten.narrow.default,
        aten.index_select.default,
    ),
    _along_dims: (aten.flip.default, aten.roll.default),
    _normalized: (aten.layer_norm.default, aten.native_layer_norm.default),
    _reduced: (
        aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
        aten.max.dim, aten.min.dim, aten.var.dim, aten.var.correction, aten.std.dim,
        aten.std.correction, aten.var_mean.correction, aten.linalg_vector_norm.default,
        aten.norm.ScalarOpt_dim, aten.logsumexp.default, aten.prod.dim_int,
        aten.select.int, aten.unbind.int,
    ),
    _permuted: (aten.permute.default, aten.transpose.int),
    _reshaped: (
        aten.view.default, aten._unsafe_view.default, aten.reshape.default,
        aten.flatten.using_ints, aten.unflatten.int, aten.squeeze.dim, aten.squeeze.dims,
        aten.squeeze.default, aten.unsqueeze.default,
    ),
    _stacked: (aten.stack.default,),
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
    _resized(0, 0, lambda _: Fraction(0)): (
        aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default,
    ),
    _resized(0, 0, _exact): (
        aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact2d.default,
    ),
    _resized(0, 1, _middle): (aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default),
    _resized(-1, 2, _middle): (aten.upsample_bicubic2d.vec, aten.upsample_bicubic2d.default),
}  # fmt: skip
RULES: dict[Any, Rule] = {target: rule for rule, targets in _TARGETS.items() for target in targets}
