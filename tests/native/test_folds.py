"""Skipped ends of branches beside their residuals -> one is read, and the result the same?"""

import numpy as np
import pytest

from nmcompile.runtime.native.blob import (
    ConvShape,
    Kind,
    Operation,
    Pointwise,
    Residual,
    Value,
    conv_data,
    level_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import ONE, THREE, noise

WIDE = 32


class _Net:
    """An image -> x; two branches that end in x + (...); a layer over all three, side by side.

    Values: 0 the image, 1 to 3 the parts of a buffer, 4 all of it, 5 the result, 6 another buffer.
    """

    def __init__(self, last: ConvShape, bias: bool, spoilt: int = 0, scale: float = 1.0) -> None:
        self.start, self.ends = noise(WIDE, 3, 3, 3), [noise(WIDE, WIDE, 1, 1) for _ in range(2)]
        self.added = [noise(WIDE) if bias else None for _ in self.ends]
        self.joint, self.bias = noise(16, 3 * WIDE, *last.kernel), noise(16)
        self.last, self.spoilt, self.scale = last, spoilt, scale

    def packed(self, levels: int, skipped: bool) -> NativeProgram:
        steps = [self._conv((0,), 1, self.start, None, THREE)]
        for index, (weight, bias) in enumerate(zip(self.ends, self.added, strict=True)):
            kept = np.zeros_like(weight) if skipped else weight
            more = (level_data(weight, np.ones(weight.shape, np.uint8), 2),) if levels == 2 else ()
            source = 6 if skipped and levels == 1 else index + 1  # a buffer apart: nothing folds
            if source == 6:
                steps.append(self._copy(index + 1))
            steps.append(self._conv((index + 1, source), index + 2, kept, bias, ONE, more))
        if self.spoilt:
            steps.append(self._conv((0,), self.spoilt, self.start[::-1].copy(), None, THREE))
        steps.append(self._conv((4,), 5, self.joint, self.bias, self.last))
        values = [Value(0, 0, 3), *(Value(1, i * WIDE, WIDE) for i in range(3))]
        values += [Value(1, 0, 3 * WIDE), Value(2, 0, 16), Value(3, 0, WIDE)]
        return NativeProgram(pack([3, 3 * WIDE, 16, WIDE], values, steps, 1, [5], levels=levels))

    def _copy(self, source: int) -> Operation:
        data = np.ones(WIDE, np.float32), np.zeros(WIDE, np.float32)
        return Operation(Kind.POINTWISE, (source,), 6, (int(Pointwise.AFFINE),), data=data)

    def _conv(self, inputs, output, weight, bias, shape, more=()):
        params = shape.params(Residual.AFTER_ACTIVATION if len(inputs) == 2 else Residual.NONE)
        data = conv_data(weight, bias, False)
        scalars = (0.0, 0.0, self.scale if len(inputs) == 2 else 1.0, 0.0)
        return Operation(Kind.CONV2D, inputs, output, params, data=(*data, *more), scalars=scalars)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("last", [ONE, THREE], ids=["1x1", "3x3"])
def test_what_a_skipped_branch_repeats_is_read_once(isa, last, bias, scale):
    net, x = _Net(last, bias, scale=scale), noise(1, 3, 20, 50)
    program, apart, full = net.packed(2, False), net.packed(1, True), net.packed(1, False)
    for threads in (1, 2):
        for level, other in ((0, apart), (1, full)):
            (found,), (expected,) = program.run([x], threads, level), other.run([x], threads)
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    # Beyond the end of an image is zero, not the bias: a window that reaches there reads them all.
    folds = last is ONE or not bias
    for level in (0, 1):
        ends = program.profile([x], 1, level)[1:3]
        assert [took == 0 for took in ends] == [folds and level == 0] * 2


@pytest.mark.parametrize("spoilt", [1, 2, 3])
def test_what_was_written_over_is_no_longer_the_same(isa, spoilt):
    net, x = _Net(ONE, True, spoilt), noise(1, 3, 20, 50)
    (found,), (expected,) = net.packed(2, False).run([x], level=0), net.packed(1, True).run([x])
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


def test_a_program_that_holds_nothing_else_gives_the_same_bits(isa):
    net, x = _Net(ONE, True), noise(1, 3, 20, 50)
    alone = _Net(ONE, True)
    alone.__dict__.update(net.__dict__)
    alone.ends = [np.zeros_like(end) for end in net.ends]
    (found,), (expected,) = net.packed(2, False).run([x], level=0), alone.packed(1, False).run([x])
    np.testing.assert_array_equal(found, expected)
