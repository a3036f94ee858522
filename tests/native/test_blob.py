"""Damaged and hostile programs and calls -> a clear error or a run, never a crash."""

import faulthandler

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import (
    Activation,
    Border,
    ConvShape,
    Kind,
    Operation,
    Pointwise,
    Residual,
    Value,
    conv_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import noise, single

FLIPS = 1500
HEADER = 40


def _everything() -> bytes:
    """A small program with every kind of operation."""
    shape, one = ConvShape((3, 3), padding=(1, 1, 1, 1)), ConvShape((1, 1))
    weight = noise(4, 4, 3, 3) * (noise(4, 4, 3, 3) > 0)
    buffers = [4, 8, 4, 4, 1, 4, 4, 4, 4, 4, 4]
    values = [
        Value(0, 0, 4), Value(1, 0, 4), Value(1, 4, 4), Value(1, 0, 8), Value(2, 0, 4),
        Value(3, 0, 4), Value(4, 0, 1), Value(5, 0, 4), Value(6, 0, 4), Value(7, 0, 4),
        Value(8, 0, 4), Value(0, 1, 1), Value(9, 0, 4), Value(10, 0, 4),
    ]  # fmt: skip
    operations = [
        Operation(Kind.CONV2D, (0,), 1, shape.params(sparse=True),
                  data=conv_data(weight, noise(4), True), activation=Activation.RELU),
        Operation(Kind.CONV2D, (0, 1), 2, shape.params(Residual.BEFORE_ACTIVATION),
                  data=conv_data(weight, noise(4), False, noise(4)), activation=Activation.PRELU),
        Operation(Kind.CONV2D, (3,), 4, one.params(),
                  data=conv_data(noise(4, 8, 1, 1), None, False)),
        Operation(Kind.MOMENTS, (4,), 5, (1, 0)),
        Operation(Kind.PIXEL_SHUFFLE, (4,), 6, (2,)),
        Operation(Kind.POINTWISE, (4, 5), 7, (int(Pointwise.GATE),)),
        Operation(Kind.MAX_POOL, (7,), 8, ConvShape((2, 2), (2, 2)).params()),
        Operation(Kind.BILINEAR, (8, 0), 9, (0,)),
        Operation(Kind.NEAREST, (9,), 10, (2,)),
        Operation(Kind.PAD, (10,), 12, (3, -1, 2, -1, int(Border.REFLECT))),
        Operation(Kind.BILINEAR, (10,), 13, (1, 2)),
        Operation(Kind.POINTWISE, (0, 11), 7, (int(Pointwise.QUOTIENT),)),
    ]  # fmt: skip
    return pack(buffers, values, operations, 1, [6, 10, 12, 13])


def _try(packed: bytes, x: np.ndarray) -> bool:
    try:
        program = NativeProgram(packed)
        program.run([x[:, :channels] for channels in program.channels], 2)
    except NmcompileError:
        return False
    return True


def test_program_with_everything_runs():
    assert _try(_everything(), noise(1, 4, 6, 20))


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(seed):
    faulthandler.enable()
    random = np.random.default_rng(seed)
    packed, x = _everything(), noise(1, 4, 6, 20)
    ran = 0
    for _ in range(FLIPS):
        damaged = bytearray(packed)
        for place in random.integers(0, len(packed), random.integers(1, 4)):
            damaged[place] = random.choice([0, 1, 2, 127, 255, random.integers(256)])
        ran += _try(bytes(damaged), x)
    assert 0 < ran < FLIPS


def test_every_field_of_the_tables():
    """Each 32-bit word before the weights, set to values at the edge of what it can hold."""
    packed, x = _everything(), noise(1, 4, 6, 20)
    tables = packed.index(bytes(64), HEADER + 1600)
    for place in range(0, tables, 4):
        for word in (0, 1, 3, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1):
            damaged = bytearray(packed)
            damaged[place : place + 4] = word.to_bytes(4, "little")
            _try(bytes(damaged), x)


def test_truncated():
    packed = _everything()
    for size in [*range(0, len(packed), 7), len(packed) - 1]:
        with pytest.raises(NmcompileError, match="compile the engine again"):
            NativeProgram(packed[:size])


def test_longer_than_it_says():
    with pytest.raises(NmcompileError, match="its size is not what it says"):
        NativeProgram(_everything() + b"\0")


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
