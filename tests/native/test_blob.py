"""Damaged and hostile programs and calls -> a clear error or a run, never a crash."""

import faulthandler

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import (
    ConvShape,
    Kind,
    conv_data,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import everything, noise, single

FLIPS = 1500
HEADER = 48


def _try(packed: bytes, x: np.ndarray) -> bool:
    try:
        program = NativeProgram(packed)
        program.run([x[:, :channels] for channels in program.channels], 2)
    except NmcompileError:
        return False
    return True


def test_program_with_everything_runs():
    assert _try(everything(), noise(1, 4, 6, 20))


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(seed):
    faulthandler.enable()
    random = np.random.default_rng(seed)
    packed, x = everything(), noise(1, 4, 6, 20)
    ran = 0
    for _ in range(FLIPS):
        damaged = bytearray(packed)
        for place in random.integers(0, len(packed), random.integers(1, 4)):
            damaged[place] = random.choice([0, 1, 2, 127, 255, random.integers(256)])
        ran += _try(bytes(damaged), x)
    assert 0 < ran < FLIPS


def test_every_field_of_the_tables():
    """Each 32-bit word before the weights, set to values at the edge of what it can hold."""
    packed, x = everything(), noise(1, 4, 6, 20)
    tables = packed.index(bytes(64), HEADER + 1600)
    for place in range(0, tables, 4):
        for word in (0, 1, 3, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1):
            damaged = bytearray(packed)
            damaged[place : place + 4] = word.to_bytes(4, "little")
            _try(bytes(damaged), x)


def test_truncated():
    packed = everything()
    for size in [*range(0, len(packed), 7), len(packed) - 1]:
        with pytest.raises(NmcompileError, match="compile the engine again"):
            NativeProgram(packed[:size])


def test_longer_than_it_says():
    with pytest.raises(NmcompileError, match="its size is not what it says"):
        NativeProgram(everything() + b"\0")


def test_not_a_program():
    with pytest.raises(NmcompileError, match="does not begin as one"):
        NativeProgram(b"\x7fELF" + bytes(1000))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([noise(1, 3, 5, 5)], "expected N x 2 x H x W"),
        ([noise(1, 2, 5)[0]], "expected N x 2 x H x W"),
        ([], "takes 1 inputs, 0 were given"),
        ([noise(1, 2, 0, 5)], "empty"),
        ([noise(1, 2, 2, 2)], "too small"),
    ],
)
def test_impossible_inputs(inputs, said):
    shape = ConvShape((3, 3))
    packed = single(
        Kind.CONV2D, [2], 1, params=shape.params(), data=conv_data(noise(1, 2, 3, 3), None, False)
    )
    with pytest.raises(NmcompileError, match=said):
        NativeProgram(packed).run(inputs)


def test_impossible_threads():
    packed = single(Kind.NEAREST, [1], 1, params=(2,))
    for threads in (0, -1, 10**6):
        with pytest.raises(NmcompileError, match="threads"):
            NativeProgram(packed).run([noise(1, 1, 2, 2)], threads)


def test_empty_batch():
    packed = single(Kind.NEAREST, [1], 1, params=(2,))
    assert NativeProgram(packed).run([noise(0, 1, 2, 3)])[0].shape == (0, 1, 4, 6)
