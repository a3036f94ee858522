"""A convolution's weights -> the bytes that libnmk_cuda's kernels read, in the order they do.

After the header and the bias, a level is [block of 64 or 16 outputs][chunk of 64 input channels]
[kernel position][step], and a step is what one multiplication of a chunk needs: fragments of 16x16
weights in the order of a warp's registers (PTX ISA, mma.m16n8k16 and mma.sp.m16n8k32), then the
metadata of sparse ones, or where the gathered channels are.
"""

from __future__ import annotations

import enum
import struct

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import Activation, ConvShape, Residual

CHUNK = 64
LARGEST_SHUFFLE = 8
_MAGIC = 0x434B4D4E
_VERSION = 1
_HEADER = struct.Struct("<18IfI")
_LEVEL = struct.Struct("<4I")
_ALIGNMENT = 16
_LARGEST_HALF = 65504.0
_ACTIVATIONS = {Activation.NONE: 0, Activation.RELU: 1, Activation.LEAKY_RELU: 2}
# Tensor core time of a step, in dense products of 16 channels. Gathering loads halves one by one:
# reckoned from its loads, not measured.
_DENSE_COST, _SPARSE_COST, _GATHER_COST = 4.0, 2.0, 1.5

_Weights = NDArray[np.float32]


class Kind(enum.IntEnum):
    """How a level's weights are multiplied: Kind in cuda/params.h."""

    DENSE = 0
    SPARSE = 1
    GATHERED = 2


class Half(enum.IntEnum):
    """The 16-bit type of images and weights."""

    FP16 = 0
    BF16 = 1


def pack(
    weight: _Weights,
    bias: _Weights | None,
    shape: ConvShape,
    half: Half = Half.FP16,
    *,
    activation: Activation = Activation.NONE,
    slope: float = 0.0,
    residual: Residual = Residual.NONE,
    shuffle: int = 1,
    least: NDArray[np.uint8] | None = None,
    levels: int = 1,
    name: str = "convolution",
) -> bytes:
    """Packs a convolution; every level is packed in the kind that is reckoned fastest for it.

    Args:
        weight: [out, in, kh, kw], zeros where a pattern keeps nothing.
        bias: [out], or None.
        shape: kernel 1x1 or 3x3, stride 1 or 2, no dilation, one group.
        half: what images are, and what weights are rounded to.
        activation: none, ReLU or LeakyReLU.
        slope: of LeakyReLU.
        residual: whether and where the kernel adds a second image, of the output's shape.
        shuffle: factor of the pixel shuffle in its store.
        least: of the weight's shape, the least level that keeps each; all weights if None.
        levels: how many there are; the last keeps all weights.
        name: what errors call the layer.

    Raises:
        NmcompileError: the kernels do not do that.
    """
    _check(weight, shape, half, activation, shuffle, name)
    outputs = 16 if len(weight) <= 16 and shape.stride == (1, 1) else 64
    tables, body, offset = b"", b"", _HEADER.size + levels * _LEVEL.size
    offset += -offset % _ALIGNMENT
    padded = np.zeros(-(-len(weight) // outputs) * outputs, np.float32)
    padded[: len(weight)] = 0.0 if bias is None else _shuffled(bias, shuffle)
    body, start = padded.tobytes(), offset
    for level in range(levels):
        kept = weight if least is None else np.where(least <= level, weight, np.float32(0))
        steps = _steps(_shuffled(kept, shuffle), outputs)
        kind, gathers = _choose(steps)
        tables += _LEVEL.pack(kind, gathers, start + len(body), 0)
        body += _packed(steps, kind, gathers, half)
    out, channels, kernel, _ = weight.shape
    left, right, top, bottom = shape.padding
    header = _HEADER.pack(
        _MAGIC, _VERSION, start + len(body), half, channels, out, kernel, kernel, shape.stride[0],
        top, left, bottom, right, _ACTIVATIONS[activation], residual, shuffle, outputs, levels,
        slope, start,
    )  # fmt: skip
    return (header + tables).ljust(start, b"\0") + body


def obstacle(shape: ConvShape, activation: Activation, inputs: int, outputs: int) -> str | None:
    """Why no kernel here runs a convolution of so many channels, or None if one does."""
    if shape.groups != 1:
        return f"{shape.groups} groups; supported are convolutions of one group"
    if shape.kernel not in ((1, 1), (3, 3)):
        return f"a kernel of {shape.kernel[0]}x{shape.kernel[1]}; supported are 1x1 and 3x3"
    if shape.stride not in ((1, 1), (2, 2)):
        return f"a stride of {shape.stride}; supported are 1 and 2, the same both ways"
    if shape.dilation != (1, 1):
        return f"a dilation of {shape.dilation}; supported is none"
    if max(shape.padding) > 64:
        return f"padding of {max(shape.padding)}; supported is up to 64"
    if activation not in _ACTIVATIONS:
        return f"activation {activation.name}; supported are none, RELU and LEAKY_RELU"
    if max(inputs, outputs) > 1 << 16:
        return f"{max(inputs, outputs)} channels; supported are up to 65536"
    return None


def kinds(packed: bytes) -> list[Kind]:
    """How each level of packed weights is multiplied."""
    levels = _HEADER.unpack_from(packed)[17]
    records = range(_HEADER.size, _HEADER.size + levels * _LEVEL.size, _LEVEL.size)
    return [Kind(_LEVEL.unpack_from(packed, at)[0]) for at in records]


def _check(
    weight: _Weights,
    shape: ConvShape,
    half: Half,
    activation: Activation,
    shuffle: int,
    name: str,
) -> None:
    out, channels, *kernel = weight.shape
    found = obstacle(shape, activation, channels, out)
    if found is None and tuple(kernel) != shape.kernel:
        found = f"weights of {kernel} for a kernel of {shape.kernel}; expected the same"
    if found is None and not (1 <= shuffle <= LARGEST_SHUFFLE and out % shuffle**2 == 0):
        found = f"a pixel shuffle by {shuffle} of {out} channels; expected 1 to 8, and a multiple"
    largest = float(np.abs(weight).max(initial=0.0))
    if found is None and half is Half.FP16 and not largest <= _LARGEST_HALF:
        found = f"a weight of {largest:g}; fp16 holds up to 65504, pack it as bf16"
    if found:
        raise NmcompileError(f"layer {name}: found {found}; run it by another kernel")


def _shuffled(rows: NDArray[np.float32], shuffle: int) -> NDArray[np.float32]:
    """Outputs in the order of a shuffled image: all channels of one place, then the next's."""
    places = rows.reshape(-1, shuffle**2, *rows.shape[1:])
    return np.ascontiguousarray(places.swapaxes(0, 1)).reshape(rows.shape)


def _steps(weight: _Weights, outputs: int) -> _Weights:
    """[out, in, kh, kw] -> [block, chunk, position, outputs, 64], padded with zeros."""
    out, channels, *kernel = weight.shape
    blocks, chunks, positions = -(-out // outputs), -(-channels // CHUNK), kernel[0] * kernel[1]
    padded = np.zeros((blocks * outputs, chunks * CHUNK, positions), np.float32)
    padded[:out, :channels] = weight.reshape(out, channels, positions)
    apart = padded.reshape(blocks, outputs, chunks, CHUNK, positions)
    return np.ascontiguousarray(apart.transpose(0, 2, 4, 1, 3))


def _choose(steps: _Weights) -> tuple[Kind, int]:
    """The kind that is reckoned fastest, and how many blocks of 16 channels it gathers."""
    costs = {(Kind.DENSE, 0): _DENSE_COST}
    if ((steps != 0).reshape(-1, 4).sum(1) <= 2).all():
        costs[Kind.SPARSE, 0] = _SPARSE_COST
    gathers = max(1, -(-int((steps != 0).any(-2).sum(-1).max()) // 16))
    if steps.shape[-2] == 64:
        costs[Kind.GATHERED, gathers] = _GATHER_COST * gathers
    return min(costs, key=lambda choice: costs[choice])


def _packed(steps: _Weights, kind: Kind, gathers: int, half: Half) -> bytes:
    flat = steps.reshape(-1, *steps.shape[-2:])
    if kind is Kind.SPARSE:
        values, places = _compressed(flat)
        parts = [_fragments(values, half), _metadata(places)]
    elif kind is Kind.DENSE:
        parts = [_fragments(flat, half)]
    else:
        slots = np.stack([_slots(step, gathers) for step in flat])
        chosen = np.take_along_axis(flat, np.maximum(slots, 0)[:, None], 2)
        values = np.where(slots[:, None] < 0, np.float32(0), chosen)
        parts = [_fragments(values, half), _places(slots)]
    return np.concatenate(parts, axis=1).tobytes()


def _halves(x: _Weights, half: Half) -> NDArray[np.uint16]:
    """The bits of values rounded to nearest even."""
    if half is Half.FP16:
        return x.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _fragments(steps: _Weights, half: Half) -> NDArray[np.uint8]:
    """[step, outputs, k] -> bytes [step, k / 16 * outputs / 16 * 512].

    Lane 4g + t holds, of 16x16 weights, columns 2t and 2t + 1 of rows g and g + 8, then the same
    with 8 columns more.
    """
    count, outputs, channels = steps.shape
    apart = _halves(steps, half).reshape(count, outputs // 16, 2, 8, channels // 16, 2, 4, 2)
    #          step, k16, m16, g, t, column half, row half, pair
    ordered = apart.transpose(0, 4, 1, 3, 6, 5, 2, 7)
    return np.ascontiguousarray(ordered).reshape(count, -1).view(np.uint8)


def _compressed(steps: _Weights) -> tuple[_Weights, NDArray[np.int64]]:
    """[step, outputs, 64] -> two of every four values, and their places in rising order."""
    groups = steps.reshape(*steps.shape[:2], -1, 4)
    places = np.sort((groups == 0).argsort(-1, kind="stable")[..., :2], axis=-1)
    values = np.take_along_axis(groups, places, -1)
    return values.reshape(*steps.shape[:2], -1), places


def _metadata(places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[step, outputs, 16, 2] -> a word a lane for every 16 outputs.

    Lane 4g + j has the places of channels 16j to 16j + 15: row g in its low half, g + 8 in its high
    one, two bits a place. The first product reads lanes with j = 0 and 1, the second 2 and 3.
    """
    nibbles = (places[..., 0] | places[..., 1] << 2).astype(np.uint32)
    count, outputs, _ = nibbles.shape
    apart = nibbles.reshape(count, outputs // 16, 2, 8, 4, 4)  # step, m16, row half, g, j, group
    shifts = 16 * np.arange(2).reshape(2, 1, 1, 1) + 4 * np.arange(4)
    words = (apart << shifts.astype(np.uint32)).sum((2, 5), dtype=np.uint32)
    return np.ascontiguousarray(words).reshape(count, -1).view(np.uint8)


def _slots(step: _Weights, gathers: int) -> NDArray[np.int64]:
    """[64, 64] -> the channel of every slot of 16 * gathers, -1 where there is none.

    Four lanes load at once; they meet in a bank where their channels' pairs are alike modulo 4.
    Channels sorted by that are dealt out to the loads, so that like ones meet only where there are
    more of them than loads.
    """
    kept = np.flatnonzero((step != 0).any(0))
    kept = kept[np.argsort(kept // 2 % 4, kind="stable")]
    loads = 4 * gathers
    slots = np.full((gathers, 2, 4, 2), -1)  # block, upper half, lane, which of the pair
    for index, channel in enumerate(kept):
        block, load = divmod(index % loads, 4)
        slots[block, load // 2, index // loads, load % 2] = channel
    return slots.reshape(-1)


def _places(slots: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[step, 16 * gathers] -> 16 bytes a block: of lane t's four channels, twice the channel."""
    apart = np.maximum(slots, 0).reshape(len(slots), -1, 2, 4, 2).transpose(0, 1, 3, 2, 4)
    return (2 * apart).astype(np.uint8).reshape(len(slots), -1)
