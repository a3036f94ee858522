"""Every operation of a native program, written plainly in NumPy, in double precision."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nmcompile.runtime.native.blob import Activation, ConvShape

Array = NDArray[np.float64]


def conv2d(x: Array, weight: Array, bias: Array | None, shape: ConvShape) -> Array:
    """[N, C, H, W] and [O, C/groups, kh, kw] -> [N, O, H', W'], zeros around the image."""
    left, right, top, bottom = shape.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    per_group, outputs = weight.shape[1], weight.shape[0] // shape.groups
    size = [
        (length - dilation * (kernel - 1) - 1) // stride + 1
        for length, kernel, dilation, stride in zip(
            padded.shape[2:], shape.kernel, shape.dilation, shape.stride, strict=True
        )
    ]
    result = np.zeros((x.shape[0], weight.shape[0], *size))
    for ky in range(shape.kernel[0]):
        for kx in range(shape.kernel[1]):
            rows = slice(ky * shape.dilation[0], None, shape.stride[0])
            columns = slice(kx * shape.dilation[1], None, shape.stride[1])
            seen = padded[:, :, rows, columns][:, :, : size[0], : size[1]]
            for group in range(shape.groups):
                own = slice(group * outputs, (group + 1) * outputs)
                part = seen[:, group * per_group : (group + 1) * per_group]
                result[:, own] += np.einsum("nchw,oc->nohw", part, weight[own, :, ky, kx])
    return result if bias is None else result + bias[:, None, None]


def conv_transpose2d(
    x: Array,
    weight: Array,
    stride: int,
    dilation: int,
    padding: int,
    output_padding: int,
    groups: int,
) -> Array:
    """[N, C, H, W] and [O, C/groups, kh, kw] -> [N, O, H', W']: each pixel adds its kernel."""
    batch, _, height, width = x.shape
    reach = [dilation * (size - 1) + 1 for size in weight.shape[2:]]
    full = [(n - 1) * stride + r for n, r in zip((height, width), reach, strict=True)]
    result = np.zeros((batch, weight.shape[0], *(n + output_padding for n in full)))
    per_group, outputs = weight.shape[1], weight.shape[0] // groups
    for ky in range(weight.shape[2]):
        for kx in range(weight.shape[3]):
            rows = slice(ky * dilation, ky * dilation + (height - 1) * stride + 1, stride)
            columns = slice(kx * dilation, kx * dilation + (width - 1) * stride + 1, stride)
            for group in range(groups):
                own = slice(group * outputs, (group + 1) * outputs)
                part = x[:, group * per_group : (group + 1) * per_group]
                added = np.einsum("nchw,oc->nohw", part, weight[own, :, ky, kx])
                result[:, own, rows, columns] += added
    sizes = [n + output_padding - padding for n in full]
    return result[:, :, padding : sizes[0], padding : sizes[1]]


def activate(
    x: Array, kind: Activation, limits: tuple[float, float], slopes: Array | None
) -> Array:
    """An activation; `limits` are slope, or lowest and highest; `slopes` one a channel."""
    slope = limits[0] if slopes is None else slopes[:, None, None]
    forms: dict[Activation, Callable[[], Array]] = {
        Activation.NONE: lambda: x,
        Activation.RELU: lambda: np.maximum(x, 0),
        Activation.LEAKY_RELU: lambda: np.where(x < 0, x * slope, x),
        Activation.PRELU: lambda: np.where(x < 0, x * slope, x),
        Activation.SILU: lambda: x * _sigmoid(x),
        Activation.SIGMOID: lambda: _sigmoid(x),
        Activation.GELU: lambda: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
        Activation.GELU_TANH: lambda: (
            0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        ),
        Activation.TANH: lambda: np.tanh(x),
        Activation.CLAMP: lambda: np.clip(x, *limits),
        Activation.ELU: lambda: np.where(x < 0, slope * np.expm1(np.minimum(x, 0)), x),
        Activation.MISH: lambda: x * np.tanh(np.log1p(np.exp(x))),
        Activation.HARD_SWISH: lambda: x * np.clip(x + 3, 0, 6) / 6,
        Activation.SQUARE_ROOT: lambda: np.sqrt(x),
    }
    return forms[kind]()


def pixel_shuffle(x: Array, factor: int) -> Array:
    """[N, C r r, H, W] -> [N, C, H r, W r]."""
    batch, channels, height, width = x.shape
    split = x.reshape(batch, channels // factor**2, factor, factor, height, width)
    moved = split.transpose(0, 1, 4, 2, 5, 3)
    return moved.reshape(batch, channels // factor**2, height * factor, width * factor)


def nearest(x: Array, factor: int) -> Array:
    """Every pixel `factor` times in both directions."""
    return x.repeat(factor, 2).repeat(factor, 3)


def bilinear(x: Array, size: tuple[int, int], align_corners: bool) -> Array:
    """Linear interpolation to [N, C, *size], as torch has it."""
    result = x
    for axis, length in zip((2, 3), size, strict=True):
        known = result.shape[axis]
        at = np.arange(length)
        if align_corners:
            position = at * ((known - 1) / (length - 1) if length > 1 else 0.0)
        else:
            position = np.maximum((at + 0.5) * known / length - 0.5, 0)
        low = np.minimum(position.astype(int), known - 1)
        high = np.minimum(low + 1, known - 1)
        weight = (position - low).reshape([-1 if i == axis else 1 for i in range(4)])
        lower, upper = result.take(low, axis), result.take(high, axis)
        result = lower * (1 - weight) + upper * weight
    return result


def max_pool(x: Array, shape: ConvShape) -> Array:
    """The largest value of each window; what lies outside the image does not count."""
    left, right, top, bottom = shape.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, shape.kernel, (2, 3))
    return windows[:, :, :: shape.stride[0], :: shape.stride[1]].max((-1, -2))


def moments(x: Array, deviation: bool, correction: int) -> Array:
    """Mean or standard deviation of every channel, [N, C, 1, 1]."""
    if not deviation:
        return x.mean((2, 3), keepdims=True)
    squares = ((x - x.mean((2, 3), keepdims=True)) ** 2).sum((2, 3), keepdims=True)
    return np.sqrt(squares / (x.shape[2] * x.shape[3] - correction))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
