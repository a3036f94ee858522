"""Kernels x shapes x patterns x groups x threads x ISAs -> what the NumPy reference gives?"""

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, Pattern
from nmcompile.runtime import native
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Pointwise,
    Residual,
    conv_data,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native import reference
from tests.native.build import check, noise, pruned, single

CHANNELS = (1, 3, 16, 48, 52, 64, 65)
PATTERNS = tuple(map(Pattern.parse, ("dense", "2:4", "4:16", "1:8", "8x2:4k", "4x1:4k")))
SIZES = tuple((height, width) for height in (1, 2, 7) for width in (1, 2, 15, 16, 17, 33, 70))
SAME = (1, 1, 1, 1)


def _conv(pattern, inputs, outputs, shape, size, threads=1, **more):
    per_group = inputs // shape.groups
    weight, bias = pruned(pattern, (outputs, per_group, *shape.kernel)), noise(outputs)
    x = noise(2, inputs, *size)
    family = Family.DENSE if pattern.is_dense else Family.SPARSE
    data = conv_data(weight, bias, family is not Family.DENSE)
    packed = single(Kind.CONV2D, [inputs], outputs, params=shape.params(family=family), data=data)
    expected = reference.conv2d(x.astype(float), weight.astype(float), bias.astype(float), shape)
    check(packed, [x], expected, threads)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("inputs", CHANNELS)
def test_channels_and_patterns(isa, inputs, pattern):
    for outputs in CHANNELS:
        _conv(pattern, inputs, outputs, ConvShape((3, 3), padding=SAME), (5, 19))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_down_to_less_than_a_vector(isa, size, pattern):
    _conv(pattern, 16, 20, ConvShape((3, 3), padding=SAME), size, threads=2)


@pytest.mark.parametrize("width", range(1, 71))
def test_every_width(isa, width):
    _conv(PATTERNS[1], 4, 3, ConvShape((3, 3), padding=SAME), (3, width))


@pytest.mark.parametrize("pattern", [DENSE, Pattern(1, 4, 16)], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        ConvShape((1, 1)),
        ConvShape((3, 3), groups=4, padding=SAME),
        ConvShape((3, 3), groups=64, padding=SAME),
        ConvShape((5, 5), padding=(2, 2, 2, 2)),
        ConvShape((7, 1), padding=(0, 0, 3, 3)),
        ConvShape((1, 9), padding=(4, 4, 0, 0)),
        ConvShape((4, 4), padding=(1, 2, 1, 2)),
        ConvShape((3, 3)),
        ConvShape((3, 3), stride=(2, 2), padding=SAME),
        ConvShape((3, 3), stride=(3, 1), padding=SAME, groups=2),
        ConvShape((2, 2), stride=(2, 2)),
        ConvShape((3, 3), dilation=(2, 2), padding=(2, 2, 2, 2)),
        ConvShape((3, 3), stride=(2, 2), dilation=(3, 2), padding=(2, 1, 6, 3)),
        ConvShape((3, 3), dilation=(1, 20), padding=(20, 20, 1, 1)),
    ],
    ids=str,
)
def test_windows(isa, shape, pattern):
    for size in ((9, 9), (12, 32), (13, 70)):
        _conv(pattern, 64, 64, shape, size, threads=2)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads(isa, threads):
    _conv(Pattern(1, 2, 4), 16, 24, ConvShape((3, 3), padding=SAME), (41, 50), threads)


@pytest.mark.parametrize("kind", Activation)
@pytest.mark.parametrize("residual", Residual)
def test_epilogues(isa, kind, residual):
    shape, limits, alpha = ConvShape((3, 3), padding=SAME), (-0.4, 0.6), -0.7
    x, r = 3 * noise(1, 4, 6, 21), noise(1, 5, 6, 21)
    weight, bias, slopes = noise(5, 4, 3, 3), noise(5), noise(5)
    bias = bias + (100 if kind is Activation.SQUARE_ROOT else 0)
    prelu = kind is Activation.PRELU
    data = conv_data(weight, bias, False, slopes if prelu else None)
    params = shape.params(residual)
    inputs = [x] if residual is Residual.NONE else [x, r]
    packed = single(
        Kind.CONV2D, [item.shape[1] for item in inputs], 5, params=params, data=data,
        scalars=(*limits, alpha, 0.0), activation=kind,
    )  # fmt: skip
    expected = reference.conv2d(x.astype(float), weight.astype(float), bias.astype(float), shape)
    scale = np.abs(expected).max()  # of the sums: a clamped result would hide how large they are
    expected += r if residual is Residual.BEFORE_ACTIVATION else 0
    expected = alpha * reference.activate(expected, kind, limits, slopes if prelu else None)
    expected += r if residual is Residual.AFTER_ACTIVATION else 0
    check(packed, inputs, expected, 1, scale)


def test_large_arguments_of_activations(isa):
    x = np.array([-1e30, -200, -90, -88, -1e-30, 0, 1e-30, 88, 90, 200, 1e30], np.float32)
    for kind in (Activation.SIGMOID, Activation.TANH, Activation.SILU, Activation.GELU):
        packed = single(
            Kind.POINTWISE, [1], 1, params=(int(Pointwise.AFFINE),), scalars=(0, 0, 1, 0),
            activation=kind,
        )  # fmt: skip
        (found,) = NativeProgram(packed).run([x.reshape(1, 1, 1, -1)])
        with np.errstate(over="ignore"):
            expected = reference.activate(x.astype(float), kind, (0, 0), None)
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [Pointwise.AFFINE, Pointwise.SUM, Pointwise.PRODUCT])
@pytest.mark.parametrize("width", [1, 16, 33])
def test_pointwise(isa, form, width):
    x, z = noise(2, 6, 5, width), noise(2, 6, 5, width)
    scale, shift = noise(6), noise(6)
    each = (scale[:, None, None], shift[:, None, None])
    inputs = [x] if form is Pointwise.AFFINE else [x, z]
    data = (scale, shift) if form is Pointwise.AFFINE else ()
    packed = single(
        Kind.POINTWISE, [6] * len(inputs), 6, params=(int(form),), data=data,
        scalars=(0.1, 0.0, 0.5, -2.0), activation=Activation.LEAKY_RELU,
    )  # fmt: skip
    results = {
        Pointwise.AFFINE: x * each[0] + each[1],
        Pointwise.SUM: 0.5 * x - 2 * z,
        Pointwise.PRODUCT: x * z,
    }
    expected = reference.activate(results[form], Activation.LEAKY_RELU, (0.1, 0), None)
    check(packed, inputs, expected, 2)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 5, 16, 37])
def test_enlarging(isa, factor, width):
    x = noise(2, 2 * factor**2, 5, width)
    packed = single(Kind.PIXEL_SHUFFLE, [x.shape[1]], 2, params=(factor,))
    check(packed, [x], reference.pixel_shuffle(x, factor), 2)
    packed = single(Kind.NEAREST, [x.shape[1]], x.shape[1], params=(factor,))
    check(packed, [x], reference.nearest(x, factor), 2)


@pytest.mark.parametrize("size", [(7, 7), (9, 33), (20, 70)], ids=str)
def test_pools(isa, size):
    x = noise(2, 5, *size)
    for shape in (
        ConvShape((2, 2), (2, 2)),
        ConvShape((7, 7), (3, 3)),
        ConvShape((3, 3), (2, 2), padding=SAME),
    ):
        packed = single(Kind.MAX_POOL, [5], 5, params=shape.params())
        check(packed, [x], reference.max_pool(x, shape), 2)


@pytest.mark.parametrize("size", [(1, 2), (3, 17), (40, 70)], ids=str)
@pytest.mark.parametrize("params", [(0, 0), (1, 0), (1, 1)])
def test_moments(isa, size, params):
    x = noise(2, 5, *size) + 10
    packed = single(Kind.MOMENTS, [5], 5, params=params)
    check(packed, [x], reference.moments(x.astype(float), params[0] == 1, params[1]), 2)


def _reached(weight, channel):
    """Where a NaN in one input channel at (9, 21) comes out of a 3x3 convolution."""
    x = noise(1, weight.shape[1], 20, 50)
    x[0, channel, 9, 21] = np.nan
    packed = single(
        Kind.CONV2D, [weight.shape[1]], len(weight), data=conv_data(weight, None, True),
        params=ConvShape((3, 3), padding=SAME).params(family=Family.SPARSE),
    )  # fmt: skip
    return np.isnan(NativeProgram(packed).run([x])[0][0])


@pytest.mark.parametrize("text", ["8x2:4k", "8x1:4k", "8x1:16k"])
def test_what_no_output_of_a_group_keeps_does_not_reach_it(isa, text):
    weight = pruned(Pattern.parse(text), (40, 32, 3, 3))
    weight[:8, 3], weight[:, 5], weight[16:24] = 1, 0, 0
    keeps = (weight != 0).any((2, 3))
    for channel in (3, 5):
        reached = _reached(weight, channel).any((1, 2))
        assert np.array_equal(reached, keeps[:, channel])
    _check_3x3(weight)


def test_whole_kernels_go_by_winograds_products_and_others_by_the_direct_sum(isa):
    """A NaN in Winograd's block of 6 x 6 inputs reaches all of its outputs, else 3 x 3 of them."""
    for text, direct in (("8x2:4k", False), ("8x1:8k", False), ("2:4", False), ("1:8", True)):
        weight = pruned(Pattern.parse(text), (64, 64, 3, 3))
        weight[8:16, 7] = 1
        rows, columns = (np.flatnonzero(_reached(weight, 7)[9].any(axis)) for axis in (1, 0))
        assert (rows.tolist() == [8, 9, 10] and columns.tolist() == [20, 21, 22]) == direct, text


def test_a_layer_without_weights_gives_its_bias(isa):
    _check_3x3(np.zeros((20, 16, 3, 3), np.float32))


def _check_3x3(weight):
    shape, bias, x = (
        ConvShape((3, 3), padding=SAME),
        noise(len(weight)),
        noise(1, weight.shape[1], 9, 21),
    )
    packed = single(
        Kind.CONV2D, [weight.shape[1]], len(weight), data=conv_data(weight, bias, True),
        params=shape.params(family=Family.SPARSE),
    )  # fmt: skip
    expected = reference.conv2d(x.astype(float), weight.astype(float), bias.astype(float), shape)
    check(packed, [x], expected, 2)


def test_nan_comes_through_where_it_belongs(isa):
    x = noise(1, 4, 8, 40)
    x[0, 1, 4, 20] = np.nan
    shape = ConvShape((3, 3), padding=SAME)
    weight = np.ones((4, 4, 3, 3), np.float32)
    packed = single(
        Kind.CONV2D, [4], 4, params=shape.params(), data=conv_data(weight, None, False),
        activation=Activation.RELU,
    )  # fmt: skip
    (found,) = NativeProgram(packed).run([x])
    expected = np.zeros(found.shape, bool)
    expected[:, :, 3:6, 19:22] = True
    np.testing.assert_array_equal(np.isnan(found), expected)


def test_unknown_isa_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("NMK_ISA", "mmx")
    with pytest.raises(
        NmcompileError, match=r"NMK_ISA=.mmx.: expected amx, avx512_fp16, avx512_bf16"
    ):
        native.isa()
