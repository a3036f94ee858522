"""Convolution and batch norm -> one convolution; where that would be wrong, both stay."""

import pytest
import torch
from torch import nn

from nmcompile.convs import get_tensor, read_conv
from nmcompile.passes import drop_inference_noops, fold_batch_norm, fold_constants
from nmcompile.pipeline import run_passes
from tests.networks import Around, Shared, captured, context, conv, image, operations, weights

NORM = "_native_batch_norm_legit_no_training"


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def folded(module, ctx):
    before = captured(module)
    after = run_passes(before, ctx, [drop_inference_noops, fold_constants, fold_batch_norm])
    torch.testing.assert_close(after(image(before)), before(image(before)), atol=1e-5, rtol=1e-4)
    return before, after


@pytest.mark.parametrize(
    "layer",
    [
        conv(8, 8),
        conv(8, 8, bias=False),
        conv(8, 8, groups=4),
        conv(8, 8, padding="same"),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2, bias=False),
    ],
    ids=str,
)
def test_a_norm_goes_into_weight_and_bias(ctx, layer):
    module = Around(layer, nn.BatchNorm2d(8), nn.ReLU())
    before, after = folded(module, ctx)
    name = "conv_transpose2d" if isinstance(layer, nn.ConvTranspose2d) else "conv2d"
    assert operations(before).count(NORM) == 1
    assert operations(after) == ["conv2d", name, "relu", "conv2d"]
    norm = module.body[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    (node,) = (
        n
        for n in after.module.graph.nodes
        if (found := read_conv(n)) and found.weight.target == "body.0.weight"
    )
    old = torch.zeros(8) if layer.bias is None else layer.bias
    expected = (old - norm.running_mean) * scale + norm.bias
    torch.testing.assert_close(get_tensor(after.module, node.args[2].target), expected.detach())


def test_a_norm_without_weights_of_its_own_is_folded(ctx):
    _, after = folded(Around(conv(8, 8), nn.BatchNorm2d(8, affine=False)), ctx)
    assert operations(after) == ["conv2d"] * 3


def test_two_norms_in_a_row_are_both_folded(ctx):
    _, after = folded(Around(conv(8, 8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)), ctx)
    assert operations(after) == ["conv2d"] * 3


class Twice(nn.Module):
    """One convolution under two norms, or one norm whose input is used besides."""

    def __init__(self, besides):
        super().__init__()
        self.conv, self.besides = conv(8, 8), besides
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        if self.besides:
            y = self.conv(x)
            return self.first(y) + y
        return self.second(self.conv(self.first(self.conv(x))))


@pytest.mark.parametrize("besides", [True, False])
def test_a_convolution_that_is_used_twice_is_left_alone(ctx, besides):
    before, after = folded(Around(Twice(besides)), ctx)
    assert operations(after).count(NORM) == operations(before).count(NORM) == 2 - besides
    assert torch.equal(weights(after)["body.0.conv.weight"], weights(before)["body.0.conv.weight"])


def test_a_norm_without_a_convolution_before_it_stays(ctx):
    _, after = folded(Around(nn.ReLU(), nn.BatchNorm2d(8)), ctx)
    assert operations(after).count(NORM) == 1


class Bare(nn.Module):
    """Weights that are parameters of one module, at the top of the network."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.rand(8, 3, 3, 3))
        self.two = nn.Parameter(torch.rand(3, 8, 3, 3))
        self.norm, self.last = nn.BatchNorm2d(8), nn.BatchNorm2d(3)

    def forward(self, x):
        x = torch.relu(self.norm(nn.functional.conv2d(x, self.one, padding=1)))
        return self.last(nn.functional.conv2d(x, self.two, padding=1))


def test_weights_of_one_module_get_a_bias_each(ctx):
    _, after = folded(Bare(), ctx)
    assert operations(after) == ["conv2d", "relu", "conv2d"]


def test_a_norm_over_another_axis_than_the_layer_s_is_left_alone(ctx):
    class Columns(nn.Module):
        """Mixes the columns of 8 x 8 blocks."""

        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm2d(8)

        def forward(self, x):
            n, c, h, w = x.shape
            rows = x.reshape(n, c, h * w // 8, 8)
            return self.norm(self.linear(rows)).reshape(n, c, h, w)

    before, after = folded(Around(Columns()), ctx)
    assert operations(after).count(NORM) == operations(before).count(NORM) == 1


def test_a_network_without_norms_stays_as_it_is(ctx):
    before, after = folded(Shared(), ctx)
    assert operations(after) == operations(before)


def test_the_program_that_is_given_stays_as_it_is(ctx):
    before = captured(Around(conv(8, 8), nn.BatchNorm2d(8)))
    kept = weights(before)["body.0.weight"].clone()
    run_passes(before, ctx, [drop_inference_noops, fold_constants, fold_batch_norm])
    assert torch.equal(weights(before)["body.0.weight"], kept)
    assert NORM in operations(before)
