"""Wide images, whose bands all threads share -> the same bits as one thread's, in its memory?"""

import itertools

import numpy as np
import pytest

from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Kind,
    Operation,
    Precision,
    Value,
    conv_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import everything, isas, levelled, noise, peak
from tests.native.networks import SAME, random_network

WIDE = 1400  # more than 8 columns of the widest tiles, in strips of 16 lanes
THREADS = (2, 3, 5)


def _same(program: NativeProgram, x: np.ndarray, level: int | None = None) -> None:
    expected = program.run([x], 1, level)
    for threads in THREADS:
        for one, other in zip(program.run([x], threads, level), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def _chain(length: int, channels: int, precision: Precision = Precision.FP32) -> bytes:
    """3x3 convolutions, each in a buffer of its own; the last has one output."""
    params = ConvShape((3, 3), padding=SAME).params(precision=precision)
    counts = [4, *[channels] * (length - 1), 1]
    steps = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(counts)):
        data = conv_data(noise(outputs, inputs, 3, 3) / 8, noise(outputs), False)
        activation = Activation.RELU
        steps.append(
            Operation(Kind.CONV2D, (index,), index + 1, params, data=data, activation=activation)
        )
    values = [Value(index, 0, count) for index, count in enumerate(counts)]
    return pack(counts, values, steps, 1, [length])


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    net = random_network(seed)
    deep, apart = NativeProgram(net.packed(apart=False)), NativeProgram(net.packed(apart=True))
    x = noise(2, 4, 23, WIDE)
    expected = apart.run([x])
    for threads in THREADS:
        for one, other in zip(deep.run([x], threads), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("height", [4, 9, 35])
def test_every_kind_of_operation(monkeypatch, isa, height):
    monkeypatch.setenv("NMK_ISA", isa)
    _same(NativeProgram(everything()), noise(2, 4, height, WIDE))


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("width", [WIDE, WIDE + 137, 2 * WIDE])
def test_columns_of_tiles(precision, width):
    """Numbers of tiles that threads do and do not divide, in Winograd's tiles and others."""
    program = NativeProgram(_chain(4, 32, precision))
    _same(program, noise(1, 4, 23, width))


def test_levels():
    program = NativeProgram(levelled())
    for level in range(program.levels):
        _same(program, noise(1, 16, 21, WIDE), level)


def test_more_threads_take_hardly_more_memory(tmp_path):
    """With rings and edges of its own, each thread would take as much as one alone, and more.

    So wide that bands are no deeper for two: 12 columns of tiles with 16 lanes.
    """
    packed, image = _chain(8, 32), (4, 400, 2304)
    alone, together = (peak(packed, tmp_path, image, threads) for threads in (1, 2))
    assert alone > 0
    assert together < 1.25 * alone
