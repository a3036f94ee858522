"""Networks whose multiply-accumulates are counted by hand -> the plan's layers."""

import dataclasses

import pytest
import sympy
import torch
from torch import nn

from nmcompile.errors import NmcompileError
from nmcompile.passes import analyze_cost
from nmcompile.pattern import DENSE
from tests.networks import Around, PerPixel, Shared, cleaned, context, conv

H, W = 16, 24  # the reference size
PIXELS = H * W


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def plan_of(module, ctx):
    return analyze_cost(cleaned(module, ctx), ctx).the_plan


def value(formula, n=1, h=H, w=W):
    """A formula's value at a size; its divisions are whole ones."""
    sizes = {"N": sympy.Integer(n), "H": sympy.Integer(h), "W": sympy.Integer(w)}
    return int(sympy.sympify(formula.replace("//", "/").replace("/", "//"), locals=sizes))


LAYERS = {
    # name -> layer, its MACs, formula, (out, in/groups, kh, kw), output elements
    "plain": (conv(8, 12), 9 * 8 * 12 * PIXELS, "864*H*N*W", (12, 8, 3, 3), 12 * PIXELS),
    "1x1": (conv(8, 4, 1), 32 * PIXELS, "32*H*N*W", (4, 8, 1, 1), 4 * PIXELS),
    "grouped": (conv(8, 12, groups=4), 216 * PIXELS, "216*H*N*W", (12, 2, 3, 3), 12 * PIXELS),
    "depthwise": (conv(8, 8, groups=8), 72 * PIXELS, "72*H*N*W", (8, 1, 3, 3), 8 * PIXELS),
    "dilated": (
        conv(8, 8, dilation=2, padding=2), 576 * PIXELS, "576*H*N*W", (8, 8, 3, 3), 8 * PIXELS,
    ),
    "transposed": (
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), 16 * 48 * PIXELS, "768*H*N*W",
        (6, 8, 4, 4), 6 * 4 * PIXELS,
    ),
    "transposed grouped": (
        nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2), 16 * 24 * PIXELS, "384*H*N*W",
        (6, 4, 4, 4), 6 * 4 * PIXELS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_counted_as_it_is_executed(ctx, kind):
    layer, macs, formula, shape, elements = LAYERS[kind]
    found = plan_of(Around(layer, outputs=shape[0]), ctx).layer("body.0.weight")
    assert (found.macs, found.macs_formula, found.shape) == (macs, formula, shape)
    assert found.params == layer.weight.numel()
    assert found.groups == layer.groups
    assert found.activation_bytes == 4 * elements
    assert found.uses == 1
    assert [choice.pattern for choice in found.choices] == [DENSE]
    assert found.choices[0].macs == macs
    assert found.pattern == DENSE


class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = conv(3, 8, stride=2), nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, x):
        return self.up(self.down(x))


class AnySize(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = conv(3, 3, stride=2)

    def forward(self, x):
        return x + nn.functional.interpolate(self.down(x), x.shape[2:], mode="bilinear")


def test_a_division_that_rounds_down_is_written_as_one(ctx):
    (layer,) = plan_of(AnySize(), ctx).layers
    sizes = {"N": sympy.Integer(1), "H": sympy.Integer(17), "W": sympy.Integer(24)}
    assert sympy.sympify(layer.macs_formula, locals=sizes) == 81 * 9 * 12


def test_strides_divide_the_positions(ctx):
    found = plan_of(Strided(), ctx)
    down, up = found.layers
    assert down.macs == 9 * 24 * (H // 2) * (W // 2)
    assert up.macs == 16 * 24 * (H // 2) * (W // 2)  # each input pixel meets every weight once
    for layer in found.layers:
        for size in ((1, 16, 24), (3, 34, 8)):
            n, h, w = size
            assert value(layer.macs_formula, *size) == layer.params * n * (h // 2) * (w // 2)


def test_a_weight_used_three_times_is_one_layer_counted_three_times(ctx):
    found = plan_of(Shared(), ctx)
    assert [layer.name for layer in found.layers] == ["head.weight", "again.weight", "tail.weight"]
    again = found.layer("again.weight")
    assert (again.uses, again.params) == (3, 576)
    assert again.macs == 3 * 576 * PIXELS
    assert again.macs_formula == "3*(576*H*N*W)"
    assert again.activation_bytes == 3 * 4 * 8 * PIXELS
    assert found.dense_macs == sum(layer.macs for layer in found.layers)


class TwoScales(nn.Module):
    """One weight at the image's size and at half of it."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3, 3)

    def forward(self, x):
        half = self.conv(nn.functional.max_pool2d(x, 2))
        return self.conv(x) + nn.functional.interpolate(half, scale_factor=2.0)


def test_uses_at_different_sizes_are_added(ctx):
    (found,) = plan_of(TwoScales(), ctx).layers
    assert found.macs == 81 * (PIXELS + PIXELS // 4)
    assert value(found.macs_formula) == found.macs
    assert value(found.macs_formula, 2, 32, 40) == 81 * 2 * (32 * 40 + 16 * 20)


def test_a_linear_layer_is_counted_once_a_row(ctx):
    found = plan_of(PerPixel(), ctx).layer("mix.weight")
    assert (found.op, found.shape) == ("linear", (8, 8, 1, 1))
    assert found.macs == 64 * PIXELS
    assert value(found.macs_formula) == 64 * PIXELS
    assert value(found.macs_formula, 3, 10, 20) == 64 * 600


class LastAxis(nn.Module):
    """A linear layer over the last of four axes."""

    def __init__(self):
        super().__init__()
        self.head, self.mix, self.tail = conv(3, 8), nn.Linear(8, 4), conv(4, 3)

    def forward(self, x):
        return self.tail(self.mix(self.head(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_rows_of_a_linear_layer_may_have_several_axes(ctx):
    assert plan_of(LastAxis(), ctx).layer("mix.weight").macs == 32 * PIXELS


class Tied(nn.Module):
    """One weight in a convolution and in a transposed one, as in convolutional sparse coding."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8, 3, 3, 3))

    def forward(self, x):
        code = torch.relu(nn.functional.conv2d(x, self.weight, stride=2, padding=1))
        return nn.functional.conv_transpose2d(
            code, self.weight, stride=2, padding=1, output_padding=1
        )


def test_a_weight_under_two_kinds_of_convolution_is_counted_for_each(ctx):
    (found,) = plan_of(Tied(), ctx).layers
    assert found.uses == 2
    assert found.macs == 2 * 216 * (H // 2) * (W // 2)


def test_the_plan_names_where_it_was_made(ctx):
    elsewhere = dataclasses.replace(ctx, reference_size=(32, 40))
    found = plan_of(Around(conv(8, 8)), elsewhere)
    assert (found.reference_size, found.target) == ((32, 40), "counting")
    assert found.layer("body.0.weight").macs == 576 * 32 * 40


class Around1d(nn.Module):
    """A one-dimensional convolution over the pixels."""

    def __init__(self):
        super().__init__()
        self.head, self.line = conv(3, 8), nn.Conv1d(8, 8, 5, padding=2)
        self.tail = conv(8, 3)

    def forward(self, x):
        features = self.head(x)
        return self.tail(self.line(features.flatten(2)).reshape(features.shape))


def test_a_large_weight_of_another_operation_is_noted(ctx):
    found = plan_of(Around1d(), ctx)
    assert [layer.name for layer in found.layers] == ["head.weight", "tail.weight"]
    (note,) = found.notes
    assert "line.weight" in note
    assert "stays dense" in note


def test_a_network_without_layers_is_said(ctx):
    with pytest.raises(NmcompileError, match="no 2-D convolution or linear layer"):
        plan_of(nn.Upsample(scale_factor=2), ctx)
