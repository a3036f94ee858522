"""A convolution -> run on a device, and computed plainly in float64: the same to the last bit.

Inputs, weights and biases are small whole numbers, so that every order of adding up gives the same
sum, and a result differs from the reference's rounding by nothing at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import Activation, ConvShape, Residual
from nmcompile.runtime.native.cuda_conv import CudaBlock, CudaConv
from nmcompile.runtime.native.cuda_pack import Half, pack

NAN = 0xFFFF
Array = NDArray[Any]
# Every kernel: type, kind of weights, then outputs x rows of 16 pixels and stride.
_WIDE = ("64x16_s1", "64x8_s1", "64x4_s2")
_NARROW = ("16x16_s1", "16x8_s1")
CONV_KERNELS = [
    f"{half}_{kind}_{shape}"
    for half in ("f16", "bf16")
    for kind in ("dense", "sparse", "gathered")
    for shape in (*_WIDE, *(() if kind == "gathered" else _NARROW))
]
BLOCK_KERNELS = [
    f"block_{half}_{kind}_{shape}"
    for half in ("f16", "bf16")
    for kind in ("dense", "sparse", "gathered")
    for shape in ("64x16", "64x8")
]
_PATTERNS = {"dense": "dense", "sparse": "2:4", "gathered": "64x1:4"}


@dataclass(frozen=True)
class Case:
    """One convolution and one image size; `pattern` may be one for each level."""

    pattern: str | tuple[str, ...] = "dense"
    inputs: int = 64
    outputs: int = 64
    height: int = 19
    width: int = 21
    batch: int = 1
    kernel: int = 3
    stride: int = 1
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    half: Half = Half.FP16
    activation: Activation = Activation.NONE
    slope: float = 0.0
    residual: Residual = Residual.NONE
    shuffle: int = 1
    bias: bool = True

    @property
    def shape(self) -> ConvShape:
        """Its sizes, for packing."""
        return ConvShape((self.kernel,) * 2, (self.stride,) * 2, padding=self.padding)

    @property
    def patterns(self) -> Sequence[str]:
        """One a level."""
        return (self.pattern,) if isinstance(self.pattern, str) else self.pattern


CASES = {
    "1x1": Case("2:4", kernel=1, padding=(0,) * 4),
    "1x1 gathered": Case("64x1:4", kernel=1, padding=(0,) * 4),
    "one pixel": Case(height=1, width=1),
    "one column": Case("1:4", height=33, width=1),
    "batch": Case("1:8", batch=3, height=5, width=7),
    "no padding": Case("2:8", padding=(0,) * 4),
    "padding of one side": Case("2:4", padding=(2, 0, 0, 1)),
    "two chunks": Case("2:4", inputs=128, height=17, width=9),
    "two chunks, 1x1": Case("2:4", inputs=128, kernel=1, padding=(0,) * 4),
    "two blocks of outputs": Case("64x1:4", outputs=128, height=9),
    "128 to 128": Case("64x2:8", inputs=128, outputs=128, height=6),
    "64x2:4 as sparse": Case("64x2:4", height=9),
    "32 of 64": Case("64x32:64", height=9, width=9),
    "channels that fill no chunk": Case("2:4", inputs=40, outputs=72, height=8),
    "channels that fill no vector": Case(
        inputs=3, outputs=20, height=8, activation=Activation.RELU
    ),
    "few outputs": Case(outputs=3, residual=Residual.BEFORE_ACTIVATION),
    "few outputs, sparse": Case("1:4", outputs=16),
    "few outputs, stride 2": Case("2:4", outputs=12, stride=2, height=9),
    "stride 2, no padding": Case("2:4", stride=2, padding=(0,) * 4),
    "stride 2, 1x1": Case(stride=2, kernel=1, padding=(0,) * 4, inputs=72),
    "relu": Case(height=6, activation=Activation.RELU, bias=False),
    "leaky relu": Case("2:4", height=6, activation=Activation.LEAKY_RELU, slope=0.25),
    "residual, relu": Case(
        height=6, residual=Residual.BEFORE_ACTIVATION, activation=Activation.RELU
    ),
    "relu, residual": Case(
        height=6, residual=Residual.AFTER_ACTIVATION, activation=Activation.RELU
    ),
    "shuffle": Case("2:4", outputs=128, height=10, shuffle=2, residual=Residual.AFTER_ACTIVATION),
    "shuffle to 3": Case(outputs=12, height=9, shuffle=2, residual=Residual.AFTER_ACTIVATION),
    "shuffle by 3": Case("2:4", outputs=72, height=6, width=6, shuffle=3),
}
LEVELS = {
    "sparse": ("1:8", "1:4", "2:4"),
    "shared": ("64x1:8", "64x1:4", "64x2:4"),
    "up to dense": ("64x1:4", "2:4", "dense"),
}


def kernel_case(kernel: str) -> Case:
    """A case that a kernel of that name runs."""
    half, kind, shape = kernel.split("_", 2)
    return Case(
        _PATTERNS[kind], half=Half.BF16 if half == "bf16" else Half.FP16,
        outputs=16 if shape.startswith("16x") else 64, stride=int(shape[-1]),
    )  # fmt: skip


def kernel_blocks(kernel: str) -> tuple[Case, Case]:
    """Two convolutions that a fused kernel of that name runs."""
    _, half, kind, _ = kernel.split("_")
    case = Case(
        _PATTERNS[kind], half=Half.BF16 if half == "bf16" else Half.FP16, height=15, width=17
    )
    return (
        replace(case, activation=Activation.RELU),
        replace(case, residual=Residual.AFTER_ACTIVATION),
    )


def whole_numbers(random: np.random.Generator, *shape: int, most: int = 2) -> Array:
    """Whole numbers from -most to most, none of them zero."""
    values = random.integers(1, most + 1, shape) * random.choice([-1, 1], shape)
    return values.astype(np.float32)


def to_bits(values: Array, half: Half) -> NDArray[np.uint16]:
    """Rounds float64 to halves (to nearest, ties to even), as bits."""
    if half is Half.FP16:
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(bits: NDArray[np.uint16], half: Half) -> Array:
    """Halves, as bits -> float64."""
    if half is Half.FP16:
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def weights(case: Case, random: np.random.Generator) -> tuple[Array, Array]:
    """Weights that keep the last level's pattern, and the least level that keeps each."""
    shape = (case.outputs, case.inputs, case.kernel, case.kernel)
    weight, least = whole_numbers(random, *shape), np.full(shape, 255, np.uint8)
    noise = random.random(shape).astype(np.float32)
    kept = np.ones(shape, bool)
    for level in reversed(range(len(case.patterns))):
        kept &= Pattern.parse(case.patterns[level]).largest(noise * kept)
        least[kept] = level
    return np.where(least == 255, 0, weight).astype(np.float32), least


def convolve(case: Case, x: Array, weight: Array, bias: Array) -> Array:
    """[batch, height, width, in] -> [batch, height, width, out], in float64."""
    left, right, top, bottom = case.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(np.float64)
    high = (padded.shape[1] - case.kernel) // case.stride + 1
    wide = (padded.shape[2] - case.kernel) // case.stride + 1
    total = np.zeros((len(x), high, wide, len(weight))) + bias
    for ky in range(case.kernel):
        for kx in range(case.kernel):
            seen = padded[:, ky :: case.stride, kx :: case.stride][:, :high, :wide]
            total += seen @ weight[:, :, ky, kx].T.astype(np.float64)
    return total


def finish(case: Case, y: Array, residual: Array | float) -> Array:
    """Pixel shuffle, residual and activation."""
    batch, high, wide, channels = y.shape
    r = case.shuffle
    places = y.reshape(batch, high, wide, channels // r**2, r, r).transpose(0, 1, 4, 2, 5, 3)
    y = places.reshape(batch, high * r, wide * r, channels // r**2)
    if case.residual is Residual.BEFORE_ACTIVATION:
        y = y + residual
    slope = {Activation.NONE: 1.0, Activation.RELU: 0.0}.get(case.activation, case.slope)
    y = np.where(y < 0, slope * y, y) + 0.0  # no negative zeros
    return y + residual if case.residual is Residual.AFTER_ACTIVATION else y


def packed(case: Case, weight: Array, least: Array, bias: Array) -> bytes:
    """The case's weights, packed with all its levels."""
    return pack(
        weight, bias if case.bias else None, case.shape, case.half, activation=case.activation,
        slope=case.slope, residual=case.residual, shuffle=case.shuffle, least=least,
        levels=len(case.patterns), name="test",
    )  # fmt: skip


def check(device: Any, case: Case, level_on_device: bool = False) -> list[str]:
    """Runs every level and compares; gives the names of the kernels that ran."""
    random = np.random.default_rng(7)
    weight, least = weights(case, random)
    bias = whole_numbers(random, case.outputs) * case.bias
    x = whole_numbers(random, case.batch, case.height, case.width, case.inputs)
    conv = CudaConv(device.library, packed(case, weight, least, bias), "test")
    shape = (case.batch, *conv.output_shape(case.height, case.width))
    residual = whole_numbers(random, *shape, most=9)
    added = device.put(to_bits(residual, case.half)) if case.residual is not Residual.NONE else 0
    image = device.put(to_bits(x, case.half))
    size = (case.batch, case.height, case.width)
    for level in range(len(case.patterns)):
        y = device.put(np.full(shape, NAN, np.uint16))
        chosen = device.put(np.int32([level])) if level_on_device else 0
        conv.run(image, y, size, residual=added, level=level, level_chosen=chosen)
        expected = finish(
            case, convolve(case, x, np.where(least <= level, weight, 0), bias), residual
        )
        assert expected.shape == shape
        np.testing.assert_array_equal(device.get(y, shape), to_bits(expected, case.half))
    names = [conv.kernel(level) for level in range(conv.levels)]
    device.clear()
    return names


def check_block(device: Any, first: Case, second: Case) -> list[str]:
    """The same for two convolutions and a residual in one kernel."""
    random = np.random.default_rng(8)
    x = whole_numbers(random, first.batch, first.height, first.width, 64, most=1)
    parts, layers = [], []
    for case in (first, second):
        weight, least = weights(case, random)
        weight = np.sign(weight) * (random.random(weight.shape) < 0.25)  # small sums: exact halves
        bias = whole_numbers(random, 64)
        layers.append((weight, least, bias))
        parts.append(CudaConv(device.library, packed(case, weight, least, bias), case.half.name))
    block = CudaBlock(device.library, *parts)
    image = device.put(to_bits(x, first.half))
    for level in range(len(first.patterns)):
        y = device.put(np.full(x.shape, NAN, np.uint16))
        block.run(image, y, x.shape[:3], level=level)
        middle, expected = x, x
        for case, (weight, least, bias) in zip((first, second), layers, strict=True):
            kept = np.where(least <= level, weight, 0)
            expected = finish(case, convolve(case, middle, kept, bias), x)
            middle = from_bits(to_bits(expected, case.half), case.half)
        np.testing.assert_array_equal(device.get(y, x.shape), to_bits(expected, second.half))
    names = [block.kernel(level) for level in range(block.levels)]
    device.clear()
    return names
