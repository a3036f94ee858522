"""Channels that no layer reads -> the same as a network that never had them, at every level?"""

import numpy as np
import pytest

from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import (
    Activation,
    Family,
    Kind,
    Operation,
    Pointwise,
    Precision,
    Residual,
    Value,
    conv_data,
    level_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import ONE, THREE, ladder, noise

WIDE = 32


def _conv(source, output, weight, bias, shape=THREE, more=(), precision=Precision.FP32, **extra):
    residual = extra.pop("residual", Residual.NONE)
    params = shape.params(residual, family=Family.SHARED, precision=precision)
    data = (*conv_data(weight, bias, True, extra.pop("slopes", None)), *more)
    return Operation(Kind.CONV2D, source, output, params, data=data, **extra)


def _check(program, small, x, tolerance=2e-5):
    """Against the network that is smaller; of what falls away something was a NaN."""
    for threads in (1, 2):
        (expected,), (found,) = small.run([x], threads), program.run([x], threads)
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("shape", [THREE, ONE], ids=["3x3", "1x1"])
def test_an_output_that_the_next_layer_leaves_out_is_not_computed(isa, shape, precision):
    kept = np.sort(np.random.default_rng(1).permutation(WIDE)[:11])
    first, last = noise(WIDE, 6, *shape.kernel), np.zeros((9, WIDE, *shape.kernel), np.float32)
    last[:, kept] = noise(9, 11, *shape.kernel)
    bias, slopes = np.full(WIDE, np.nan, np.float32), np.full(WIDE, np.nan, np.float32)
    bias[kept], slopes[kept] = noise(11), noise(11)

    def program(channels, own, own_bias, own_slopes, then):
        values = [Value(0, 0, 6), Value(1, 0, channels), Value(2, 0, 9)]
        steps = [
            _conv((0,), 1, own, own_bias, shape, precision=precision,
                  activation=Activation.PRELU, slopes=own_slopes),
            _conv((1,), 2, then, None, shape, precision=precision),
        ]  # fmt: skip
        return NativeProgram(pack([6, channels, 9], values, steps, 1, [2]))

    small = program(11, first[kept], bias[kept], slopes[kept], last[:, kept])
    exact = precision is Precision.FP32  # else one may round where the other does not
    whole = program(WIDE, first, bias, slopes, last)
    _check(whole, small, noise(1, 6, 13, 41), 2e-5 if exact else 2e-2)


def test_what_falls_away_goes_back_through_the_network(isa):
    """Through an activation of its own, a part of a concatenation, a residual and a shuffle."""
    read = np.arange(0, WIDE, 3)
    mask = np.zeros(WIDE, bool)
    mask[read] = True
    bias = np.where(mask, 0.1, np.nan).astype(np.float32)
    two, start = noise(WIDE, WIDE, 3, 3), noise(WIDE, 3, 3, 3)
    two[:, ~mask] = np.where(mask[:, None, None, None], 0.0, noise(WIDE, WIDE - len(read), 3, 3))
    last = np.zeros((4, WIDE + 3, 3, 3), np.float32)
    last[:, :WIDE][:, mask], last[:, WIDE:] = noise(4, len(read), 3, 3), noise(4, 3, 3, 3)
    whole = [Value(0, 0, 3), Value(1, 0, WIDE), Value(2, 0, WIDE), Value(3, 0, WIDE),
             Value(3, WIDE, 3), Value(3, 0, WIDE + 3), Value(4, 0, 1)]  # fmt: skip
    steps = [
        _conv((0,), 1, start, bias),
        Operation(Kind.POINTWISE, (1,), 2, (int(Pointwise.AFFINE),), activation=Activation.RELU),
        _conv((2, 1), 3, two, bias, residual=Residual.AFTER_ACTIVATION),
        Operation(Kind.POINTWISE, (0,), 4, (int(Pointwise.AFFINE),)),
        _conv((5,), 6, last, None, shuffle=2),
    ]
    packed = pack([3, WIDE, WIDE, WIDE + 3, 1], whole, steps, 1, [6])
    count = len(read)
    views = [Value(0, 0, 3), Value(1, 0, count), Value(2, 0, count), Value(3, 0, count),
             Value(3, count, 3), Value(3, 0, count + 3), Value(4, 0, 1)]  # fmt: skip
    fewer = np.concatenate([last[:, :WIDE][:, mask], last[:, WIDE:]], 1)
    steps = [
        _conv((0,), 1, start[mask], bias[mask]),
        steps[1],
        _conv((2, 1), 3, two[mask][:, mask], bias[mask], residual=Residual.AFTER_ACTIVATION),
        steps[3],
        _conv((5,), 6, fewer, None, shuffle=2),
    ]
    small = pack([3, count, count, count + 3, 1], views, steps, 1, [6])
    _check(NativeProgram(packed), NativeProgram(small), noise(1, 3, 20, 50))


def test_levels_compute_what_they_read(isa):
    """At a lower level the chain is narrower; only the last one meets the NaN of channel 0."""
    patterns = [Pattern.parse(text) for text in ("8:32c", "16:32c", "dense")]
    weights, least = zip(*(ladder(patterns, (WIDE, WIDE, 3, 3)) for _ in range(3)), strict=True)
    for weight, own in zip(weights[1:], least[1:], strict=True):
        weight[:, 0], own[:, 0] = 1.0, 2
    bias = noise(WIDE)
    poisoned = np.concatenate([[np.nan], bias[1:]]).astype(np.float32)

    def chain(level, count, own_bias):
        steps = []
        for index, (weight, own) in enumerate(zip(weights, least, strict=True)):
            masked = np.where(own <= level, weight, 0).astype(np.float32)
            more = () if count == 1 else (level_data(weight, own, count),)
            steps.append(_conv((index,), index + 1, masked if count == 1 else weight,
                               own_bias if index < 2 else bias, more=more))  # fmt: skip
        values = [Value(index, 0, WIDE) for index in range(4)]
        return NativeProgram(pack([WIDE] * 4, values, steps, 1, [3], levels=count))

    program, x = chain(2, 3, poisoned), noise(1, WIDE, 9, 40)
    for level in range(3):
        (found,) = program.run([x], 1, level)
        if level == 2:
            assert np.isnan(found).all()
            program = chain(2, 3, bias)
            (found,) = program.run([x], 1, level)
        np.testing.assert_array_equal(found, chain(level, 1, bias).run([x], 1)[0])


def test_nothing_falls_away_that_is_an_output_or_is_summed(isa):
    weight = noise(WIDE, 3, 3, 3)
    half = np.zeros((2, WIDE, 1, 1), np.float32)
    half[:, : WIDE // 2] = 1
    steps = [
        _conv((0,), 1, weight, None),
        _conv((1,), 2, half, None, ONE),
        Operation(Kind.MOMENTS, (1,), 3, (0, 0)),
    ]
    values = [Value(0, 0, 3), Value(1, 0, WIDE), Value(2, 0, 2), Value(3, 0, WIDE)]
    x = noise(1, 3, 8, 33)
    alone = NativeProgram(pack([3, WIDE], values[:2], steps[:1], 1, [1]))
    image = alone.run([x])[0]
    program = NativeProgram(pack([3, WIDE, 2, WIDE], values, steps, 1, [1, 2, 3]))
    first, second, means = program.run([x])
    np.testing.assert_allclose(first, image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        second[0, 0], image[0, : WIDE // 2].sum(0), rtol=0, atol=1e-4 * np.abs(second).max()
    )
    np.testing.assert_allclose(means[0, :, 0, 0], image[0].mean((1, 2)), rtol=0, atol=1e-5)


def test_a_network_of_which_nothing_is_read(isa):
    """The last layer keeps no weight: the result is its bias."""
    steps = [
        _conv((0,), 1, noise(WIDE, 3, 3, 3), None),
        _conv((1,), 2, np.zeros((2, WIDE, 3, 3), np.float32), np.array([1, -2], np.float32)),
    ]
    values = [Value(0, 0, 3), Value(1, 0, WIDE), Value(2, 0, 2)]
    (found,) = NativeProgram(pack([3, WIDE, 2], values, steps, 1, [2])).run([noise(1, 3, 7, 20)])
    assert (found[0, 0] == 1).all()
    assert (found[0, 1] == -2).all()


def test_a_size_may_come_from_an_image_of_more_channels(isa):
    """Nothing is read of it but its height and width."""
    steps = [
        _conv((0,), 1, noise(2, 3, 3, 3), None),
        Operation(Kind.BILINEAR, (1, 0), 2, (0,)),
    ]
    values = [Value(0, 0, 3), Value(1, 0, 2), Value(2, 0, 2)]
    program = NativeProgram(pack([3, 2, 2], values, steps, 1, [2]))
    alone = NativeProgram(pack([3, 2], values[:2], steps[:1], 1, [1]))
    x = noise(1, 3, 8, 33)
    np.testing.assert_allclose(program.run([x])[0], alone.run([x])[0], rtol=0, atol=1e-5)


def test_a_skipped_branch_is_not_computed(isa):
    """Below the last level its end keeps nothing; what serves it alone meets a NaN there."""
    start, inner, gate, end, last = (
        noise(WIDE, 3, 3, 3), noise(WIDE, WIDE, 3, 3), noise(WIDE, WIDE, 1, 1),
        noise(WIDE, WIDE, 1, 1), noise(4, WIDE, 3, 3),
    )  # fmt: skip
    bias = noise(WIDE)

    def branch(levels, own_bias):
        def leveled(weight, least):
            own = np.full(weight.shape, least, np.uint8)
            return (level_data(weight, own, levels),)

        steps = [
            _conv((0,), 1, start, None),
            _conv((1,), 2, inner, own_bias, more=leveled(inner, 0)),
            Operation(Kind.MOMENTS, (2,), 3, (1, 0)),
            _conv((3,), 4, gate, own_bias, ONE, activation=Activation.SIGMOID),
            Operation(Kind.POINTWISE, (2, 4), 5, (int(Pointwise.GATE),)),
            _conv((5, 1), 6, end, bias, ONE, leveled(end, 1), residual=Residual.AFTER_ACTIVATION),
            _conv((6,), 7, last, None, shuffle=2),
        ]
        sizes = [3, *[WIDE] * 6, 1]
        values = [Value(index, 0, size) for index, size in enumerate(sizes)]
        return NativeProgram(pack(sizes, values, steps, 1, [7], levels=levels))

    sizes = [3, WIDE, WIDE, 1]
    steps = [
        _conv((0,), 1, start, None),
        Operation(Kind.POINTWISE, (1,), 2, (int(Pointwise.AFFINE),), data=(None, bias)),
        _conv((2,), 3, last, None, shuffle=2),
    ]
    values = [Value(index, 0, size) for index, size in enumerate(sizes)]
    small = NativeProgram(pack(sizes, values, steps, 1, [3]))
    poisoned, sound = (branch(2, b) for b in (np.full(WIDE, np.nan, np.float32), bias))
    x = noise(1, 3, 40, 50)
    for threads in (1, 2, 3):
        (expected,) = small.run([x], threads)
        for program in (poisoned, sound):
            (found,) = program.run([x], threads, 0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        assert np.isnan(poisoned.run([x], threads, 1)[0]).all()
        assert np.isfinite(sound.run([x], threads, 1)[0]).all()
        assert np.abs(sound.run([x], threads, 1)[0] - expected).max() > 0.1
