"""Pads, cuts, maps over all channels, and rows whose layouts differ -> what NumPy gives?"""

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import (
    Activation,
    Border,
    Kind,
    Operation,
    Pointwise,
    Value,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native import reference
from tests.native.build import check, noise, single

WIDTHS = (1, 2, 15, 16, 17, 33, 70)
MODES = {Border.ZEROS: "constant", Border.REFLECT: "reflect", Border.REPLICATE: "edge"}


def _padded(x, pads, border):
    """NumPy's pad; negative numbers cut."""
    left, right, top, bottom = pads
    height, width = x.shape[2:]
    inner = x[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    around = [[max(top, 0), max(bottom, 0)], [max(left, 0), max(right, 0)]]
    return np.pad(inner, [[0, 0], [0, 0], *around], mode=MODES[border])


@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "pads",
    [(0, 0, 0, 0), (1, 1, 1, 1), (0, 3, 0, 2), (5, 0, 4, 0), (0, -1, 0, -2), (2, 1, -1, 3)],
    ids=str,
)
def test_pads(isa, pads, width, border):
    x = noise(2, 3, 9, width)
    packed = single(Kind.PAD, [3], 3, params=(*pads, int(border)))
    if width + min(pads[0], 0) + min(pads[1], 0) < 1:
        with pytest.raises(NmcompileError, match="too small"):
            NativeProgram(packed).run([x])
    elif border is Border.REFLECT and max(pads[:2]) >= width:
        with pytest.raises(NmcompileError, match="too small to be reflected"):
            NativeProgram(packed).run([x])
    else:
        check(packed, [x], _padded(x, pads, border), 2)


@pytest.mark.parametrize("pads", [(0, 0, 3, 1), (0, 0, 1, 6), (0, 0, -3, 4)], ids=str)
@pytest.mark.parametrize("border", Border)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_of_many_layers_reach_far_enough(pads, border, threads):
    """A pad between other layers, rows of which are kept only while they are needed."""
    x = noise(1, 4, 61, 20)
    params = (int(Pointwise.AFFINE),)
    steps = [
        Operation(Kind.POINTWISE, (0,), 1, params, activation=Activation.TANH),
        Operation(Kind.PAD, (1,), 2, (*pads, int(border))),
        Operation(Kind.POINTWISE, (2,), 3, params, activation=Activation.SIGMOID),
    ]
    packed = pack([4] * 4, [Value(index, 0, 4) for index in range(4)], steps, 1, [3])
    expected = 1 / (1 + np.exp(-_padded(np.tanh(x + 1.0), pads, border) - 1.0))
    check(packed, [x], expected, threads)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("width", WIDTHS)
def test_bilinear_by_a_factor(isa, width, factor, align):
    x = noise(2, 3, 5, width)
    packed = single(Kind.BILINEAR, [3], 3, params=(int(align), factor))
    expected = reference.bilinear(x.astype(float), (5 * factor, width * factor), align)
    check(packed, [x], expected, 2)


@pytest.mark.parametrize("form", [Pointwise.SUM, Pointwise.PRODUCT, Pointwise.QUOTIENT])
@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("width", [1, 16, 33])
def test_one_channel_for_all(isa, form, channels, width):
    x, z = noise(2, 6, 5, width), 2 + np.abs(noise(2, channels, 5, width))
    packed = single(
        Kind.POINTWISE, [6, channels], 6, params=(int(form),), scalars=(0.1, 0.0, 0.5, -2.0),
        activation=Activation.LEAKY_RELU,
    )  # fmt: skip
    results = {Pointwise.SUM: 0.5 * x - 2 * z, Pointwise.PRODUCT: x * z, Pointwise.QUOTIENT: x / z}
    expected = reference.activate(results[form], Activation.LEAKY_RELU, (0.1, 0), None)
    check(packed, [x, z], expected, 2)


def test_a_gate_still_needs_every_channel():
    packed = single(Kind.POINTWISE, [6, 1], 6, params=(int(Pointwise.GATE),))
    with pytest.raises(NmcompileError, match="channels"):
        NativeProgram(packed)


def _misaligned(last):
    """x enlarged, and x padded, enlarged and cut back: equal widths in strips of two kinds."""
    steps = [
        Operation(Kind.PAD, (0,), 1, (0, 1, 0, 0, int(Border.REPLICATE))),
        Operation(Kind.NEAREST, (1,), 2, (2,)),
        Operation(Kind.PAD, (2,), 3, (0, -2, 0, 0, int(Border.ZEROS))),
        *last,
    ]
    values = [*(Value(index, 0, 4) for index in range(4)), Value(4, 0, 4), Value(4, 4, 4)]
    values += [Value(4, 0, 8), Value(5, 0, 8), Value(6, 0, 4), Value(7, 0, 4)]
    return values, steps


@pytest.mark.parametrize("width", range(1, 40))
def test_operands_in_strips_of_different_widths(isa, width):
    x = noise(2, 4, 3, width)
    last = [
        Operation(Kind.NEAREST, (0,), 8, (2,)),
        Operation(Kind.POINTWISE, (8, 3), 9, (int(Pointwise.SUM),)),
    ]
    values, steps = _misaligned(last)
    packed = pack([4, 4, 4, 4, 8, 8, 4, 4], values, steps, 1, [9])
    check(packed, [x], 2 * reference.nearest(x, 2), 2)


@pytest.mark.parametrize("width", range(1, 40))
@pytest.mark.parametrize("kind", [Kind.NEAREST, Kind.PIXEL_SHUFFLE, Kind.POINTWISE])
def test_parts_of_a_concatenation_in_strips_of_different_widths(kind, width):
    x = noise(2, 4, 3, width)
    expected = reference.nearest(x, 2)
    if kind is Kind.POINTWISE:
        second = [
            Operation(Kind.NEAREST, (0,), 8, (2,)),
            Operation(Kind.POINTWISE, (8,), 5, (int(Pointwise.AFFINE),), (0.0, 0.0, 1.0, 0.0)),
        ]
    elif kind is Kind.NEAREST:
        second = [Operation(Kind.NEAREST, (0,), 5, (2,))]
    else:
        second = [Operation(Kind.PIXEL_SHUFFLE, (7,), 5, (1,))]
    copied = (int(Pointwise.AFFINE),)
    last = [Operation(Kind.POINTWISE, (3,), 4, copied, (0.0, 0.0, 1.0, 0.0)), *second]
    values, steps = _misaligned(last)
    values = [*values[:7], Value(5, 0, 4), Value(6, 0, 4), Value(7, 0, 4)]
    if kind is Kind.PIXEL_SHUFFLE:
        steps.insert(3, Operation(Kind.NEAREST, (0,), 7, (2,)))
    packed = pack([4, 4, 4, 4, 8, 4, 4, 4], values, steps, 1, [6])
    check(packed, [x], np.concatenate([expected, expected], 1), 2)
