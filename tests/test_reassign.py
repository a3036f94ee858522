"""A trained sparse network -> patterns assigned anew from what its layers can bear now."""

import dataclasses

import pytest
import torch

from nmcompile.budget import Budget
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.passes import analyze_cost, assign_patterns, measure_latency, measure_sensitivity
from nmcompile.passes import prune as prune_pass
from nmcompile.passes.measure_sensitivity import with_losses
from nmcompile.pattern import DENSE
from nmcompile.pipeline import run_passes
from nmcompile.reassign import ReassignPolicy, reassign
from nmcompile.training.network import Trainable
from nmcompile.training.parallel import World
from tests.networks import HALF, QUARTER, cleaned, context, plain

STEPS = (analyze_cost, measure_latency, measure_sensitivity, assign_patterns, prune_pass)


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path, budget=Budget.parse("macs=0.6"))


@pytest.fixture
def dense(ctx):
    return cleaned(plain(), ctx)


@pytest.fixture
def pruned(dense, ctx):
    return run_passes(dense, ctx, STEPS)


def mse(a, b):
    return float(((a - b).double() ** 2).mean())


def swapped(program, name, weight):
    result = program.with_module(program.clone_module())
    set_tensor(result.module, name, weight)
    return result


def test_a_loss_is_measured_among_the_trained_neighbours(pruned, dense, ctx):
    found = with_losses(pruned, dense, ctx).the_plan
    crops = ctx.calibration.crops
    for layer in found.layers:
        whole = swapped(pruned, layer.name, get_tensor(dense.module, layer.name))
        base = mse(whole(crops), dense(crops))
        for choice in layer.choices[1:]:
            alone = whole.with_plan(pruned.the_plan.assign(
                {x.name: choice.pattern if x.name == layer.name else DENSE
                 for x in pruned.the_plan.layers}, {}
            ))  # fmt: skip
            ready = dataclasses.replace(alone, facts=frozenset({"patterns"}))
            weight = get_tensor(prune_pass(ready, ctx).module, layer.name)
            expected = mse(swapped(pruned, layer.name, weight)(crops), dense(crops)) - base
            assert choice.loss == pytest.approx(max(0.0, expected), rel=1e-3, abs=1e-9)


def test_all_processes_take_what_the_first_decided(pruned, dense, ctx):
    heard = []

    class Told(World):
        def told(self, value):
            if self.rank == 0:
                heard.append(value)
            return heard[-1]

    loose = dataclasses.replace(ctx, budget=Budget.parse("macs=0.8"))
    networks, replaced = [], []
    for rank, own in ((0, loose), (1, ctx)):  # the second one's own measure would change nothing
        policy = ReassignPolicy(pruned.the_plan, dense, own, 1, Told(rank, 2))
        networks.append(Trainable(pruned, policy))
        replaced.append(set(policy.after_step(0.8)))
    first, second = (network.to_program() for network in networks)
    assert replaced[0] == replaced[1] != set()
    assert first.plan == second.plan != pruned.plan
    for layer in first.the_plan.layers:
        weight = get_tensor(first.module, layer.name)
        assert torch.equal(weight, get_tensor(second.module, layer.name))
        assert layer.pattern.allows((weight != 0).numpy())


def test_patterns_that_measure_as_before_stay(dense, ctx):
    """A budget that leaves one choice only."""
    tight = dataclasses.replace(ctx, patterns=(HALF,), budget=Budget.parse("macs=0.57"))
    pruned = run_passes(dense, tight, STEPS)
    assert reassign(pruned, dense, tight) is None


def test_a_layer_that_others_made_unimportant_gives_up_its_weights(pruned, dense, ctx):
    """After training, the tail no longer looks at what body.0 does."""
    names = [layer.name for layer in pruned.the_plan.layers]
    spared = pruned.the_plan.assign({names[1]: HALF, names[2]: QUARTER}, {})
    program = pruned.with_plan(spared)
    mute = get_tensor(program.module, names[2]).clone()
    mute[:, 1:] = 0  # body.2 reads the first channel of body.0 alone
    program = swapped(program, names[2], mute)
    kept = get_tensor(program.module, names[0]).clone()
    changed = reassign(program, dense, ctx)
    assert changed is not None
    plan = changed.the_plan
    assert plan.macs <= 0.6 * plan.dense_macs
    for layer in plan.layers:
        mask = (get_tensor(changed.module, layer.name) != 0).numpy()
        assert layer.pattern.allows(mask)
    if plan.layer(names[0]).pattern == program.the_plan.layer(names[0]).pattern:
        assert torch.equal(get_tensor(changed.module, names[0]), kept)
    assert changed.facts == program.facts
    assert plan != program.the_plan


def test_a_layer_that_becomes_dense_gets_its_own_weights_back(pruned, dense, ctx, monkeypatch):
    # As before pruning every pattern loses; among neighbours that adapted some may not.
    monkeypatch.setattr("nmcompile.reassign.with_losses", lambda trained, *_: trained)
    loose = dataclasses.replace(ctx, budget=Budget.parse("macs=1"))
    changed = reassign(pruned, dense, loose)
    assert changed is not None
    assert not all(layer.pattern.is_dense for layer in pruned.the_plan.layers)
    for layer in changed.the_plan.layers:
        assert layer.pattern.is_dense
        was_dense = pruned.the_plan.layer(layer.name).pattern.is_dense
        own = get_tensor((pruned if was_dense else dense).module, layer.name)
        assert torch.equal(get_tensor(changed.module, layer.name), own)
