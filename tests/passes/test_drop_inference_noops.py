"""Graphs with what only training needs -> the same without it."""

import pytest
import torch
from torch import nn

from nmcompile.passes import drop_inference_noops
from tests.networks import Around, captured, context, conv, image, operations


class Idle(nn.Module):
    """Everything that does nothing at inference."""

    def forward(self, x):
        x = nn.functional.dropout(x, 0.5, training=False) + 0
        return x.clone().detach() + 0.0


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def test_what_does_nothing_is_removed(ctx):
    before = captured(Around(Idle(), nn.ReLU(), nn.Dropout(), conv(8, 8), nn.Dropout2d()))
    after = drop_inference_noops(before, ctx)
    assert operations(after) == ["conv2d", "relu", "conv2d", "conv2d"]
    assert {"clone", "add"} <= set(operations(before))
    assert torch.equal(after(image(before)), before(image(before)))


def test_what_does_something_stays(ctx):
    class Busy(nn.Module):
        def forward(self, x):
            return (x + 1) + x

    before = captured(Around(Busy()))
    after = drop_inference_noops(before, ctx)
    assert operations(after) == ["conv2d", "add", "add", "conv2d"]


def test_a_no_op_at_the_very_end_is_removed(ctx):
    before = captured(nn.Sequential(conv(3, 3), nn.Dropout(), Idle()))
    assert operations(drop_inference_noops(before, ctx)) == ["conv2d"]


def test_a_no_op_on_the_input_is_removed(ctx):
    before = captured(nn.Sequential(Idle(), conv(3, 3)))
    assert operations(drop_inference_noops(before, ctx)) == ["conv2d"]


def test_the_program_that_is_given_stays_as_it_is(ctx):
    before = captured(Around(Idle()))
    operations_before = operations(before)
    drop_inference_noops(before, ctx)
    assert operations(before) == operations_before
