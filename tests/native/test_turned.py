"""Tall images run as their transposes -> what they give upright?

A program of two inputs runs upright; one that nothing reads makes such a program of any.
"""

import dataclasses

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Value,
    conv_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import THREE, levelled, noise
from tests.native.networks import random_network

TALL = ((128, 18), (70, 9), (131, 34))


def both(buffers, values, operations, output):
    """A program, and the same with an input that nobody reads."""
    spare = [*buffers, 1], [values[0], Value(len(buffers), 0, 1), *values[1:]]
    moved = [
        dataclasses.replace(
            step,
            inputs=tuple(value + (value > 0) for value in step.inputs),
            output=step.output + 1,
        )
        for step in operations
    ]
    alone = pack(buffers, values, operations, 1, output)
    beside = pack(*spare, moved, 2, [value + 1 for value in output])
    return NativeProgram(alone), NativeProgram(beside)


def layer(weight, shape=THREE, factor=1, **more):
    """A program of one convolution with a bias, both ways."""
    outputs, inputs = weight.shape[0], weight.shape[1] * shape.groups
    data = conv_data(weight, noise(outputs), False, *more.pop("slopes", ()))
    step = Operation(
        Kind.CONV2D, (0,), 1, shape.params(family=Family.DENSE), data=data, shuffle=factor, **more
    )
    channels = [inputs, outputs // factor**2]
    return both(channels, [Value(0, 0, inputs), Value(1, 0, channels[1])], [step], [1])


def agree(pair, size, threads=1):
    """Runs both and gives whether every bit is the same; they must nearly be."""
    alone, beside = pair
    x = noise(2, alone.channels[0], *size)
    expected = beside.run([x, noise(2, 1, *size)], threads)
    found = alone.run([x], threads)
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * scale)
    return all(np.array_equal(*two) for two in zip(found, expected, strict=True))


def test_it_is_tall_images_that_are_turned(isa):
    """Winograd's kernel sums in another order, and where nothing is gained in the same."""
    pair = layer(noise(32, 32, 3, 3) / 17)
    assert not agree(pair, (128, 18))
    assert agree(pair, (18, 128))
    assert agree(pair, (128, 128))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "shape",
    [
        ConvShape((5, 3), padding=(1, 1, 2, 2)),
        ConvShape((3, 1), (2, 1), padding=(0, 0, 1, 0)),
        ConvShape((3, 3), (1, 2), (3, 2), padding=(2, 1, 0, 3)),
        ConvShape((3, 3), padding=(1, 0, 1, 1), groups=2),
    ],
)
def test_windows_are_turned(isa, shape, threads):
    weight = noise(8, 8 // shape.groups, *shape.kernel)
    for size in TALL:
        agree(layer(weight, shape), size, threads)


@pytest.mark.parametrize("factor", [2, 3])
def test_shuffles_in_the_store_are_turned(isa, factor):
    wide = 2 * factor**2
    pair = layer(
        noise(wide, 8, 3, 3), factor=factor, activation=Activation.PRELU, slopes=(noise(wide),)
    )
    assert not all(agree(pair, size, 2) for size in TALL)


def test_a_shuffle_across_groups_stays_upright(isa):
    shape = ConvShape((3, 3), padding=(1, 1, 1, 1), groups=2)
    assert agree(layer(noise(4, 8, 3, 3), shape, 2), (128, 18))


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(isa, seed):
    """Every operation there is, in any order: pools, shuffles, what is computed in place."""
    net = random_network(seed)
    outputs = [net.ready[-1], net.ready[len(net.ready) // 2]]
    pair = both(net.buffers, net.values, net.operations, outputs)
    for size in TALL:
        x, spare = noise(1, 4, *size), noise(1, 1, *size)
        try:
            pair[1].run([x, spare])
        except NmcompileError as error:
            with pytest.raises(NmcompileError, match=str(error)[:20]):
                pair[0].run([x])
            continue
        agree(pair, size, 2)


def test_a_window_that_is_too_large_turned_stays_upright(isa):
    shape = ConvShape((1, 64), dilation=(1, 64), padding=(2016, 2016, 0, 0))
    assert agree(layer(noise(1, 64, 1, 64), shape), (40, 18))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_levels_are_turned(isa, level):
    """The rows of a tall image are those of its ends, which run upright."""
    program, x = NativeProgram(levelled()), noise(1, 16, 128, 34)
    whole, top, bottom = (
        program.run([rows], 1, level)[0] for rows in (x, x[:, :, :8], x[:, :, -8:])
    )
    both_ends = np.concatenate([top[:, :, :6], bottom[:, :, 2:]], 2)
    found = np.concatenate([whole[:, :, :6], whole[:, :, -6:]], 2)
    np.testing.assert_allclose(found, both_ends, rtol=0, atol=2e-5 * np.abs(found).max())
