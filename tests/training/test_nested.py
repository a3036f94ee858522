"""Levels that are trained jointly: masks hold at each, and a step is what was drawn for it."""

import dataclasses
from statistics import fmean

import numpy as np
import pytest
import torch

from nmcompile.convs import to_canonical
from nmcompile.data import Source
from nmcompile.evaluate import evaluate
from nmcompile.images import write_image
from nmcompile.pattern import Pattern
from nmcompile.routing.levels import make_levels
from nmcompile.routing.spec import RouteSpec
from nmcompile.training.batches import Patches
from nmcompile.training.nested import NestedPolicy, train_levels
from nmcompile.training.network import Trainable
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import _Run
from tests.networks import cleaned, context, image, plain, weights

RECIPE = Recipe(steps=6, batch=4, patch=16, lr=1e-3, validations=3, precision="fp32")
PATTERNS = tuple(Pattern(1, n, 4) for n in (1, 2, 3))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Arguments of `train_levels` but for the recipe, by name."""
    folder = tmp_path_factory.mktemp("case")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for index in range(4):
        picture = generator.integers(0, 256, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
        write_image(folder / f"images/{index}.png", picture.astype(np.uint8))
    ctx = context(folder, patterns=PATTERNS)
    dense = cleaned(plain(), ctx)
    nested = make_levels(dense, ctx, RouteSpec.parse("0.5,0.65,0.8,1"))
    source = Source.folder(folder / "images")
    data = Patches(source, (), ctx.task, dense.interface, 16)
    return {"nested": nested, "dense": dense, "data": data, "ctx": ctx}


def same(first, second):
    a, b = weights(first), weights(second)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_all_levels_come_nearer_to_the_dense_network_within_their_patterns(case):
    recipe = dataclasses.replace(RECIPE, steps=60, lr=3e-3, reconstruction=0.0)
    before, ctx = case["nested"], case["ctx"]
    after, trained = train_levels(recipe=recipe, **case)
    x = image(case["dense"], 32, 32, 4)
    wanted = case["dense"](x)

    def errors(nested):
        return [float((nested.at(i)(x) - wanted).abs().mean()) for i in range(nested.count)]

    assert [b < 0.9 * a for a, b in zip(errors(before)[:3], errors(after)[:3], strict=True)] == [
        True, True, True,
    ]  # fmt: skip
    assert after.plans == before.plans
    for level, plan in enumerate(after.plans):
        for layer in plan.layers:
            value = to_canonical(weights(after.at(level))[layer.name], layer.op, layer.groups)
            assert layer.pattern.allows(value.numpy() != 0, layer.groups)
        found = evaluate(after.at(level), ctx.calibration.validation, ctx.task).psnr
        assert trained.levels[level] == pytest.approx(found, abs=1e-3)
    assert trained.best_psnr == pytest.approx(fmean(trained.levels))
    assert trained.best_psnr > trained.start_psnr


def test_a_step_sums_the_gradients_of_its_levels(case):
    nested, recipe = case["nested"], dataclasses.replace(RECIPE, distillation=0.5, features=0.0)
    run = _Run(
        nested.program, NestedPolicy(nested, 0), case["dense"], case["data"], recipe, case["ctx"],
        World(),
    )  # fmt: skip
    pairs = [case["data"][number] for number in range(2)]
    degraded, clean = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    summed = run._gradients(degraded, clean)
    found = {name: run.network.raw(name).grad.clone() for name in nested.least}
    levels = run.policy.levels(0)
    losses, expected = [], dict.fromkeys(found, 0.0)
    for level in levels:
        program = nested.at(level)
        module = program.clone_module()
        for parameter in module.parameters():
            parameter.requires_grad_()
        given = module(degraded)
        wanted = case["dense"](degraded)
        loss = 0.5 * (given - wanted).abs().mean() + 0.1 * (given - clean).abs().mean()
        loss.backward()
        losses.append(loss.detach())
        for name, least in nested.least.items():
            expected[name] = expected[name] + module.get_parameter(name).grad * (least <= level)
    torch.testing.assert_close(summed, torch.stack(losses).sum())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-7)


def test_every_step_has_the_largest_the_smallest_and_one_between(case):
    nested = case["nested"]
    policy, other = NestedPolicy(nested, 0), NestedPolicy(nested, 1)
    drawn = [policy.levels(step) for step in range(200)]
    assert {levels[:2] for levels in drawn} == {(3, 0)}
    between = [levels[2] for levels in drawn]
    assert 60 < between.count(1) < 140
    assert between.count(1) + between.count(2) == 200
    assert drawn == [NestedPolicy(nested, 0).levels(step) for step in range(200)]
    assert drawn != [other.levels(step) for step in range(200)]
    assert list(policy.levels(None)) == [0, 1, 2, 3]
    two = dataclasses.replace(nested, plans=nested.plans[:2])
    assert NestedPolicy(two, 0).levels(7) == (1, 0)


def test_a_network_that_trains_runs_at_each_level(case):
    nested = case["nested"]
    policy = NestedPolicy(nested, 0)
    network, x = Trainable(nested.program, policy), image(nested.program)
    for level in (0, 3, 1, 2):
        policy.set_level(level)
        torch.testing.assert_close(network(x).detach(), nested.at(level)(x))
    assert same(network.to_program(), nested.program)


class KilledError(Exception):
    """What stands for the end of the process."""


def test_a_killed_run_resumes_to_the_same_losses(case, tmp_path):
    whole, run = train_levels(recipe=RECIPE, **case)
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state", checkpoint_seconds=0.0)

    class Ending(Patches):
        def __getitem__(self, number):
            if number >= 4 * RECIPE.batch:
                raise KilledError
            return super().__getitem__(number)

    data = Ending(case["data"]._source, (), case["ctx"].task, case["dense"].interface, 16)
    with pytest.raises(KilledError):
        train_levels(recipe=recipe, **{**case, "data": data})
    nested, resumed = train_levels(recipe=dataclasses.replace(recipe, resume=True), **case)
    assert resumed.curve == run.curve
    assert resumed.levels == run.levels
    assert same(nested.program, whole.program)
