"""Types, sizes and formats of tensors -> what the plugin answers, or the one line that it logs."""

import re

import numpy as np
import pytest

from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import CASES, Case, convolve, finish, weights
from tests.native.trt.checks import fits, node_of, tensors_of
from tests.native.trt.harness import (
    BF16,
    FLOAT,
    FORMATS,
    HALF,
    HWC8,
    INT32,
    LINEAR,
    TYPES,
    Tensor,
)

SIZES = [(1, 7, 9), (3, 8, 8), (2, 33, 40)]
FULL = Case(("1:4", "2:4"), residual=Residual.AFTER_ACTIVATION)  # an image, a residual, a level
INT8 = 2


def _open(case, last):
    return Tensor(HALF, LINEAR, (-1, -1, -1, case.inputs) if last else (-1, case.inputs, -1, -1))


def _expected(case, size):
    """The plain convolution's shape, NHWC."""
    weight, _ = weights(case, np.random.default_rng(0))
    image = np.zeros((*size, 1), np.float32)  # one channel gives the same shape
    return finish(case, convolve(case, image, weight[:, :1], 0.0), 0.0).shape


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_shape_is_the_convolutions_for_every_size(harness, case, layout):
    plugin = harness.plugin(node_of(case, layout=layout))
    last = layout == "NHWC"
    for size in SIZES:
        sizes = (size[0], *size[1:], 0) if last else (size[0], 0, *size[1:])
        count = 1 + (case.residual is not Residual.NONE)
        _, found = plugin.output_shape([_open(case, last)] * count, sizes)
        batch, height, width, channels = _expected(case, size)
        assert found == (
            (batch, height, width, channels) if last else (batch, channels, height, width)
        )


def test_size_that_stays_is_the_inputs_own_expression(harness):
    """So that TensorRT sees that a residual has the output's shape."""
    text, _ = harness.plugin(node_of(Case())).output_shape([_open(Case(), False)], (1, 0, 5, 5))
    assert text == "a,64,c,d"


def test_known_sizes_give_constants(harness):
    case = Case(stride=2, outputs=256, shuffle=2)
    text, found = harness.plugin(node_of(case)).output_shape(
        [Tensor(HALF, HWC8, (2, 64, 21, 8))], ()
    )
    assert found == (2, 64, 22, 8)
    assert not re.search("[a-h]", text)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ([(1, 32, 8, 8)], "found an image of 4 dimensions and 32 channels, expected N, C, H, W"),
        ([(64, 8, 8)], "found an image of 3 dimensions, expected N, C, H, W with 64 channels"),
        ([(1, 64, 8, 8)] * 2, r"found 2 inputs and 1 outputs, expected 1 \(image\) and 1"),
    ],
)  # fmt: skip
def test_impossible_input_is_one_line(harness, inputs, found):
    plugin = harness.plugin(node_of(Case()))
    assert plugin.output_shape([Tensor(HALF, HWC8, sizes) for sizes in inputs], ()) is None
    (line,) = harness.log()
    assert re.match(f"1 nmcompile: layer body.0: {found}.*; ", line)


@pytest.mark.parametrize("case", [FULL, Case(half=Half.BF16), Case(inputs=3, outputs=20)], ids=str)
def test_one_combination_of_formats_is_supported(harness, case):
    routed = len(case.patterns) > 1
    made = node_of(case, routed=int(routed))
    plugin = harness.plugin(made)
    right = tensors_of(case, made, (1, 8, 8), (1, 8, 8, case.outputs))
    for place, tensor in enumerate(right):
        supported = [
            (kind, order) for kind in TYPES for order in FORMATS
            if plugin.supports(place, [*right[:place], Tensor(kind, order, tensor.sizes)]
                               + [Tensor(INT8, 1, (1,))] * (len(right) - place - 1))
        ]  # fmt: skip
        assert supported == [(tensor.type, tensor.format)]
    assert harness.log() == []


@pytest.mark.parametrize("case", [Case(inputs=12), Case(outputs=20), Case(outputs=36, shuffle=3)])
def test_channels_that_fill_no_vector_are_told_once(harness, case):
    assert not fits(case)
    made = node_of(case, layout="NCHW")
    plugin = harness.plugin(made)
    tensors = tensors_of(case, made, (1, 8, 8), (1, 8, 8, case.outputs // case.shuffle**2))
    assert not any(plugin.supports(place, tensors) for place in (0, 1, 0, 1))
    (line,) = harness.log()
    assert line.startswith(f"1 nmcompile: layer body.0: found {case.inputs} channels in and ")
    assert line.endswith("write it in layout NHWC, or leave it to TensorRT's own convolution")


def test_output_has_the_images_type(harness):
    assert harness.plugin(node_of(FULL, routed=1)).output_type([HALF, HALF, INT32]) == HALF
    assert harness.plugin(node_of(Case(half=Half.BF16))).output_type([BF16]) == BF16


@pytest.mark.parametrize(
    ("types", "place"), [([BF16, HALF, INT32], 0), ([HALF, BF16, INT32], 1), ([HALF, HALF, 8], 2)]
)
def test_other_type_is_one_line(harness, types, place):
    assert harness.plugin(node_of(FULL, routed=1)).output_type(types) is None
    (line,) = harness.log()
    assert f"layer body.0: found input {place} of TensorRT's type {types[place]}, expected" in line


def test_fp32_is_refused_where_no_network_is_weakly_typed(harness, major):
    plugin = harness.plugin(node_of(Case()))
    assert plugin.output_type([FLOAT]) == (HALF if major < 11 else None)
    assert len(harness.log()) == (0 if major < 11 else 1)


@pytest.mark.parametrize(
    ("place", "sizes", "found"),
    [
        (0, (1, 32, 8, 8), "found an image of 1 x 32 x 8 x 8, expected N, C, H, W with 64"),
        (1, (1, 64, 8, 7), "found a residual of 1 x 64 x 8 x 7, expected the output's shape, 1 x"),
        (2, (2,), "found a level of 2, expected one number"),
    ],
)
def test_shapes_that_do_not_agree_are_one_line(harness, device, place, sizes, found):
    made = node_of(FULL, routed=1)
    plugin = harness.plugin(made)
    tensors = tensors_of(FULL, made, (1, 8, 8), (1, 8, 8, 64))
    assert plugin.configure(tensors)
    assert plugin.shape_change(tensors)
    tensors[place] = Tensor(tensors[place].type, tensors[place].format, sizes)
    for asked in (plugin.configure, plugin.shape_change):
        assert not asked(tensors)
        (line,) = harness.log()
        assert f"layer body.0: {found}" in line


def test_open_sizes_are_no_mistake_while_building(harness):
    made = node_of(FULL, routed=1)
    tensors = tensors_of(FULL, made, (-1, -1, -1), (-1, -1, -1, 64))
    assert harness.plugin(made).configure(tensors)


@pytest.mark.parametrize(
    ("size", "shape", "found"),
    [
        ((1, 8, 8), (1, 8, 9, 64), "found an output of 1 x 64 x 8 x 9, expected 1 x 64 x 8 x 8; b"),
        ((1, 0, 8), (1, 0, 8, 64), "found an image of 1 x 0 x 8, expected sides from 1 to 2"),
    ],
)
def test_impossible_size_is_one_line(harness, device, size, shape, found):
    made = node_of(Case())
    plugin = harness.plugin(made)
    assert not plugin.shape_change(tensors_of(Case(), made, size, shape))
    (line,) = harness.log()
    assert f"layer body.0: {found}" in line


def test_it_needs_no_workspace_and_has_one_tactic(harness):
    assert harness.plugin(node_of(Case())).extras() == 0
