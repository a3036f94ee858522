"""Budgets and measured costs -> what SLS pays, how far it goes, and the plan that it ends in."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile.budget import Budget
from nmcompile.errors import NmcompileError
from nmcompile.passes import analyze_cost
from nmcompile.pattern import DENSE, Pattern
from nmcompile.pipeline import run_passes
from nmcompile.progress import Reporter
from nmcompile.search import family_of_search, priced, settled, sls_policy
from tests.networks import Around, CountingTarget, cleaned, context, conv

FAMILY = Pattern(1, 1, 8)


class Measured(CountingTarget):
    """Half of the channels take longer than all, as against Winograd's kernel; a quarter pays."""

    def latency_ms(self, spec, kernel):
        pattern = Pattern.parse(kernel.split()[1])
        share = 0.6 if pattern.is_dense else pattern.n / pattern.m
        return float(np.prod(spec.shape)) * share


def network():
    return Around(conv(8, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 8, 1))


def made(tmp_path, text, family=FAMILY, **changes):
    ctx = context(tmp_path, budget=Budget.parse(text), **changes)
    program = run_passes(cleaned(network(), ctx), ctx, [analyze_cost])
    measured = priced(program, ctx, family)
    return program, ctx, measured, sls_policy(measured, ctx.budget, family, 100, 1e-3)


def weigh(policy, program):
    for layer in program.the_plan.layers:
        policy.masking(layer, torch.ones(layer.shape))
    return policy


def test_macs_are_paid_as_the_plan_counts_them_ends_and_all(tmp_path):
    program, _, measured, policy = made(tmp_path, "macs=0.5")
    weigh(policy, measured)
    assert policy.cost == program.the_plan.dense_macs
    assert set(policy.patterns()) == {"body.0.weight", "body.2.weight", "body.4.weight"}
    for masking in policy._maskings.values():
        masking.freeze(2)
    plan = settled(measured, context(tmp_path), policy.patterns()).the_plan
    assert plan.macs == policy.cost
    assert plan.layer("body.2.weight").pattern == Pattern(1, 2, 8)
    assert plan.layer("head.weight").pattern == DENSE
    assert policy.search.limit == program.the_plan.dense_macs / 2


def test_milliseconds_come_from_the_target_and_never_exceed_dense(tmp_path):
    _, _, measured, policy = made(tmp_path, "latency=0.7x", target=Measured())
    assert policy._costs["body.0.weight"].tolist() == pytest.approx(
        [576 * share for share in (1 / 8, 2 / 8, 3 / 8, 4 / 8, 0.6, 0.6, 0.6, 0.6)]
    )
    plan = measured.the_plan
    assert policy.search.limit == pytest.approx(
        0.7 * sum(layer.choices[0].latency_ms for layer in plan.layers)
    )


def test_a_budget_in_milliseconds_is_a_limit_as_it_stands(tmp_path):
    *_, policy = made(tmp_path, "latency=900ms", target=Measured())
    assert policy.search.limit == 900


def test_the_plan_names_what_was_learned(tmp_path):
    _, ctx, measured, _ = made(tmp_path, "macs=0.5")
    found = {"body.0.weight": Pattern(1, 3, 8), "body.2.weight": DENSE}
    program = settled(measured, ctx, found)
    layer = program.the_plan.layer("body.0.weight")
    assert layer.chosen.latency_ms is not None
    assert layer.reason == "learned by SLS"
    assert "patterns" in program.facts


def test_a_learned_pattern_that_gains_no_time_is_undone_and_that_is_said(tmp_path):
    said = []

    class Told(Reporter):
        def note(self, text):
            said.append(text)

    _, ctx, measured, _ = made(tmp_path, "macs=0.5", target=Measured())
    ctx = dataclasses.replace(ctx, reporter=Told(quiet=True))
    found = {"body.0.weight": Pattern(1, 7, 8), "body.2.weight": Pattern(1, 1, 8)}
    plan = settled(measured, ctx, found).the_plan
    assert plan.layer("body.0.weight").pattern == DENSE
    assert plan.layer("body.2.weight").pattern == Pattern(1, 1, 8)
    (line,) = said
    assert f"{plan.macs / plan.dense_macs:.3f} of the MACs" in line


@pytest.mark.parametrize(
    ("text", "family"),
    [("32", Pattern(1, 1, 32)), ("64x16", Pattern(64, 1, 16)), ("8x16k", Pattern(8, 1, 16, True))],
)
def test_families_as_they_are_written(text, family):
    assert family_of_search(text) == family


@pytest.mark.parametrize(
    ("budget", "family", "said"),
    [
        ("drop=0.1dB", FAMILY, "macs=0.5"),
        ("macs=0.5", Pattern(1, 1, 12), "4, 8, 16, 32"),
        ("macs=0.5", Pattern(1, 1, 32), "no layer of the trunk"),
        ("macs=0.2", FAMILY, "the least is 0."),
    ],
)
def test_what_cannot_be_searched_is_said(tmp_path, budget, family, said):
    with pytest.raises(NmcompileError, match=said):
        made(tmp_path, budget, family)
