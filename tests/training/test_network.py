"""Programs -> modules with masked weights that train, and programs with exact zeros again."""

import dataclasses

import pytest
import torch
from torch import nn

from nmcompile.passes import analyze_cost, measure_latency, prune
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.training.network import Trainable
from nmcompile.training.policy import FixedPolicy
from tests.networks import Around, Shared, cleaned, context, conv, image, plain, weights


def pruned(module, ctx, patterns):
    program = run_passes(cleaned(module, ctx), ctx, [analyze_cost, measure_latency])
    plan = program.the_plan.assign({n: Pattern.parse(p) for n, p in patterns.items()}, {})
    facts = program.facts | {"patterns"}
    return prune(dataclasses.replace(program.with_plan(plan), facts=facts), ctx)


def trainable(program):
    return Trainable(program, FixedPolicy(program.the_plan))


NETWORKS = {
    "plain": (plain, "body.0.weight", "2:4"),
    "shared": (Shared, "again.weight", "1:4"),
    "vector-wise": (lambda: Around(conv(8, 8)), "body.0.weight", "4x2:4"),
    "transposed": (
        lambda: Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)),
        "body.1.weight",
        "2:4",
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_moves_all_but_the_mask(tmp_path, kind):
    make, name, text = NETWORKS[kind]
    ctx = context(tmp_path, patterns=(Pattern.parse(text),))
    program = pruned(make(), ctx, {name: text})
    before = {key: value.clone() for key, value in weights(program).items()}
    network = trainable(program)
    x = image(program)
    assert torch.equal(network(x), program(x))
    optimiser = torch.optim.SGD(network.module.parameters(), lr=0.1)
    network(x).square().mean().backward()
    optimiser.step()
    after = network.to_program()
    assert all(torch.equal(weights(program)[key], value) for key, value in before.items())
    for key, value in weights(after).items():
        assert not torch.equal(value, before[key])
    assert torch.equal(weights(after)[name] != 0, before[name] != 0)
    assert torch.equal(after(x), network(x).detach())
    assert after.plan == program.plan


def test_pruned_weights_get_no_gradient_and_dense_layers_no_mask(tmp_path):
    program = pruned(plain(), context(tmp_path), {"body.0.weight": "2:4"})
    network = trainable(program)
    network(image(program)).sum().backward()
    assert list(network.maskings) == ["body.0.weight"]
    gradients = {n: p.grad for n, p in network.module.named_parameters()}
    assert len(gradients) == 8  # four layers, each a weight and a bias
    masked = gradients["body.0.parametrizations.weight.original"]
    assert torch.equal(masked != 0, network.maskings["body.0.weight"].mask())


def test_a_weight_of_the_root_is_masked(tmp_path):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3))
            self.middle = nn.Parameter(torch.randn(3, 8, 3, 3))

        def forward(self, x):
            y = nn.functional.conv2d(x, self.kernel, padding=1)
            return nn.functional.conv2d(y, self.middle, padding=1)

    program = pruned(Root(), context(tmp_path), {"middle": "2:4"})
    network = trainable(program)
    x = image(program)
    network(x).sum().backward()
    assert torch.equal(network.to_program()(x), program(x))
    assert list(network.maskings) == ["middle"]


def test_a_shared_weight_is_masked_once_a_run(tmp_path):
    program = pruned(Shared(), context(tmp_path), {"again.weight": "2:4"})
    network = trainable(program)
    calls = []
    network.maskings["again.weight"].register_forward_hook(lambda *_: calls.append(1))
    network(image(program))
    assert len(calls) == 1


def test_state_comes_back(tmp_path):
    program = pruned(plain(), context(tmp_path), {"body.0.weight": "2:4"})
    network, other = trainable(program), trainable(program)
    with torch.no_grad():
        for value in network.module.parameters():
            value.add_(0.1)
    other.load(network.state())
    x = image(program)
    assert torch.equal(other(x), network(x))
    assert not torch.equal(other(x), program(x))


def test_constants_are_not_trained(tmp_path):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.slope = nn.PReLU()

        def forward(self, x):
            return self.slope(self.conv(x - self.mean)) + self.mean

    ctx = context(tmp_path)
    program = run_passes(cleaned(Shifted(), ctx), ctx, [analyze_cost])
    network = trainable(program)
    names = {n for n, p in network.module.named_parameters() if p.requires_grad}
    assert names == {"conv.weight", "conv.bias", "slope.weight"}
