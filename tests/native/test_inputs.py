"""Several inputs and outputs, each of its own size -> what NumPy gives, or one clear line."""

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import (
    ConvShape,
    Kind,
    Operation,
    Pointwise,
    Value,
    conv_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native import reference
from tests.native.build import noise

SHAPE = ConvShape((3, 3), padding=(1, 1, 1, 1))
WEIGHT = noise(4, 4, 3, 3)


def _joined(factor):
    """A coarse and a fine image in -> conv(nearest(coarse) + fine), and conv(coarse), out."""
    data = conv_data(WEIGHT, None, False)
    steps = [
        Operation(Kind.NEAREST, (0,), 2, (factor,)),
        Operation(Kind.POINTWISE, (2, 1), 3, (int(Pointwise.SUM),)),
        Operation(Kind.CONV2D, (3,), 4, SHAPE.params(), data=data),
        Operation(Kind.CONV2D, (0,), 5, SHAPE.params(), data=data),
    ]
    values = [Value(index, 0, 4) for index in range(6)]
    return NativeProgram(pack([4] * 6, values, steps, 2, [4, 5]))


def _expected(coarse, fine, factor):
    wide = reference.nearest(coarse, factor) + fine
    return [reference.conv2d(x, WEIGHT, None, SHAPE) for x in (wide, coarse)]


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 16), (7, 17), (5, 33)])
def test_every_input_and_output_has_its_own_size(size, factor):
    coarse = noise(2, 4, *size)
    fine = noise(2, 4, factor * size[0], factor * size[1])
    found = _joined(factor).run([coarse, fine], 2)
    for one, other in zip(found, _expected(coarse, fine, factor), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_sizes_may_change_from_run_to_run():
    program = _joined(2)
    for height, width in ((3, 5), (4, 5), (3, 5), (3, 20)):
        coarse, fine = noise(1, 4, height, width), noise(1, 4, 2 * height, 2 * width)
        expected = _expected(coarse, fine, 2)[0]
        np.testing.assert_allclose(program.run([coarse, fine])[0], expected, atol=1e-4)


def test_inputs_need_not_be_contiguous():
    coarse, fine = noise(2, 4, 6, 10)[:, :, ::2, ::-1], noise(2, 12, 6, 20)[:, ::3]
    plain = _joined(2).run([coarse.copy(), fine.copy()])
    for one, other in zip(_joined(2).run([coarse, fine]), plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("coarse", "fine", "said"),
    [
        ((1, 4, 3, 5), (1, 4, 6, 9), "two operands have different sizes"),
        ((1, 4, 3, 5), (2, 4, 6, 10), "N the same for all inputs"),
        ((1, 4, 3, 5), (1, 3, 6, 10), "expected N x 4"),
        ((1, 4, 0, 5), (1, 4, 6, 10), "empty"),
        ((1, 4, 3, 5), (1, 4, 6, 0), "empty"),
        ((0, 4, 1, 2**24 + 1), (0, 4, 2, 2), "too large"),
    ],
)
def test_what_does_not_fit_together_is_said(coarse, fine, said):
    images = [np.empty(shape, np.float32) for shape in (coarse, fine)]
    with pytest.raises(NmcompileError, match=said):
        _joined(2).run(images)
