"""Difficulty heads: within their allowance, and the same lowered to a native program."""

import dataclasses

import numpy as np
import pytest
import torch

from nmcompile.backends.native import lower
from nmcompile.errors import NmcompileError
from nmcompile.routing.head import (
    SHARE,
    WIDTHS,
    allowance_of,
    cost_of,
    head_for,
    head_program,
    make_head,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.routing.nests import nest


@pytest.mark.parametrize("value_range", [1.0, 255.0])
@pytest.mark.parametrize("size", [(64, 64), (4, 4), (37, 50), (5, 131)], ids=str)
def test_a_lowered_head_says_the_same(tmp_path, value_range, size):
    head = make_head(3, 4, value_range, seed=1)
    program = head_program(head, nest(tmp_path)[1])
    image = torch.rand(2, 3, *size) * value_range
    with torch.no_grad():
        expected = head(image).numpy()
    assert expected.shape == (2, 4 + 1, 1, 1)
    np.testing.assert_allclose(program(image).numpy(), expected, rtol=1e-4, atol=1e-6)
    native = NativeProgram(lower(program))
    for threads in (1, 2):
        (found,) = native.run([image.numpy()], threads)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert native.operations == 5


def test_the_width_follows_the_allowance():
    found = [make_head(3, 3, 1.0, 0, allowance) for allowance in (1e6, 500.0, 60.0)]
    assert found[0].width == WIDTHS[0] > found[1].width > found[2].width
    for head, allowance in zip(found, (1e6, 500.0, 60.0), strict=True):
        assert head.macs(256, 256) <= allowance * 256**2
    with pytest.raises(NmcompileError, match=r"\d+ MACs a pixel, expected at most 10.*--route"):
        make_head(3, 3, 1.0, 0, 10.0)


def test_few_weights_make_a_narrow_head_but_no_error():
    def weights(head):
        return sum(weight.numel() for weight in head.parameters())

    found = [make_head(3, 3, 1.0, 0, size=size) for size in (1e6, 1e4, 10.0)]
    assert found[0].width == WIDTHS[0] > found[1].width > found[2].width == WIDTHS[-1]
    assert weights(found[1]) <= 1e4 < weights(found[0])


def test_a_network_gets_the_head_that_it_can_bear(tmp_path):
    dense, nested = nest(tmp_path)
    head = head_for(nested, seed=0)
    assert head.macs(64, 64) <= SHARE * dense.the_plan.dense_macs * 64**2 / (16 * 24)


def test_macs_are_those_of_its_convolutions():
    head, counted = make_head(3, 3, 1.0, 0), []
    for layer in head.children():
        layer.register_forward_hook(
            lambda own, _, out: counted.append(own.weight[0].numel() * out[0].numel())
        )
    head(torch.rand(1, 3, 50, 77))
    assert head.macs(50, 77) == sum(counted)


def test_cost_is_relative_to_the_dense_network(tmp_path):
    dense, _ = nest(tmp_path)
    plan = dense.the_plan
    pixels = plan.reference_size[0] * plan.reference_size[1]
    assert allowance_of(dense) == pytest.approx(SHARE * plan.dense_macs / pixels)
    head = make_head(3, 3, 1.0, 0, 60.0)
    whole = plan.dense_macs * 64**2 / pixels
    assert cost_of(head, dense, 64) == pytest.approx(head.macs(64, 64) / whole)


def test_the_seed_alone_decides():
    before = torch.get_rng_state()
    first, same, other = (make_head(1, 2, 1.0, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.first.weight, same.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


def test_a_head_takes_the_image_alone_whatever_the_network_takes(tmp_path):
    nested = nest(tmp_path)[1]
    fixed = dataclasses.replace(nested.program.interface, fixed_size=(64, 64), scale=2)
    nested = dataclasses.replace(
        nested, program=dataclasses.replace(nested.program, interface=fixed)
    )
    interface = head_program(make_head(3, 3, 1.0, 0), nested).interface
    assert (interface.scale, interface.fixed_size, interface.minimum) == (1, None, 4)
