"""fp16 kernels x shapes x patterns -> what NumPy gives of halves, in short sums to the bit?"""

import numpy as np
import pytest

from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Precision,
    Residual,
    conv_data,
    family_of,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native import reference
from tests.native.build import isas, noise, pruned, single

# The families that have kernels of halves; tiles has them in plain C++, on every machine.
HALVED = [isa for isa in isas() if isa in ("amx", "avx512_fp16", "tiles")]
SAME = (1, 1, 1, 1)
FIVE = ConvShape((5, 5), padding=(2, 2, 2, 2))
TERMS = 32  # of one sum of halves
LEAST_DB = 60.0  # of a layer's result, against that of its rounded inputs and weights


@pytest.fixture(params=HALVED)
def isa(request, monkeypatch):
    monkeypatch.setenv("NMK_ISA", request.param)
    return request.param


def _half(x):
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


def _packed(weight, bias, shape, family, **more):
    params = shape.params(more.pop("residual", Residual.NONE), family, Precision.FP16)
    outputs, inputs = len(weight), more.pop("inputs", [weight.shape[1] * shape.groups])
    data = conv_data(weight, bias, family is not Family.DENSE, more.pop("slopes", None))
    return single(Kind.CONV2D, inputs, outputs, params=params, data=data, **more)


def _agree(found, expected):
    error = np.mean((found - expected) ** 2) / max(np.mean(expected**2), 1e-6)
    assert found.shape == expected.shape
    assert -10 * np.log10(max(error, 1e-20)) > LEAST_DB


def _check(inputs, outputs, shape, size, pattern="dense", threads=1):
    kept = Pattern.parse(pattern)
    weight = pruned(kept, (outputs, inputs // shape.groups, *shape.kernel))
    bias, x = noise(outputs), noise(2, inputs, *size)
    packed = _packed(weight, bias, shape, family_of(kept.v, dense=kept.is_dense))
    exact = [a.astype(float) for a in (_half(x), _half(weight), bias)]
    _agree(NativeProgram(packed).run([x], threads)[0], reference.conv2d(*exact, shape))


@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:8", "16x2:4"])
@pytest.mark.parametrize("inputs", [1, 3, 52, 64])
def test_channels_and_patterns(isa, inputs, pattern):
    for outputs in (1, 17, 48):
        _check(inputs, outputs, FIVE, (5, 19), pattern)


@pytest.mark.parametrize("pattern", ["dense", "4:16"])
@pytest.mark.parametrize("size", [(1, 1), (2, 15), (7, 16), (3, 33), (2, 97), (5, 160)])
def test_sizes(isa, size, pattern):
    _check(16, 20, FIVE, size, pattern, threads=2)


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape((1, 1)),
        ConvShape((3, 3), padding=SAME),
        ConvShape((3, 3), (2, 2), padding=SAME),
        ConvShape((3, 3), dilation=(2, 2), padding=(2, 2, 2, 2)),
        ConvShape((5, 3), (3, 1), (1, 2), (2, 2, 2, 1), groups=2),
        ConvShape((3, 3), (2, 1), padding=SAME, groups=4),
        ConvShape((1, 3), padding=(1, 1, 0, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_windows(isa, shape, pattern):
    for size in ((9, 9), (13, 70)):
        _check(32, 24, shape, size, pattern, threads=3)


def _fused(weights, x):
    """One output of a 1x1 layer [C] of pixels [C, P]: the kernel's own order, each step rounded."""
    total = np.zeros(x.shape[1], np.float32)
    for first in range(0, len(weights), 2 * TERMS):
        sums = [np.zeros(x.shape[1], np.float16), np.zeros(x.shape[1], np.float16)]
        for i in range(first, min(first + 2 * TERMS, len(weights))):
            product = weights[i].astype(np.float64) * x[i].astype(np.float64)
            sums[i % 2] = _half(product + sums[i % 2])
        total += _half(sums[0].astype(np.float64) + sums[1]).astype(np.float32)
    return total


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 30.0, 300.0])
def test_every_step_is_rounded_once(isa, scale):
    """Subnormal halves, ties, and sums beyond the largest half: the same bits as NumPy's."""
    x, weight = scale * noise(1, 40, 8, 50), noise(3, 40, 1, 1)
    x[0, :8] = 2.0 ** np.random.default_rng(0).integers(-26, 17, x[0, :8].shape)
    x[0, 0, 0, :4] = (65519.9, 65520, -0.0, 2.0**-25)
    packed = _packed(weight, None, ConvShape((1, 1)), Family.SPARSE)
    (found,) = NativeProgram(packed).run([x])
    pixels = _half(x).reshape(40, -1)
    with np.errstate(invalid="ignore"):
        for out in range(3):
            expected = _fused(_half(weight[out, :, 0, 0]), pixels)
            np.testing.assert_array_equal(found[0, out].ravel(), expected)


def test_long_sums_go_on_in_fp32(isa):
    """Five hundred ones: a sum of halves alone would lose half of what is added past 2048."""
    x, weight = np.full((1, 500, 2, 20), 1.0, np.float32), np.full((2, 500, 1, 1), 9.0, np.float32)
    packed = _packed(weight, None, ConvShape((1, 1)), Family.DENSE)
    np.testing.assert_array_equal(NativeProgram(packed).run([x])[0], 4500.0)


@pytest.mark.parametrize("residual", Residual)
def test_epilogues(isa, residual):
    weight, bias, slopes = pruned(Pattern(1, 1, 4), (20, 16, 3, 3)), noise(20), noise(20)
    x, r = noise(1, 16, 7, 21), noise(1, 20, 7, 21)
    shape = ConvShape((3, 3), padding=SAME)
    inputs = [16] if residual is Residual.NONE else [16, 20]
    packed = _packed(
        weight, bias, shape, Family.SPARSE, residual=residual, inputs=inputs, slopes=slopes,
        activation=Activation.PRELU, scalars=(0.0, 0.0, 0.5, 0.0),
    )  # fmt: skip
    y = reference.conv2d(*(a.astype(float) for a in (_half(x), _half(weight), bias)), shape)
    y += r if residual is Residual.BEFORE_ACTIVATION else 0
    y = 0.5 * reference.activate(y, Activation.PRELU, (0, 0), slopes)
    y += r if residual is Residual.AFTER_ACTIVATION else 0
    _agree(NativeProgram(packed).run([x, r][: len(inputs)], 2)[0], y)


def test_one_nan_stays_where_it_is(isa):
    x = noise(1, 5, 9, 40)
    x[0, 3, 4, 20] = np.nan
    packed = _packed(noise(3, 5, 5, 5), None, FIVE, Family.DENSE)
    (y,) = NativeProgram(packed).run([x])
    reached = np.zeros(y.shape, bool)
    reached[:, :, 2:7, 18:23] = True
    assert np.array_equal(np.isnan(y), reached)


@pytest.mark.parametrize("isa", [name for name in isas() if name not in HALVED])
def test_where_fp16_gains_nothing_it_is_not_used(isa, monkeypatch):
    monkeypatch.setenv("NMK_ISA", isa)
    weight, x, shape = noise(8, 8, 3, 3), noise(1, 8, 9, 17), ConvShape((3, 3))
    expected = reference.conv2d(x.astype(float), weight.astype(float), None, shape)
    packed = _packed(weight, None, shape, Family.SPARSE)
    np.testing.assert_allclose(NativeProgram(packed).run([x])[0], expected, rtol=0, atol=1e-4)
