"""Operations that are convolutions in disguise -> weights and shapes of plain convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmcompile.runtime.native.blob import ConvShape, Family, Precision, conv_data

LARGEST_FACTOR = 16  # of strides and pixel shuffles, as load.cpp has it

_Array = NDArray[np.float32]


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution as a convolution and a pixel shuffle.

    Attributes:
        weight: [out * factor^2, in / groups, kernel of the phases].
        shape: of the convolution.
        factor: of the shuffle; 1 for none.
        crop: rows and columns at the end of the shuffled image that do not belong to it.
        has_zeros: whether phases see less than the whole kernel, so that zeros should be left out.
    """

    weight: _Array
    shape: ConvShape
    factor: int
    crop: tuple[int, int]
    has_zeros: bool


@dataclass(frozen=True)
class _Axis:
    """One axis: taps are (phase of the output, place in the new kernel, place in the old one)."""

    taps: tuple[tuple[int, int, int], ...]
    kernel: int
    before: int
    after: int
    crop: int


def transposed(
    weight: _Array,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    output_padding: tuple[int, int],
    groups: int,
) -> Transposed | None:
    """A transposed convolution's phases, computed side by side and interleaved.

    Args:
        weight: [out, in / groups, kh, kw], as the plan has it.
        stride: (y, x).
        dilation: (y, x).
        padding: left, right, top, bottom, as the operator's argument has it.
        output_padding: (y, x), rows and columns at the end that the stride leaves open.
        groups: of the convolution.

    Returns:
        None where the strides differ.
    """
    if stride[0] != stride[1]:
        return None
    factor, (left, _, top, _) = stride[0], padding
    rows, columns = (
        _axis(weight.shape[2 + axis], factor, dilation[axis], pad, output_padding[axis])
        for axis, pad in enumerate((top, left))
    )
    outputs, inputs = weight.shape[:2]
    phases = np.zeros((outputs, factor, factor, inputs, rows.kernel, columns.kernel), np.float32)
    for phase_y, y, from_y in rows.taps:
        for phase_x, x, from_x in columns.taps:
            phases[:, phase_y, phase_x, :, y, x] = weight[:, :, from_y, from_x]
    kernel = (rows.kernel, columns.kernel)
    shape = ConvShape(
        kernel, padding=(columns.before, columns.after, rows.before, rows.after), groups=groups
    )
    merged = phases.reshape(outputs * factor**2, inputs, *kernel)
    zeros = len(rows.taps) * len(columns.taps) < factor**2 * kernel[0] * kernel[1]
    return Transposed(merged, shape, factor, (rows.crop, columns.crop), zeros)


def phases(
    found: Transposed,
    bias: _Array | None,
    family: Family,
    precision: Precision = Precision.FP32,
) -> tuple[tuple[int, ...], tuple[NDArray[np.generic] | None, ...]]:
    """The params and data of the convolution.

    The phases' own zeros are left out, but for 3x3 ones, whose dense kernel needs fewer products.
    """
    if family is Family.DENSE and found.has_zeros and found.shape.kernel != (3, 3):
        family = Family.SPARSE
    each = None if bias is None else np.repeat(bias, found.factor**2)
    data = conv_data(found.weight, each, family is not Family.DENSE)
    return found.shape.params(family=family, precision=precision), data


def _axis(kernel: int, stride: int, dilation: int, padding: int, extra: int) -> _Axis:
    """Output stride * q + phase reads input q + offset through tap k, for all q."""
    offsets = [
        (phase, (phase + padding - k * dilation) // stride, k)
        for phase in range(stride)
        for k in range(kernel)
        if (phase + padding - k * dilation) % stride == 0
    ]
    # The output is stride * input + more pixels long; whole steps of the phases cover it. The
    # window reaches at least as far as that needs padding.
    more = dilation * (kernel - 1) + 1 + extra - stride - 2 * padding
    steps = -(-more // stride)
    first = min(0, -steps, *(offset for _, offset, _ in offsets))
    last = max(0, -steps, *(offset for _, offset, _ in offsets))
    taps = tuple((phase, offset - first, k) for phase, offset, k in offsets)
    return _Axis(taps, last - first + 1, -first, steps + last, steps * stride - more)


def unshuffled(channels: int, factor: int) -> tuple[_Array, ConvShape]:
    """Pixel unshuffle: each output picks one pixel of its channel's block."""
    weight = np.zeros((channels, factor**2, 1, factor, factor), np.float32)
    for place in range(factor**2):
        weight[:, place, 0, place // factor, place % factor] = 1.0
    shape = ConvShape((factor, factor), (factor, factor), groups=channels)
    return weight.reshape(channels * factor**2, 1, factor, factor), shape


def thinned(channels: int, factor: int) -> tuple[_Array, ConvShape]:
    """Nearest-neighbour reduction: every factor-th pixel."""
    shape = ConvShape((1, 1), (factor, factor), groups=channels)
    return np.ones((channels, 1, 1, 1), np.float32), shape


def mixed(channels: int) -> tuple[_Array, ConvShape]:
    """The mean over channels."""
    return np.full((1, channels, 1, 1), 1 / channels, np.float32), ConvShape((1, 1))


def averaged(
    channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[_Array, ConvShape]:
    """Average pooling that counts the zeros around the image."""
    (pad_y, pad_x), size = padding, kernel[0] * kernel[1]
    shape = ConvShape(kernel, stride, padding=(pad_x, pad_x, pad_y, pad_y), groups=channels)
    return np.full((channels, 1, *kernel), 1 / size, np.float32), shape
