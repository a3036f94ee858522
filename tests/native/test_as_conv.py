"""Transposed convolutions, pools and unshuffles as plain convolutions -> what NumPy gives?"""

import numpy as np
import pytest

from nmcompile.backends.as_conv import averaged, phases, thinned, transposed, unshuffled
from nmcompile.pattern import DENSE, Pattern
from nmcompile.runtime.native.blob import (
    Family,
    Kind,
    Operation,
    Value,
    conv_data,
    family_of,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native import reference
from tests.native.build import check, noise, pruned, single

# kernel, stride, padding, output padding, dilation
WINDOWS = [
    (2, 2, 0, 0, 1), (4, 2, 1, 0, 1), (3, 2, 1, 1, 1), (9, 2, 4, 1, 1), (6, 2, 2, 0, 1),
    (8, 4, 2, 0, 1), (9, 3, 4, 2, 1), (3, 3, 0, 0, 1), (4, 4, 0, 0, 1), (1, 2, 0, 1, 1),
    (3, 1, 1, 0, 1), (5, 1, 0, 0, 1), (3, 1, 2, 0, 1), (2, 1, 1, 0, 1), (3, 2, 1, 1, 2),
    (4, 2, 2, 0, 1), (2, 3, 0, 1, 1),
]  # fmt: skip


def _program(found, bias, inputs, outputs, family):
    params, data = phases(found, bias, family)
    wide = len(found.weight)
    steps = [
        Operation(Kind.CONV2D, (0,), 1, params, data=data),
        Operation(Kind.PIXEL_SHUFFLE, (1,), 2, (found.factor,)),
    ]
    values = [Value(0, 0, inputs), Value(1, 0, wide), Value(2, 0, outputs)]
    return pack([inputs, wide, outputs], values, steps, 1, [2])


@pytest.mark.parametrize("pattern", [DENSE, Pattern(1, 2, 4)], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_transposed_convolutions(isa, window, pattern):
    kernel, stride, padding, extra, dilation = window
    for groups, size in ((1, (5, 7)), (2, (4, 18)), (4, (3, 33))):
        weight, bias = pruned(pattern, (8, 16 // groups, kernel, kernel)), noise(8)
        found = transposed(
            weight, (stride,) * 2, (dilation,) * 2, (padding,) * 4, (extra,) * 2, groups
        )
        assert found.crop == (0, 0)
        x = noise(2, 16, *size)
        expected = reference.conv_transpose2d(
            x.astype(float), weight.astype(float), stride, dilation, padding, extra, groups
        )
        packed = _program(found, bias, 16, 8, family_of(1, dense=pattern.is_dense))
        check(packed, [x], expected + bias[:, None, None], 2)


def test_what_the_phases_do_not_fill_is_to_be_cut_off():
    found = transposed(noise(1, 1, 3, 3), (2, 2), (1, 1), (1, 1, 1, 1), (0, 0), 1)
    assert found.crop == (1, 1)


def test_strides_must_be_equal():
    assert transposed(noise(1, 1, 3, 3), (2, 1), (1, 1), (0, 0, 0, 0), (0, 0), 1) is None


def test_phases_without_zeros_stay_dense():
    found = transposed(noise(4, 4, 2, 2), (2, 2), (1, 1), (0, 0, 0, 0), (0, 0), 1)
    assert found.weight.shape == (16, 4, 1, 1)
    assert not found.has_zeros
    assert transposed(noise(4, 4, 4, 4), (2, 2), (1, 1), (1, 1, 1, 1), (0, 0), 1).has_zeros


@pytest.mark.parametrize("width", [1, 5, 16, 37])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_pixels_in_blocks(isa, factor, width):
    x = noise(2, 3, 5 * factor, width * factor)
    x[0, 0, 0, 0] = np.inf
    blocks = x.reshape(2, 3, 5, factor, width, factor)
    unshuffle = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(2, 3 * factor**2, 5, width)
    for (weight, shape), expected in (
        (unshuffled(3, factor), unshuffle),
        (thinned(3, factor), x[:, :, ::factor, ::factor]),
        (averaged(3, (factor,) * 2, (factor,) * 2, (0, 0)), blocks.mean((3, 5))),
    ):
        packed = single(
            Kind.CONV2D, [3], len(weight), params=shape.params(family=Family.SPARSE),
            data=conv_data(weight, None, sparse=True),
        )  # fmt: skip
        (found,) = NativeProgram(packed).run([x], 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
