"""Operations and arrays -> the bytes of a packed program, as cpu/format.h lays them out."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x504B4D4E
_VERSION = 5
_NONE = 0xFFFFFFFF
_HEADER = struct.Struct("<IIQIIIIIIII")
_VALUE = struct.Struct("<III")
_OPERATION = struct.Struct("<I2IIII14i4f10Q")
_ALIGNMENT = 64
_DATA_PARTS = 5
MOST_LEVELS = 8


class Isa(enum.IntEnum):
    """The most modern kernels that a program may use; each family includes those before it."""

    BEST = 0
    PORTABLE = 1
    AVX2 = 2
    AVX512 = 3
    AVX512_BF16 = 4
    AVX512_FP16 = 5
    AMX = 6


class Kind(enum.IntEnum):
    """What an operation does."""

    CONV2D = 0
    POINTWISE = 1
    PIXEL_SHUFFLE = 2
    NEAREST = 3
    BILINEAR = 4
    MAX_POOL = 5
    MOMENTS = 6
    PAD = 7


class Activation(enum.IntEnum):
    """What is applied to every result."""

    NONE = 0
    RELU = 1
    LEAKY_RELU = 2
    PRELU = 3
    SILU = 4
    SIGMOID = 5
    GELU = 6
    GELU_TANH = 7
    TANH = 8
    CLAMP = 9
    ELU = 10
    MISH = 11
    HARD_SWISH = 12
    SQUARE_ROOT = 13


class Pointwise(enum.IntEnum):
    """Forms of a pointwise operation of one or two operands.

    A gate has one value a channel; the second operand of SUM, PRODUCT and QUOTIENT as many
    channels as the first, or one for all.
    """

    AFFINE = 0
    SUM = 1
    PRODUCT = 2
    GATE = 3
    GATE_SUM = 4
    QUOTIENT = 5


class Border(enum.IntEnum):
    """What a pad puts around an image; a reflection leaves out the edge itself."""

    ZEROS = 0
    REFLECT = 1
    REPLICATE = 2


class Residual(enum.IntEnum):
    """Where a convolution adds its second input."""

    NONE = 0
    BEFORE_ACTIVATION = 1
    AFTER_ACTIVATION = 2


class Family(enum.IntEnum):
    """Which weights a convolution keeps: all, any, or those that outputs side by side share."""

    DENSE = 0
    SPARSE = 1
    SHARED = 2


class Precision(enum.IntEnum):
    """What a convolution may round inputs and weights to, where its kernels gain by it."""

    FP32 = 0
    BF16 = 1
    FP16 = 2


def family_of(v: int, dense: bool) -> Family:
    """The family of a pattern whose mask `v` outputs share."""
    if dense:
        return Family.DENSE
    return Family.SHARED if v > 1 else Family.SPARSE


@dataclass(frozen=True)
class Value:
    """Some consecutive channels of a buffer."""

    buffer: int
    first: int
    channels: int


@dataclass(frozen=True)
class Operation:
    """One step of a program; `params`, `scalars` and `data` mean what cpu/format.h says.

    Attributes:
        kind: what it does.
        inputs: one or two values, by index.
        output: a value, by index.
        params: whole numbers.
        scalars: activation's two, then alpha and beta.
        data: weights, mask, bias, slopes, levels; None where there is none.
        activation: what is applied to the result.
        shuffle: factor of a pixel shuffle in a convolution's store; the output has its channels.
    """

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    params: tuple[int, ...] = ()
    scalars: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    data: tuple[NDArray[np.generic] | None, ...] = ()
    activation: Activation = Activation.NONE
    shuffle: int = 1


def pack(
    buffers: Sequence[int],
    values: Sequence[Value],
    operations: Sequence[Operation],
    inputs: int,
    outputs: Sequence[int],
    isa: Isa = Isa.BEST,
    levels: int = 1,
) -> bytes:
    """Packs a program.

    Args:
        buffers: channels of each.
        values: views of the buffers; the program's inputs come first.
        operations: in the order they run.
        inputs: how many of the values are inputs.
        outputs: values that the program gives.
        isa: the most that its kernels may use.
        levels: how many it has; every data of levels is made for so many.
    """
    counts = (len(buffers), len(values), len(operations), inputs, len(outputs), isa, levels, 0)
    tables = struct.pack(f"<{len(buffers)}I", *buffers)
    tables += b"".join(_VALUE.pack(value.buffer, value.first, value.channels) for value in values)
    tables += struct.pack(f"<{len(outputs)}I", *outputs)
    data = bytearray()
    tables += b"".join(_operation(operation, data) for operation in operations)
    padding = -(_HEADER.size + len(tables)) % _ALIGNMENT
    size = _HEADER.size + len(tables) + padding + len(data)
    return _HEADER.pack(_MAGIC, _VERSION, size, *counts) + tables + bytes(padding) + bytes(data)


def _operation(operation: Operation, data: bytearray) -> bytes:
    extents: list[int] = []
    for part in [*operation.data, *[None] * _DATA_PARTS][:_DATA_PARTS]:
        raw = b"" if part is None else np.ascontiguousarray(part).tobytes()
        extents += [len(data), len(raw)]
        data += raw + bytes(-len(raw) % _ALIGNMENT)
    inputs = [*operation.inputs, _NONE, _NONE][:2]
    params = [*operation.params, *[0] * 14][:14]
    return _OPERATION.pack(
        operation.kind, *inputs, operation.output, operation.activation, operation.shuffle,
        *params, *operation.scalars, *extents,
    )  # fmt: skip


@dataclass(frozen=True)
class ConvShape:
    """The sizes of a convolution; pairs are (y, x), padding is left, right, top, bottom."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    def params(
        self,
        residual: Residual = Residual.NONE,
        family: Family = Family.DENSE,
        precision: Precision = Precision.FP32,
    ) -> tuple[int, ...]:
        """As an operation's params."""
        return (
            *self.kernel, *self.stride, *self.dilation, *self.padding, self.groups,
            int(residual), int(family), int(precision),
        )  # fmt: skip


def conv_data(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    sparse: bool,
    slopes: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.generic] | None, ...]:
    """A convolution's data: weight [out, in/groups, kh, kw]; zeros are left out if sparse."""
    if not sparse:
        return (weight.astype(np.float32), None, bias, slopes)
    kept = weight.ravel() != 0
    mask = np.packbits(kept, bitorder="little")
    return (weight.ravel()[kept].astype(np.float32), mask, bias, slopes)


def level_data(
    weight: NDArray[np.float32], levels: NDArray[np.uint8], count: int
) -> NDArray[np.uint8] | None:
    """A convolution's data that says which weights a level keeps.

    A byte says what one bit stands for: a weight, or all of what it shares a level with over the
    outputs (1), the kernel's positions (2), or both (3): a channel that a level does not read takes
    one bit. Then, from the last level but one down to the first, a bit for each of these that the
    level above keeps.

    Args:
        weight: [out, in/groups, kh, kw], all that the last level keeps.
        levels: of the same shape, the least level that keeps each weight; nothing for zeros.
        count: how many levels the program has.

    Returns:
        None where the first level keeps every weight, so that all levels are the same.
    """
    kept = weight != 0
    if not levels[kept].any():
        return None
    shared, own = min(_sharings(kept, levels), key=lambda sharing: sharing[1].size)
    planes = []
    for level in reversed(range(count - 1)):
        planes.append(own <= level)
        own = own[planes[-1]]
    bits = np.packbits(np.concatenate(planes), bitorder="little")
    return np.concatenate((np.array([shared], np.uint8), bits))


def _sharings(
    kept: NDArray[np.bool_], levels: NDArray[np.uint8]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """What one bit may stand for, see level_data, and the levels of all that are kept."""
    for shared, axes in enumerate(((), (0,), (2, 3), (0, 2, 3))):
        least = np.where(kept, levels, np.uint8(255)).min(axes, keepdims=True)
        if np.all((levels == least) | ~kept):
            yield shared, least[kept.any(axes, keepdims=True)]


def scalars(
    activation: Mapping[str, float], alpha: float = 1.0, beta: float = 1.0
) -> tuple[float, float, float, float]:
    """An operation's scalars from an activation's: slope, or low and high."""
    first = activation.get("slope", activation.get("low", 0.0))
    return (first, activation.get("high", 0.0), alpha, beta)
