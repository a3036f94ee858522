"""bf16 kernels x shapes x patterns x ISAs -> what NumPy gives of rounded inputs and weights?"""

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
from tests.native.build import bf16, check, isas, noise, pruned, single

# The families that have a kernel of pairs; tiles is that of AMX in plain C++, on every machine.
PAIRED = [isa for isa in isas() if isa in ("amx", "avx512_fp16", "avx512_bf16", "tiles")]
SAME, BF16 = (1, 1, 1, 1), Precision.BF16
THREE = ConvShape((3, 3))
FIVE = ConvShape((5, 5), padding=(2, 2, 2, 2))


@pytest.fixture(params=PAIRED)
def isa(request, monkeypatch):
    monkeypatch.setenv("NMK_ISA", request.param)
    return request.param


def _check(inputs, outputs, shape, size, pattern="dense", threads=1, batch=2):
    kept = Pattern.parse(pattern)
    weight = pruned(kept, (outputs, inputs // shape.groups, *shape.kernel))
    bias, x = noise(outputs), noise(batch, inputs, *size)
    family = family_of(kept.v, dense=kept.is_dense)
    packed = single(
        Kind.CONV2D, [inputs], outputs, params=shape.params(family=family, precision=BF16),
        data=conv_data(weight, bias, family is not Family.DENSE),
    )  # fmt: skip
    exact = [a.astype(float) for a in (bf16(x), bf16(weight), bias)]
    check(packed, [x], reference.conv2d(*exact, shape), threads)


@pytest.mark.parametrize("pattern", ["dense", "16x2:4", "64x8:16", "8x1:8"])
@pytest.mark.parametrize("inputs", [1, 3, 16, 52, 64, 65])
def test_channels_and_patterns(isa, inputs, pattern):
    for outputs in (1, 17, 52, 64):
        _check(inputs, outputs, FIVE, (5, 19), pattern)


@pytest.mark.parametrize("pattern", ["dense", "20x4:16"])
@pytest.mark.parametrize("size", [(1, 1), (2, 15), (7, 16), (3, 33), (2, 97), (5, 160)])
def test_sizes(isa, size, pattern):
    _check(16, 20, FIVE, size, pattern, threads=2)


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape((1, 1)),
        ConvShape((3, 3), (2, 2), padding=SAME),
        ConvShape((3, 3), dilation=(2, 2), padding=(2, 2, 2, 2)),
        ConvShape((3, 3), (2, 1), padding=SAME, groups=4),
        ConvShape((1, 3), padding=(1, 1, 0, 0)),
        ConvShape((5, 5), padding=(2, 2, 2, 2), groups=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("pattern", ["dense", "8x8:16"])
def test_windows(isa, shape, pattern):
    for size in ((9, 9), (13, 70)):
        _check(64, 64, shape, size, pattern, threads=3)


@pytest.mark.parametrize("residual", Residual)
def test_epilogues(isa, residual):
    """Blocks of outputs with masks of their own take their own biases, slopes and residuals."""
    weight, bias, slopes = pruned(Pattern.parse("8x1:4"), (40, 16, 3, 3)), noise(40), noise(40)
    x, r = noise(1, 16, 6, 21), noise(1, 40, 6, 21)
    shape = ConvShape((3, 3), padding=SAME)
    packed = single(
        Kind.CONV2D, [16] if residual is Residual.NONE else [16, 40], 40,
        params=shape.params(residual, Family.SHARED, precision=BF16),
        data=conv_data(weight, bias, True, slopes), activation=Activation.PRELU,
        scalars=(0.0, 0.0, 0.5, 0.0),
    )  # fmt: skip
    y = reference.conv2d(*(a.astype(float) for a in (bf16(x), bf16(weight), bias)), shape)
    y += r if residual is Residual.BEFORE_ACTIVATION else 0
    y = 0.5 * reference.activate(y, Activation.PRELU, (0, 0), slopes)
    y += r if residual is Residual.AFTER_ACTIVATION else 0
    check(packed, [x] if residual is Residual.NONE else [x, r], y, 2)


def test_a_layer_without_weights_gives_its_bias(isa):
    bias = noise(20)
    packed = single(
        Kind.CONV2D, [16], 20, params=THREE.params(family=Family.SHARED, precision=BF16),
        data=conv_data(np.zeros((20, 16, 3, 3), np.float32), bias, True),
    )  # fmt: skip
    check(packed, [noise(1, 16, 7, 9)], np.broadcast_to(bias[:, None, None], (1, 20, 5, 7)), 1)


def test_one_nan_stays_where_it_is(isa):
    """Padding of tiles and pairs multiplies nothing but zeros: no other pixel may catch it."""
    x = noise(1, 5, 9, 40)
    x[0, 3, 4, 20] = np.nan
    packed = single(
        Kind.CONV2D, [5], 3, params=ConvShape((5, 5), padding=(2, 2, 2, 2)).params(precision=BF16),
        data=conv_data(noise(3, 5, 5, 5), None, False),
    )  # fmt: skip
    (y,) = NativeProgram(packed).run([x], 1)
    reached = np.zeros(y.shape, bool)
    reached[:, :, 2:7, 18:23] = True
    assert np.array_equal(np.isnan(y), reached)


@pytest.mark.parametrize("isa", [name for name in isas() if name not in PAIRED])
def test_where_bf16_gains_nothing_it_is_not_used(isa, monkeypatch):
    monkeypatch.setenv("NMK_ISA", isa)
    weight, x = noise(8, 8, 3, 3), noise(1, 8, 9, 17)
    for bits in (Precision.FP32, BF16):
        packed = single(
            Kind.CONV2D, [8], 8, params=ConvShape((3, 3)).params(precision=bits),
            data=conv_data(weight, None, False),
        )  # fmt: skip
        expected = reference.conv2d(x.astype(float), weight.astype(float), None, ConvShape((3, 3)))
        check(packed, [x], expected, 1)
