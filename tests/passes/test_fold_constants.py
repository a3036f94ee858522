"""Nodes computed from weights alone -> one weight, under which the layer is seen."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from nmcompile.passes import drop_inference_noops, fold_constants
from nmcompile.pipeline import run_passes
from tests.networks import Around, captured, context, conv, image, operations, weights


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def folded(module, ctx):
    before = captured(module)
    after = run_passes(before, ctx, [drop_inference_noops, fold_constants])
    torch.testing.assert_close(after(image(before)), before(image(before)))
    return before, after


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_normalised_weight_becomes_a_plain_one(ctx, norm):
    module = Around(norm(conv(8, 8)), nn.ReLU())
    before, after = folded(module, ctx)
    assert operations(after) == ["conv2d", "conv2d", "relu", "conv2d"]
    assert len(weights(before)) == 2  # the layer in the middle is not seen
    (name,) = set(weights(after)) - set(weights(before))
    torch.testing.assert_close(weights(after)[name], module.body[0].weight.detach())


class Reparameterised(nn.Module):
    """Two kernels that are added, one padded, one transposed."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Parameter(torch.rand(8, 8, 3, 3))
        self.narrow = nn.Parameter(torch.rand(8, 8, 1, 1))

    def forward(self, x):
        kernel = self.wide + nn.functional.pad(self.narrow.transpose(0, 1), (1, 1, 1, 1))
        return nn.functional.conv2d(x, kernel, padding=1)


def test_a_chain_of_operations_becomes_one_weight(ctx):
    module = Around(Reparameterised())
    _, after = folded(module, ctx)
    assert operations(after) == ["conv2d"] * 3
    part = module.body[0]
    expected = part.wide.detach().clone()
    expected[:, :, 1:2, 1:2] += part.narrow.detach().transpose(0, 1)
    (name,) = set(weights(after)) - {"head.weight", "tail.weight"}
    torch.testing.assert_close(weights(after)[name], expected)


class Halves(nn.Module):
    """One parameter that holds the weights of two convolutions."""

    def __init__(self):
        super().__init__()
        self.both = nn.Parameter(torch.rand(16, 8, 3, 3))

    def forward(self, x):
        first, second = self.both.chunk(2)
        x = torch.relu(nn.functional.conv2d(x, first, padding=1))
        return nn.functional.conv2d(x, second, padding=1)


def test_the_parts_of_a_split_weight_become_weights(ctx):
    module = Around(Halves())
    _, after = folded(module, ctx)
    assert operations(after) == ["conv2d", "conv2d", "relu", "conv2d", "conv2d"]
    found = weights(after)
    names = [name for name in found if name not in ("head.weight", "tail.weight")]
    expected = module.body[0].both.detach().chunk(2)
    assert len(names) == 2
    for name, part in zip(names, expected, strict=True):
        assert torch.equal(found[name], part)


class Drawing(nn.Module):
    """Adds noise that is drawn anew at every run, of the shape of a parameter."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, x):
        return x + 1e-9 * torch.rand_like(self.level)


def test_random_numbers_are_not_frozen(ctx):
    before = captured(Around(Drawing()))
    after = run_passes(before, ctx, [drop_inference_noops, fold_constants])
    assert "rand_like" in operations(after)


def test_plain_layers_stay_as_they_are(ctx):
    before, after = folded(Around(conv(8, 8), nn.ReLU()), ctx)
    assert operations(after) == operations(before)
    assert list(weights(after)) == list(weights(before))
