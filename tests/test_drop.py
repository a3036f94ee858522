"""Budgets in decibels -> pruned networks that lose no more than that on the validation images."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile import drop
from nmcompile.budget import Budget
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.drop import prune_within_drop
from nmcompile.evaluate import evaluate, restorer
from nmcompile.passes import analyze_cost, measure_latency, measure_sensitivity
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.tasks import to_bytes
from nmcompile.transform import CLEAN
from tests.networks import Around, calibration, captured, context, conv


def network():
    """A random network whose outputs lie around the middle of the range."""
    program = captured(Around(conv(8, 8), nn.ReLU(), conv(8, 8), nn.ReLU()))
    weight = get_tensor(program.module, "tail.weight")
    spread = float(program(calibration().crops).std())
    set_tensor(program.module, "tail.weight", weight * 0.15 / spread)
    set_tensor(program.module, "tail.bias", torch.full((3,), 0.5))
    return program


def nearly_right(program, found):
    """The same crops, and pictures for which the dense network is right but for some noise."""
    samples = []
    for number, sample in enumerate(found.validation):
        noise = np.random.default_rng(number).standard_normal(sample.clean.shape) * 0.06
        clean = to_bytes(restorer(program)(sample.degraded) + noise)
        samples.append(dataclasses.replace(sample, clean=clean))
    return dataclasses.replace(found, validation=tuple(samples))


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    program = network()
    ctx = context(
        tmp_path_factory.mktemp("cache"),
        patterns=tuple(Pattern(1, n, 8) for n in range(1, 8)),
        calibration=nearly_right(program, calibration(size=32)),
    )
    steps = [*CLEAN, analyze_cost, measure_latency, measure_sensitivity]
    return run_passes(program, ctx, steps), ctx


def psnr(program, ctx):
    return evaluate(program, ctx.calibration.validation, ctx.task).psnr


def pruned(analyzed, decibels):
    program, ctx = analyzed
    ctx = dataclasses.replace(ctx, budget=Budget.parse(f"drop={decibels}dB"))
    found = prune_within_drop(program, ctx)
    return found, psnr(program, ctx) - psnr(found, ctx)


@pytest.mark.parametrize("decibels", [0.02, 0.1, 1.0, 5.0])
def test_the_budget_holds_on_the_validation_images(analyzed, decibels):
    found, lost = pruned(analyzed, decibels)
    assert lost <= decibels
    assert "pruned" in found.facts
    for layer in found.the_plan.layers:
        weight = found.module.get_parameter(layer.name)
        assert layer.pattern.allows((weight != 0).detach().numpy())


def test_more_decibels_leave_fewer_multiply_accumulates(analyzed):
    left = [pruned(analyzed, decibels)[0].the_plan.macs for decibels in (0.02, 0.3, 5.0)]
    assert left[0] > left[1] > left[2]
    assert left[2] < analyzed[0].the_plan.dense_macs


def test_a_budget_that_allows_everything_takes_the_sparsest(analyzed):
    found, _ = pruned(analyzed, 90)
    for layer in found.the_plan.layers:
        assert layer.chosen.macs == min(choice.macs for choice in layer.choices)


def test_where_every_trial_loses_too_much_nothing_is_pruned(analyzed, monkeypatch):
    program, ctx = analyzed
    tried = []

    def worse(network, samples, task):
        found = evaluate(network, samples, task)
        sparse = network.plan.macs < network.plan.dense_macs
        tried.append(sparse)
        return dataclasses.replace(found, psnr=found.psnr - 9.0 * sparse)

    monkeypatch.setattr(drop, "evaluate", worse)
    found = prune_within_drop(program, dataclasses.replace(ctx, budget=Budget.parse("drop=1dB")))
    assert 1 <= sum(tried) <= drop._MOST_TRIALS
    assert found.the_plan.macs == program.the_plan.dense_macs
    assert torch.equal(found(ctx.calibration.crops), program(ctx.calibration.crops))


def test_no_patterns_are_tried_twice(analyzed, monkeypatch):
    program, _ = analyzed
    tried = []
    whole = drop._try

    def spying(program, ctx, limit, dense):
        trial = whole(program, ctx, limit, dense)
        tried.append(tuple(layer.pattern for layer in trial.program.the_plan.layers))
        return trial

    monkeypatch.setattr(drop, "_try", spying)
    for decibels in (0.02, 0.05, 0.1, 0.3, 0.5, 1, 2, 5):
        tried.clear()
        found, lost = pruned(analyzed, decibels)
        assert len(tried) == len(set(tried))
        assert len(tried) <= drop._MOST_TRIALS
        assert 0 < lost <= decibels or found.the_plan.macs < program.the_plan.dense_macs


def test_a_network_that_is_perfect_stays_dense(analyzed):
    program, ctx = analyzed
    samples = []
    for sample in ctx.calibration.validation:
        clean = to_bytes(restorer(program)(sample.degraded))
        samples.append(dataclasses.replace(sample, clean=clean))
    perfect = dataclasses.replace(ctx.calibration, validation=tuple(samples))
    found, lost = pruned((program, dataclasses.replace(ctx, calibration=perfect)), 0.1)
    assert found.the_plan.macs == program.the_plan.dense_macs
    assert not lost > 0.1


def test_losses_that_do_not_add_up_are_corrected(analyzed, monkeypatch):
    """Each decibel counts three times: the first guess is far too bold."""
    program, ctx = analyzed
    drops = []

    def threefold(network, samples, task):
        found = evaluate(network, samples, task)
        dense = psnr(program, ctx)
        drops.append(3 * (dense - found.psnr))
        return dataclasses.replace(found, psnr=dense - drops[-1])

    monkeypatch.setattr(drop, "evaluate", threefold)
    found = prune_within_drop(program, dataclasses.replace(ctx, budget=Budget.parse("drop=1dB")))
    lost = 3 * (psnr(program, ctx) - psnr(found, ctx))
    assert drops[1] > 1
    assert 0 < lost <= 1
    assert found.the_plan.macs < program.the_plan.dense_macs
