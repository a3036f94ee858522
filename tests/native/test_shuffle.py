"""Convolutions that shuffle pixels as they store -> the same bits as a shuffle after them?"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nmcompile.backends.native import lower
from nmcompile.capture import capture
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, Pattern
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Kind,
    Operation,
    Precision,
    Residual,
    Value,
    conv_data,
    family_of,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native import reference
from tests.native.build import noise, pruned, single

SAME = (1, 1, 1, 1)
Step = tuple[Operation, int]  # a convolution of the value before it, and the factor of a shuffle


def _step(
    pattern: Pattern,
    inputs: int,
    outputs: int,
    shape: ConvShape,
    factor: int,
    precision: Precision = Precision.BF16,
) -> Step:
    """A convolution to outputs * factor^2 channels, PReLU after it, and the shuffle's factor."""
    wide = outputs * factor**2
    weight = pruned(pattern, (wide, inputs // shape.groups, *shape.kernel)) / inputs
    family = family_of(pattern.v, dense=pattern.is_dense)
    data = conv_data(weight, noise(wide), not pattern.is_dense, noise(wide))
    params = shape.params(family=family, precision=precision)
    made = Operation(Kind.CONV2D, (0,), 0, params, data=data, activation=Activation.PRELU)
    return made, factor


def _chained(steps: Sequence[Step], channels: int, stored: bool) -> bytes:
    """The steps in a row, each shuffle in its convolution's store or an operation of its own."""
    buffers, made = [channels], []

    def to(outputs: int, kind: Operation) -> None:
        buffers.append(outputs)
        more = {"data": kind.data, "activation": kind.activation, "shuffle": kind.shuffle}
        last = len(buffers) - 1
        made.append(Operation(kind.kind, (last - 1,), last, kind.params, **more))

    for conv, factor in steps:
        bias = conv.data[2]
        assert bias is not None
        wide, rest = len(bias), conv.data
        inside = factor if stored else 1
        to(
            wide // inside**2,
            Operation(
                conv.kind, (), 0, conv.params, data=rest, activation=conv.activation, shuffle=inside
            ),
        )
        if not stored and factor > 1:
            to(wide // factor**2, Operation(Kind.PIXEL_SHUFFLE, (), 0, (factor,)))
    values = [Value(index, 0, count) for index, count in enumerate(buffers)]
    return pack(buffers, values, made, 1, [len(buffers) - 1])


def _compare(steps: Sequence[Step], channels: int, size: tuple[int, int], threads: int) -> None:
    x = noise(2, channels, *size)
    (expected,) = NativeProgram(_chained(steps, channels, stored=False)).run([x])
    (found,) = NativeProgram(_chained(steps, channels, stored=True)).run([x], threads)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pattern", [DENSE, Pattern(1, 2, 4), Pattern(8, 2, 4)], ids=str)
@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_every_kernel(isa, factor, precision, pattern):
    for shape in (
        ConvShape((3, 3), padding=SAME),
        ConvShape((1, 1), groups=2),
        ConvShape((3, 3), stride=(2, 2), padding=SAME),
    ):
        for size in ((1, 1), (5, 7), (9, 33), (12, 70)):
            _compare([_step(pattern, 32, 4, shape, factor, precision)], 32, size, 2)


def test_largest_factor(isa):
    _compare([_step(DENSE, 4, 1, ConvShape((3, 3), padding=SAME), 16)], 4, (5, 19), 2)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("height", [1, 3, 17, 50])
def test_bands_and_threads(height, threads):
    shape = ConvShape((3, 3), padding=SAME)
    steps = [
        _step(DENSE, 8, 16, shape, 1),
        _step(Pattern(1, 2, 4), 16, 16, shape, 3),
        _step(DENSE, 16, 16, ConvShape((5, 5), padding=(2, 2, 2, 2)), 2),
        _step(DENSE, 16, 8, shape, 1),
    ]
    _compare(steps, 8, (height, 90), threads)


def test_against_the_reference(isa):
    shape, x = ConvShape((3, 3), padding=SAME), noise(1, 4, 6, 21)
    weight = noise(18, 4, 3, 3)
    packed = single(
        Kind.CONV2D, [4], 2, params=shape.params(), data=conv_data(weight, None, False), shuffle=3
    )
    plain = reference.conv2d(x.astype(float), weight.astype(float), None, shape)
    (found,) = NativeProgram(packed).run([x])
    np.testing.assert_allclose(found, reference.pixel_shuffle(plain, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [0, 17, 2**31])
def test_impossible_factors_are_refused(factor):
    data = conv_data(noise(4, 4, 1, 1), None, False)
    packed = single(
        Kind.CONV2D, [4], 1, params=ConvShape((1, 1)).params(), data=data, shuffle=factor
    )
    with pytest.raises(NmcompileError, match="damaged program: factor"):
        NativeProgram(packed)


def test_a_residual_does_not_fit_a_shuffled_result():
    params = ConvShape((1, 1)).params(Residual.BEFORE_ACTIVATION)
    data = conv_data(noise(4, 4, 1, 1), None, False)
    packed = single(Kind.CONV2D, [4, 1], 1, params=params, data=data, shuffle=2)
    with pytest.raises(NmcompileError, match="damaged program: residual"):
        NativeProgram(packed)


class _Tail(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 12, 3, padding=1), nn.ConvTranspose2d(3, 3, 2, stride=2)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("forward", "operations"),
    [
        (lambda net, x: F.pixel_shuffle(net.conv(x), 2), 1),
        (lambda net, x: F.pixel_shuffle(torch.clamp(net.conv(x), 0, 1), 2), 1),
        (lambda net, x: F.leaky_relu(F.pixel_shuffle(net.conv(x), 2), 0.1), 1),
        (lambda net, x: F.relu(net.up(x)), 1),
        # Something else reads what is shuffled, or it is no convolution's result as it is.
        (lambda net, x: F.pixel_shuffle(y := net.conv(x), 2) * y.mean((2, 3), True)[:, :3], 4),
        (lambda net, x: F.pixel_shuffle(net.conv(x) + net.conv(-x), 2), 4),
        (
            lambda net, x: (
                F.pixel_shuffle(net.conv(x)[:, 8:], 2) + F.interpolate(x, scale_factor=2)
            ),
            4,
        ),
        # One of two shuffles of a result would have to read what the other one never stores.
        (lambda net, x: F.pixel_shuffle(y := net.conv(x), 2) - F.relu(F.pixel_shuffle(y, 2)), 5),
    ],
)
def test_what_is_stored_shuffled(forward, operations):
    torch.manual_seed(0)
    network, x = _Tail(forward).eval(), torch.randn(1, 3, 7, 20)
    program = NativeProgram(lower(capture(network, channels=3)))
    assert program.operations == operations
    (found,) = program.run([x.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(found, network(x).numpy(), rtol=0, atol=1e-5)
