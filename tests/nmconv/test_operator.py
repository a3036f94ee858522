"""nm_conv2d -> is it the convolution that it says, in both layouts, and does its shape hold?"""

import numpy as np
import onnx
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nmcompile.backends.nmconv import LAYOUTS, OPERATOR, nm_conv2d, register_schema
from nmcompile.runtime.native.blob import Residual
from tests.native.cuda.cases import CASES, LEVELS, Case, convolve, finish, weights, whole_numbers


def call(case: Case, x, weight, bias, residual, level, least, layout):
    """The operator on images [N, H, W, C], whatever its layout."""
    turned = [None if image is None else torch.from_numpy(image) for image in (x, residual)]
    if layout == "NCHW":
        turned = [None if image is None else image.permute(0, 3, 1, 2) for image in turned]
    y = nm_conv2d(
        turned[0], torch.from_numpy(weight), torch.from_numpy(bias), turned[1],
        None if level is None else torch.tensor([level], dtype=torch.int32),
        None if least is None else torch.from_numpy(least),
        [case.stride] * 2, case.padding, [1, 1], 1, int(case.activation), case.slope,
        int(case.residual), case.shuffle, layout, "layer",
    )  # fmt: skip
    return y if layout == "NHWC" else y.permute(0, 2, 3, 1)


def arrays(case: Case):
    random = np.random.default_rng(3)
    weight, least = weights(case, random)
    x = whole_numbers(random, case.batch, case.height, case.width, case.inputs)
    bias = whole_numbers(random, case.outputs)
    shape = finish(case, convolve(case, x, weight, bias), 0).shape
    residual = whole_numbers(random, *shape) if case.residual is not Residual.NONE else None
    return x, weight, least, bias, residual


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_the_convolution(case, layout):
    x, weight, _, bias, residual = arrays(case)
    expected = finish(case, convolve(case, x, weight, bias), 0 if residual is None else residual)
    found = call(case, x, weight, bias, residual, None, None, layout)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("patterns", LEVELS.values(), ids=LEVELS)
def test_level_applies_what_it_keeps(patterns):
    case = Case(patterns, height=7, width=9)
    x, weight, least, bias, _ = arrays(case)
    for level in range(len(patterns)):
        expected = finish(case, convolve(case, x, np.where(least <= level, weight, 0), bias), 0)
        found = call(case, x, weight, bias, None, level, least, "NCHW")
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shape_is_known_without_computing(case, layout):
    x, weight, _, bias, residual = arrays(case)
    expected = call(case, x, weight, bias, residual, None, None, layout)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        image = mode.from_tensor(
            torch.from_numpy(x if layout == "NHWC" else x.transpose(0, 3, 1, 2))
        )
        found = nm_conv2d(
            image, torch.from_numpy(weight), None, None, None, None, [case.stride] * 2,
            case.padding, [1, 1], 1, 0, 0.0, 0, case.shuffle, layout, "layer",
        )  # fmt: skip
    found = found if layout == "NHWC" else found.permute(0, 2, 3, 1)
    assert found.shape == expected.shape


def test_schema_is_known_to_onnx():
    register_schema()
    schema = onnx.defs.get_schema(OPERATOR, domain="nmcompile")
    assert (schema.min_input, schema.max_input, schema.max_output) == (1, 3, 1)
    assert set(schema.attributes) == {
        "weights", "bytes", "format", "residual", "routed", "layout", "sizes", "name",
        "pattern",
    }  # fmt: skip
