"""Values between layers: what is tapped, and that training brings them closer."""

import dataclasses

import pytest
import torch

from nmcompile.convs import get_tensor, read_conv, set_tensor
from nmcompile.training.features import TAPS, Taps, distance
from nmcompile.training.policy import FixedPolicy
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import train
from tests.networks import cleaned, context, plain
from tests.training.test_trainer import case, source  # noqa: F401  (fixtures)

IMAGE = torch.rand((2, 3, 16, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def program(tmp_path):
    return cleaned(plain(), context(tmp_path))


def test_all_convolutions_of_a_small_network_but_the_last_are_tapped(program):
    module = program.clone_module()
    taps, expected = Taps(module), program(IMAGE)
    for _ in range(2):
        assert torch.equal(module(IMAGE), expected)
    convs = [node for node in module.graph.nodes if read_conv(node) is not None]
    assert len(taps.values) == min(TAPS, len(convs) - 1)
    assert all(value.shape[2:] == IMAGE.shape[2:] for value in taps.values)
    assert not torch.equal(taps.values[-1], expected)


def test_equal_networks_lie_apart_by_nothing_and_others_by_a_share(program):
    first, second = program.clone_module(), program.clone_module()
    taps = [Taps(first), Taps(second)]
    first(IMAGE), second(IMAGE)
    assert distance(*taps) == 0
    name = "head.weight"
    set_tensor(first, name, 2 * get_tensor(first, name))
    first(IMAGE)
    ours, theirs = taps[0].values[0], taps[1].values[0]
    shares = (ours - theirs).abs().mean((1, 2, 3)) / theirs.abs().mean((1, 2, 3))
    whole = distance(*taps)
    assert whole >= shares.mean() / len(taps[0].values) > 0.05
    alone = []
    for image in IMAGE.split(1):
        first(image), second(image)
        alone.append(distance(*taps).item())
    assert sum(alone) / len(alone) == pytest.approx(whole.item(), rel=1e-5)


def test_training_on_features_alone_brings_them_closer(case):  # noqa: F811
    recipe = Recipe(
        steps=30, batch=4, patch=16, lr=1e-3, precision="fp32", distillation=0.0,
        reconstruction=0.0, features=1.0,
    )  # fmt: skip
    policy = FixedPolicy(case["program"].the_plan)
    curve = train(policy=policy, recipe=recipe, **case).curve
    losses = [point.loss for point in curve if point.loss is not None]
    assert losses[-1] < 0.8 * losses[0]
    silent = dataclasses.replace(recipe, features=0.0, steps=1)
    policy = FixedPolicy(case["program"].the_plan)
    assert train(policy=policy, recipe=silent, **case).curve[-1].loss == 0
