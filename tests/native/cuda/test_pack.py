"""Packed weights, read as the PTX manual says a warp's registers lie -> the weights themselves?"""

import struct

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import Activation, ConvShape
from nmcompile.runtime.native.cuda_pack import Half, Kind, kinds, obstacle, pack
from tests.native.cuda.cases import from_bits, to_bits

ONE, THREE = ConvShape((1, 1)), ConvShape((3, 3), padding=(1, 1, 1, 1))
RANDOM = np.random.default_rng(11)


def _weight(text, outputs, inputs, kernel):
    weight = RANDOM.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32)
    return weight * Pattern.parse(text).largest(weight)


def _fragment(words, halves):
    """32 lanes' four registers -> 16x16: register by register, as for mma.m16n8k16's A."""
    matrix = np.zeros((16, 16), np.uint16)
    for lane in range(32):
        for element, value in enumerate(words[lane].view(np.uint16)):
            row = lane // 4 + (8 if element in (2, 3, 6, 7) else 0)
            column = lane % 4 * 2 + element % 2 + (8 if element >= 4 else 0)
            matrix[row, column] = value
    return from_bits(matrix, halves)


def _spread(values, metadata, selector):
    """16x16 compressed values and 32 lanes' metadata -> 16x32, as mma.sp.m16n8k32 reads them."""
    matrix = np.zeros((16, 32))
    for row in range(16):
        for column in range(16):
            word = int(metadata[row % 8 * 4 + selector * 2 + column // 8])
            bits = word >> (16 * (row // 8)) >> (2 * (column % 8)) & 3
            matrix[row, column // 2 * 4 + bits] += values[row, column]
    return matrix


def unpacked(packed, half):
    """The last level's weights, [out, in, position], padded: read from the bytes alone."""
    header = struct.unpack_from("<18IfI", packed)
    channels, rows, kernel, outputs, levels = (
        header[4],
        header[5],
        header[6],
        header[16],
        header[17],
    )
    kind, gathers, at, _ = struct.unpack_from("<4I", packed, 80 + 16 * (levels - 1))
    blocks, chunks, tiles = -(-rows // outputs), -(-channels // 64), outputs // 16
    weight = np.zeros((blocks * outputs, chunks * 64, kernel**2))
    for step in np.ndindex(blocks, chunks, kernel**2):
        count = {0: 4, 1: 2, 2: gathers}[kind] * tiles
        words = np.frombuffer(packed, np.uint32, count * 128, at).reshape(count, 32, 4)
        at += count * 512
        extra = {0: 0, 1: tiles * 128, 2: gathers * 16}[kind]
        more = np.frombuffer(packed, np.uint8, extra, at)
        at += extra
        for index in range(count):
            block, tile = divmod(index, tiles)
            values = _fragment(words[index], half)
            rows_of = weight[step[0] * outputs + tile * 16 :][:16, step[1] * 64 :, step[2]]
            if kind == Kind.DENSE:
                rows_of[:, block * 16 :][:, :16] += values
            elif kind == Kind.SPARSE:
                lanes = more.view(np.uint32).reshape(tiles, 32)[tile]
                rows_of[:, block * 32 :][:, :32] += _spread(values, lanes, block)
            else:
                for k in range(16):
                    t, which = k % 8 // 2, k // 8 * 2 + k % 2
                    rows_of[:, more[block * 16 + t * 4 + which] // 2] += values[:, k]
    assert at == len(packed)
    return weight


@pytest.mark.parametrize("half", Half)
@pytest.mark.parametrize(
    ("text", "outputs", "inputs", "shape", "kind"),
    [
        ("dense", 64, 64, THREE, Kind.DENSE),
        ("dense", 10, 20, THREE, Kind.DENSE),
        ("3:4", 80, 64, ONE, Kind.DENSE),
        ("2:4", 64, 64, THREE, Kind.SPARSE),
        ("1:4", 16, 40, THREE, Kind.SPARSE),
        ("2:8", 72, 128, ONE, Kind.SPARSE),
        ("8:16", 64, 64, ONE, Kind.DENSE),
        ("64x2:4", 64, 64, ONE, Kind.SPARSE),
        ("64x1:4", 128, 128, THREE, Kind.GATHERED),
        ("64x2:8", 64, 96, THREE, Kind.GATHERED),
        ("64x1:8", 64, 64, THREE, Kind.GATHERED),
        ("64x32:64", 64, 64, ONE, Kind.GATHERED),
        ("64x16:64", 64, 64, ONE, Kind.GATHERED),
        ("16x1:4", 64, 64, ONE, Kind.SPARSE),
    ],
)
def test_bytes_hold_the_weights(text, outputs, inputs, shape, kind, half):
    weight = _weight(text, outputs, inputs, shape.kernel[0])
    packed = pack(weight, None, shape, half)
    assert kinds(packed) == [kind]
    found = unpacked(packed, half)
    expected = from_bits(to_bits(weight.astype(np.float64), half), half)
    flat = expected.reshape(outputs, inputs, -1)
    np.testing.assert_array_equal(found[:outputs, :inputs], flat)
    assert not found[outputs:].any()
    assert not found[:, inputs:].any()


def test_levels_are_packed_one_after_the_other():
    weight = _weight("2:4", 64, 64, 3)
    least = np.where(np.abs(weight) > 1, 0, 1).astype(np.uint8)
    packed = pack(weight, None, THREE, least=least, levels=2)
    assert kinds(packed) == [Kind.SPARSE, Kind.SPARSE]
    single = pack(np.where(least == 0, weight, 0), None, THREE)
    assert packed[-2 * (len(single) - 352) :][: len(single) - 352] == single[352:]


@pytest.mark.parametrize("text", ["64x1:4", "64x2:8", "64x16:64"])
def test_gathered_channels_meet_in_few_banks(text):
    """Four lanes load at once: channels meet only where more are alike than there are loads."""
    packed = pack(_weight(text, 64, 64, 3), None, THREE)
    step = 4 * 512 + 16
    places = np.frombuffer(packed, np.uint8)[-9 * step :].reshape(9, step)[:, -16:]
    classes = places.reshape(9, 4, 4) // 4 % 4  # position, lane, load
    for position in classes:
        depth = sum(np.bincount(position[:, load]).max() for load in range(4))
        assert depth <= 4 + np.maximum(np.bincount(position.ravel()) - 4, 0).sum()


@pytest.mark.parametrize(
    ("shape", "activation", "problem"),
    [
        (ConvShape((5, 5)), Activation.NONE, "a kernel of 5x5; supported are 1x1 and 3x3"),
        (ConvShape((3, 3), groups=2), Activation.NONE, "2 groups; supported"),
        (ConvShape((3, 3), stride=(1, 2)), Activation.NONE, r"a stride of \(1, 2\); supported"),
        (
            ConvShape((3, 3), dilation=(2, 2)),
            Activation.NONE,
            r"a dilation of \(2, 2\); supported is none",
        ),
        (ConvShape((3, 3), padding=(0, 65, 0, 0)), Activation.NONE, "padding of 65; supported"),
        (ConvShape((3, 3)), Activation.GELU, "activation GELU; supported are none, RELU"),
    ],
)
def test_what_no_kernel_does_is_refused(shape, activation, problem):
    weight = np.ones((8, 8, *shape.kernel), np.float32)
    assert obstacle(shape, activation, 8, 8)
    with pytest.raises(NmcompileError, match=rf"layer body\.0: found {problem}"):
        pack(weight, None, shape, activation=activation, name="body.0")


def test_weights_beyond_fp16_are_refused_and_fit_bf16():
    weight = np.full((8, 8, 1, 1), 1e5, np.float32)
    with pytest.raises(NmcompileError, match="a weight of 100000; fp16 holds up to 65504"):
        pack(weight, None, ONE)
    assert kinds(pack(weight, None, ONE, Half.BF16)) == [Kind.DENSE]


def test_a_shuffle_that_channels_do_not_allow_is_refused():
    with pytest.raises(NmcompileError, match="a pixel shuffle by 2 of 10 channels"):
        pack(np.ones((10, 8, 1, 1), np.float32), None, ONE, shuffle=2)
