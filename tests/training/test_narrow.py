"""Levels that are trained at their own width: the same values and gradients, fewer channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nmcompile.training.features import Taps
from nmcompile.training.narrow import Narrow
from nmcompile.training.nested import NestedPolicy
from nmcompile.training.network import Trainable
from tests.networks import conv, image
from tests.routing.nests import nest

CHANNELS = ("2:8c", "6:8c", "dense")


class Split(nn.Module):
    """As of IMDN: a part of what a layer makes is kept, the rest goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3, 16), conv(16, 3)
        self.first, self.second, self.join = conv(16, 16), conv(8, 16), conv(24, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        kept, rest = torch.split(F.leaky_relu(self.first(x), 0.1), (8, 8), 1)
        return self.tail(x + self.join(torch.cat((kept, self.second(rest)), 1)))


def chain() -> nn.Module:
    middle = [layer for _ in range(3) for layer in (conv(16, 16), nn.ReLU())]
    return nn.Sequential(conv(3, 16), nn.ReLU(), *middle, conv(16, 3))


def trained(nested):
    policy = NestedPolicy(nested, 0)
    return policy, Trainable(nested.program, policy)


def narrows(network):
    return [m for m in network.module.modules() if isinstance(m, Narrow)]


@pytest.mark.parametrize("make", [chain, Split])
def test_values_and_gradients_are_those_of_masks(tmp_path, make):
    _, nested = nest(tmp_path, make(), CHANNELS)
    policy, network = trained(nested)
    x = image(nested.program)
    assert narrows(network)
    for level in (0, 2, 1):
        policy.set_level(level)
        masked = nested.at(level).clone_module()
        for parameter in masked.parameters():
            parameter.requires_grad_()
        network.module.zero_grad()
        given, wanted = network(x), masked(x)
        torch.testing.assert_close(given, wanted)
        given.square().sum().backward()
        wanted.square().sum().backward()
        for name, least in nested.least.items():
            expected = masked.get_parameter(name).grad * (least <= level)
            torch.testing.assert_close(network.raw(name).grad, expected, rtol=1e-4, atol=1e-4)


def test_a_level_computes_what_it_keeps(tmp_path, monkeypatch):
    _, nested = nest(tmp_path, chain(), CHANNELS)
    policy, network = trained(nested)
    seen = []

    def spy(self, x, weight, bias):
        seen.append(tuple(weight.shape[:2]))
        return F.conv2d(x, weight, bias, padding=1)

    monkeypatch.setattr(Narrow, "_convolved", spy)
    for level, expected in ((0, [(4, 4), (4, 4)]), (2, [(16, 16), (16, 16)])):
        seen.clear()
        policy.set_level(level)
        network(image(nested.program))
        assert seen[-3:-1] == expected  # what the last of them makes, an unpruned layer reads


def test_element_wise_levels_stay_as_wide(tmp_path):
    _, nested = nest(tmp_path)
    assert not narrows(trained(nested)[1])


def test_weights_that_happen_to_be_zero_are_trained(tmp_path):
    _, nested = nest(tmp_path, chain(), CHANNELS)
    name = next(iter(nested.least))
    column = int((nested.least[name] == 0).flatten(2).any(2).any(0).nonzero()[0])
    with torch.no_grad():
        nested.program.module.get_parameter(name)[:, column] = 0
    policy, network = trained(nested)
    policy.set_level(0)
    network(image(nested.program)).square().sum().backward()
    assert network.raw(name).grad[:, column].abs().max() > 0


def test_tapped_values_are_those_of_whole_networks(tmp_path):
    _, nested = nest(tmp_path, chain(), CHANNELS)
    _, network = trained(nested)
    whole = nested.program.clone_module()
    taps = Taps(network.module), Taps(whole)
    x = image(nested.program)
    network.module(x), whole(x)
    assert len(taps[0].values) == len(taps[1].values) == 4
    for one, other in zip(*(tap.values for tap in taps), strict=True):
        torch.testing.assert_close(one, other)


class Gated(nn.Module):
    """As of IMDN: a residual branch whose channels are weighed by their mean and deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3, 8), conv(8, 3)
        self.first, self.gate, self.join = conv(8, 8), conv(8, 8, 1), conv(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        y = F.leaky_relu(self.first(x), 0.1)
        scale = self.gate(y.mean((2, 3), keepdim=True) + y.std((2, 3), correction=0, keepdim=True))
        return self.tail(x + self.join(y * torch.sigmoid(scale)))


def test_a_skipped_branch_is_not_computed_and_its_bias_is_trained(tmp_path, monkeypatch):
    """A deviation of nothing would have no gradient."""
    _, nested = nest(tmp_path, Gated(), ("skip", "dense"))
    policy, network = trained(nested)
    policy.set_level(0)
    calls, whole = [], Narrow._convolved

    def spy(self, x, weight, bias):
        calls.append(tuple(weight.shape[:2]))
        return whole(self, x, weight, bias)

    monkeypatch.setattr(Narrow, "_convolved", spy)
    x = image(nested.program)
    given = network(x)
    torch.testing.assert_close(given, nested.at(0)(x))
    assert set(calls) == {(1, 1)}
    given.square().sum().backward()
    gradients = {name: p.grad for name, p in network.module.named_parameters()}
    assert all(g is None or g.isfinite().all() for g in gradients.values())
    assert gradients["join.bias"].abs().max() > 0
    policy.set_level(1)
    torch.testing.assert_close(network(x), nested.at(1)(x))
