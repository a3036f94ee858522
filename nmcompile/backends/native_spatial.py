"""ATen operators that move or gather pixels -> steps of a native program; one function for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from nmcompile.backends.as_conv import LARGEST_FACTOR, averaged, thinned, unshuffled
from nmcompile.backends.native_ops import argument, handles, pair
from nmcompile.backends.steps import Step, Tensor
from nmcompile.runtime.native.blob import Border, ConvShape, Kind
from nmcompile.shapes import divides

if TYPE_CHECKING:
    from nmcompile.backends.native import Lowering

aten = torch.ops.aten
_BORDERS = {
    "constant": Border.ZEROS,
    "reflect": Border.REFLECT,
    "replicate": Border.REPLICATE,
}


@handles(aten.pixel_shuffle.default)
def _pixel_shuffle(low: Lowering, node: fx.Node) -> None:
    source, factor = low.tensor(node.args[0]), int(str(node.args[1]))
    output = Tensor(source.channels // factor**2)
    low.add(node, Step(Kind.PIXEL_SHUFFLE, [source], output, (factor,)))


@handles(aten.pixel_unshuffle.default)
def _pixel_unshuffle(low: Lowering, node: fx.Node) -> bool | None:
    channels, factor = low.tensor(node.args[0]).channels, int(str(node.args[1]))
    if factor > LARGEST_FACTOR:
        return False
    low.convolve(node, *unshuffled(channels, factor))
    return None


@handles(aten.avg_pool2d.default)
def _average_pool(low: Lowering, node: fx.Node) -> bool | None:
    kernel, padding = pair(node.args[1]), pair(argument(node, 3, "padding", 0))
    stride = pair(argument(node, 2, "stride") or kernel)
    counts_zeros = argument(node, 5, "count_include_pad", True) or padding == (0, 0)
    divisor = argument(node, 6, "divisor_override")
    if argument(node, 4, "ceil_mode", False) or divisor is not None or not counts_zeros:
        return False
    if max(stride) > LARGEST_FACTOR:
        return False
    low.convolve(node, *averaged(low.tensor(node.args[0]).channels, kernel, stride, padding))
    return None


@handles(
    aten.pad.default, aten.constant_pad_nd.default, aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
)  # fmt: skip
def _pad(low: Lowering, node: fx.Node) -> bool | None:
    """Only by fixed numbers of rows and columns, of zeros where they are constant."""
    known: dict[Any, str] = {
        aten.constant_pad_nd.default: "constant",
        aten.reflection_pad2d.default: "reflect",
        aten.replication_pad2d.default: "replicate",
    }
    mode = known.get(node.target) or argument(node, 2, "mode", "constant")
    value = argument(node, 3 if node.target is aten.pad.default else 2, "value")
    pads = list(node.args[1]) if isinstance(node.args[1], (list, tuple)) else []
    if mode not in _BORDERS or len(pads) > 4 or not all(isinstance(n, int) for n in pads):
        return False
    if mode == "constant" and value:
        return False
    left, right, top, bottom = [*pads, 0, 0, 0, 0][:4]
    low.frame(node, (left, right, top, bottom), _BORDERS[mode])
    return None


@handles(aten.upsample_nearest2d.vec)
def _nearest(low: Lowering, node: fx.Node) -> bool | None:
    factors = argument(node, 2, "scale_factors")
    if not factors or factors[0] != factors[1]:
        return False
    source, larger, smaller = low.tensor(node.args[0]), factors[0], 1 / factors[0]
    if larger == int(larger) and larger <= LARGEST_FACTOR:
        step = Step(Kind.NEAREST, [source], Tensor(source.channels), (int(larger),))
        low.add(node, step)
    elif smaller == int(smaller) and smaller <= LARGEST_FACTOR:
        if not divides(low.program, int(smaller), node.all_input_nodes[0]):
            return False  # the last row would be one that a stride takes and torch leaves out
        low.convolve(node, *thinned(source.channels, int(smaller)))
    else:
        return False
    return None


@handles(aten.upsample_bilinear2d.vec)
def _bilinear(low: Lowering, node: fx.Node) -> bool | None:
    """To the size of another image, F.interpolate(x, y.shape[2:]), or larger by a whole factor."""
    source, factors = low.tensor(node.args[0]), argument(node, 3, "scale_factors")
    aligned = int(bool(argument(node, 2, "align_corners", False)))
    like = _image_of_size(low, argument(node, 1, "output_size"))
    if like is not None:
        step = Step(Kind.BILINEAR, [source, like], Tensor(source.channels), (aligned,))
    elif factors and factors[0] == factors[1] and factors[0] in range(1, LARGEST_FACTOR + 1):
        params = (aligned, int(factors[0]))
        step = Step(Kind.BILINEAR, [source], Tensor(source.channels), params)
    else:
        return False
    low.add(node, step)
    return None


def _image_of_size(low: Lowering, sizes: Any) -> Tensor | None:
    if not isinstance(sizes, (list, tuple)) or len(sizes) != 2:
        return None
    for size in sizes:
        if not isinstance(size, fx.Node) or size.target is not aten.sym_size.int:
            return None
    height, width = (size.args for size in sizes)
    if height[0] is not width[0] or (height[1], width[1]) not in ((2, 3), (-2, -1)):
        return None
    return low.tensor(height[0])


@handles(aten.max_pool2d.default)
def _max_pool(low: Lowering, node: fx.Node) -> bool | None:
    kernel = pair(node.args[1])
    stride = pair(argument(node, 2, "stride") or kernel)
    pad_y, pad_x = pair(argument(node, 3, "padding", 0))
    if pair(argument(node, 4, "dilation", 1)) != (1, 1) or argument(node, 5, "ceil_mode", False):
        return False
    shape = ConvShape(kernel, stride, (1, 1), (pad_x, pad_x, pad_y, pad_y))
    source = low.tensor(node.args[0])
    low.add(node, Step(Kind.MAX_POOL, [source], Tensor(source.channels), shape.params()))
    return None
