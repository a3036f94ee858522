"""Scores and errors of windows -> a bias for each effort that costs what it promises."""

import numpy as np
import pytest

from nmcompile.engine import Routing
from nmcompile.routing.calibrating import EFFORTS, WITHIN_DB, biases, calibrate, judge, price_of
from nmcompile.runtime.routing import levels_of

COSTS = np.array([0.2, 0.5, 0.9])


def windows(count=4000, seed=0, blur=0.1):
    """Errors that fall with the level, for each window in its own measure, and blurred scores."""
    random = np.random.default_rng(seed)
    hard = random.gamma(0.7, 1.0, count)
    errors = 1.0 + hard[:, None] * np.array([1.0, 0.3, 0.0])
    return -errors + blur * random.standard_normal(errors.shape), errors


def routing(bias):
    return Routing("image", 0, 0, tuple(COSTS), tuple(COSTS), 0.0, bias, 0.5)


def test_each_effort_costs_its_share_of_the_span():
    scores, _ = windows()
    bias = biases(scores, COSTS)
    assert len(bias) == EFFORTS
    assert list(bias) == sorted(bias, reverse=True)
    for effort in np.linspace(0, 1, EFFORTS):
        cost = COSTS[levels_of(scores, routing(bias), float(effort))].mean()
        assert cost == pytest.approx(0.2 + 0.7 * effort, abs=2e-3)
    ends = [np.argmax(scores - price * COSTS, axis=1) for price in (bias[0], bias[-1])]
    assert (ends[0] == 0).all()
    assert (ends[1] == 2).all()


def test_the_default_effort_is_the_least_within_the_loss():
    scores, errors = windows()
    found = calibrate(scores, errors, COSTS)

    def lost(effort):
        chosen = levels_of(scores, routing(found.bias), effort)
        taken = np.take_along_axis(errors, chosen[:, None], 1).mean()
        return 10 * np.log10(taken / errors[:, -1].mean())

    assert 0 < found.effort < 1
    assert lost(found.effort) <= WITHIN_DB < lost(found.effort - 1 / (EFFORTS - 1))
    assert sum(found.shares) == pytest.approx(1.0)
    assert found.notes == ()


def test_collapse_is_told_in_one_line():
    scores, errors = windows()
    found = calibrate(scores, np.ones_like(errors), COSTS)  # the least level is as good
    assert found.effort == 0
    assert found.shares == (1.0, 0.0, 0.0)
    (note,) = found.notes
    assert "collapsed: 100.0% of the calibration windows get level 0 of 3" in note
    assert "\n" not in note


def test_a_head_is_judged_against_what_needs_none():
    scores, errors = windows(blur=0.02)
    good = judge(scores, errors, COSTS)
    assert good["over_random"] > 0.1
    assert good["over_static"] > 0
    assert 0 <= good["under_oracle"] < 0.02
    assert good["cost"] == pytest.approx(0.55, abs=0.02)
    noise = np.random.default_rng(2).standard_normal(errors.shape)
    blind = judge(noise, errors, COSTS)
    assert abs(blind["over_random"]) < 0.05
    assert blind["under_oracle"] > 0.1


def test_a_price_is_the_least_that_keeps_the_cost():
    scores, _ = windows(200)
    price = price_of(scores, COSTS, 0.4)
    cost = [COSTS[np.argmax(scores - p * COSTS, axis=1)].mean() for p in (price, price - 1e-3)]
    assert cost[0] <= 0.4 < cost[1]
