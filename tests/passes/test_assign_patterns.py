"""Losses, costs and a budget -> patterns: the best of all choices, or the nearest possible."""

import dataclasses
import itertools
import re

import pytest
import torch
from torch import nn

from nmcompile.budget import Budget
from nmcompile.errors import NmcompileError
from nmcompile.passes import analyze_cost, assign_patterns, measure_latency, measure_sensitivity
from nmcompile.passes.assign_patterns import cost_quantity, end_layers, within_loss
from nmcompile.pattern import DENSE, SKIP, Pattern
from nmcompile.pipeline import run_passes
from tests.networks import (
    HALF,
    QUARTER,
    Around,
    CountingTarget,
    Shared,
    captured,
    cleaned,
    context,
    conv,
    layer,
    plain,
    plan,
)

# Losses and milliseconds are not in step with the MACs: each budget has a choice of its own.
THREE = plan(
    layer("a", ("dense", 1000, 4.0, 0.0), ("2:4", 500, 2.0, 0.01), ("1:4", 250, 1.5, 0.05)),
    layer("b", ("dense", 800, 1.0, 0.0), ("2:4", 400, 0.9, 0.002), ("1:4", 200, 0.8, 0.02)),
    layer("c", ("dense", 300, 2.0, 0.0), ("2:4", 150, 1.9, 0.001)),
    layer("d", ("dense", 100, 0.5, 0.0), reason="3 input channels"),
)


@pytest.fixture(scope="module")
def program():
    return captured(plain())


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def assigned(program, ctx, text, found=THREE):
    ready = dataclasses.replace(program.with_plan(found), facts=frozenset({"sensitivity"}))
    return assign_patterns(ready, dataclasses.replace(ctx, budget=Budget.parse(text))).the_plan


def every_choice(found):
    for picked in itertools.product(*(x.choices for x in found.layers)):
        yield found.assign(dict(zip([x.name for x in found.layers], [c.pattern for c in picked],
                                    strict=True)), {})  # fmt: skip


def milliseconds(found):
    return sum(x.chosen.latency_ms for x in found.layers)


@pytest.mark.parametrize("share", [0.32, 0.4, 0.5, 0.62, 0.75, 0.9, 1.0])
def test_a_budget_of_macs_is_kept_with_the_least_loss(program, ctx, share):
    found = assigned(program, ctx, f"macs={share}")
    assert found.macs <= share * found.dense_macs
    possible = [p.loss for p in every_choice(THREE) if p.macs <= share * p.dense_macs]
    assert found.loss == pytest.approx(min(possible), abs=1e-15)


@pytest.mark.parametrize("text", ["latency=5ms", "latency=6.2ms", "latency=0.75x", "latency=0.9x"])
def test_a_budget_of_time_is_kept_with_the_least_loss(program, ctx, text):
    limit = float(text[8:-1]) * 7.5 if text.endswith("x") else float(text[8:-2])
    found = assigned(program, ctx, text)
    assert milliseconds(found) <= limit
    possible = [p.loss for p in every_choice(THREE) if milliseconds(p) <= limit]
    assert found.loss == pytest.approx(min(possible), abs=1e-15)


@pytest.mark.parametrize("limit", [0.0, 0.001, 0.0129, 0.013, 0.05, 1.0])
def test_a_limit_on_the_loss_is_kept_at_the_least_time(limit):
    found = within_loss(THREE, limit)
    assert found.loss <= limit
    possible = [milliseconds(p) for p in every_choice(THREE) if p.loss <= limit]
    assert milliseconds(found) == pytest.approx(min(possible))


def test_where_no_pattern_is_faster_macs_are_saved():
    flat = THREE.with_layers(
        dataclasses.replace(
            x, choices=tuple(dataclasses.replace(c, latency_ms=1.0) for c in x.choices)
        )
        for x in THREE.layers
    )
    assert (cost_quantity(THREE), cost_quantity(flat)) == ("latency", "macs")
    found = within_loss(flat, 0.02)
    possible = [p.macs for p in every_choice(flat) if p.loss <= 0.02]
    assert found.macs == min(possible)


def test_a_budget_of_decibels_used_alone_limits_the_summed_loss(program, ctx):
    assert assigned(program, ctx, "drop=0.02dB") == within_loss(THREE, 0.02)


def test_every_choice_has_its_reason(program, ctx):
    found = assigned(program, ctx, "macs=0.75")
    for each in found.layers[:3]:
        prefix = "dense is best: " if each.pattern == DENSE else ""
        assert each.reason == f"{prefix}least loss within macs=0.75"
    assert found.layer("d").reason == "3 input channels"


@pytest.mark.parametrize(
    ("text", "nearest"), [("macs=0.2", "macs=0.319"), ("latency=0.1x", "latency=0.627x"),
                          ("latency=1ms", "latency=4.700ms")]
)  # fmt: skip
def test_an_impossible_budget_names_the_nearest_which_is_possible(program, ctx, text, nearest):
    with pytest.raises(NmcompileError) as caught:
        assigned(program, ctx, text)
    assert str(caught.value).startswith(f"budget {text} is impossible: the nearest possible is ")
    named = re.search(r"possible is ([\w.=]+);", str(caught.value)).group(1)
    assert named == nearest
    least = assigned(program, ctx, named)
    assert [x.pattern for x in least.layers] == [QUARTER, QUARTER, HALF, DENSE]


def test_a_time_that_no_pattern_changes_is_explained(program, ctx):
    slow = plan(layer("a", ("dense", 100, 4.0, 0.0), ("2:4", 50, 4.0, 0.1)))
    with pytest.raises(NmcompileError, match="on this target a pattern changes no layer's time"):
        assigned(program, ctx, "latency=2ms", slow)


def uniform(module, ctx, pattern=HALF):
    ctx = dataclasses.replace(ctx, uniform=pattern)
    steps = [analyze_cost, measure_latency, measure_sensitivity, assign_patterns]
    return run_passes(cleaned(module, ctx), ctx, steps).the_plan


def test_a_uniform_pattern_leaves_both_ends_dense(ctx):
    found = uniform(
        Around(conv(8, 8), nn.ReLU(), conv(8, 8, groups=4), conv(8, 12), outputs=12), ctx
    )
    assert {x.name: str(x.pattern) for x in found.layers} == {
        "head.weight": "dense",
        "body.0.weight": "2:4",
        "body.2.weight": "dense",
        "body.3.weight": "2:4",
        "tail.weight": "dense",
    }
    assert found.layer("head.weight").reason == (
        "first or last convolution: dense under a uniform pattern"
    )
    assert found.layer("body.0.weight").reason == "uniform"
    assert found.layer("body.2.weight").reason == "2 input channels per group, pattern 2:4 needs 4"


def test_a_uniform_pattern_that_fits_nowhere_is_said(ctx):
    with pytest.raises(NmcompileError, match="no layer of the trunk can take 8:16: 8 input ch"):
        uniform(plain(), ctx, Pattern(1, 8, 16))
    with pytest.raises(NmcompileError, match="there is none between the first and the last"):
        uniform(nn.Sequential(conv(3, 8), conv(8, 3)), ctx)


class Branches(nn.Module):
    """Two heads, a trunk with a skip around it, two tails."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.trunk = conv(3, 8), conv(3, 8), conv(8, 8)
        self.up, self.down = conv(8, 3), conv(8, 3)

    def forward(self, x):
        y = self.left(x) + self.right(x)
        y = y + self.trunk(y)
        return self.up(y) + self.down(torch.relu(y))


class Shifted(nn.Module):
    """Mean shifts as 1x1 convolutions around a network, as in CARN and EDSR."""

    def __init__(self):
        super().__init__()
        self.sub_mean, self.add_mean = conv(3, 3, 1), conv(3, 3, 1)
        self.inner = plain()

    def forward(self, x):
        return self.add_mean(self.inner(self.sub_mean(x)))


@pytest.mark.parametrize(
    ("module", "ends"),
    [
        (plain, {"head.weight", "tail.weight"}),
        (Shared, {"head.weight", "tail.weight"}),
        (Branches, {"left.weight", "right.weight", "up.weight", "down.weight"}),
        (Shifted, {"inner.head.weight", "inner.tail.weight"}),
        (lambda: conv(3, 3), {"weight"}),
    ],
    ids=["plain", "shared", "branches", "mean shifts", "single"],
)
def test_ends_have_no_layer_before_or_after_them(module, ends):
    assert end_layers(captured(module())) == ends


def test_on_a_real_network_the_whole_way(tmp_path):
    ctx = context(tmp_path, target=CountingTarget(sparse=False))
    steps = [analyze_cost, measure_latency, measure_sensitivity, assign_patterns]
    found = run_passes(cleaned(plain(), ctx), ctx, steps).the_plan
    assert found.macs <= 0.5 * found.dense_macs
    possible = [p.loss for p in every_choice(found) if p.macs <= 0.5 * p.dense_macs]
    assert found.loss == pytest.approx(min(possible), rel=1e-5)


# A residual branch of two layers, of which the last can be skipped at little loss.
BRANCH = plan(
    layer("first", ("dense", 1000, 4.0, 0.0), ("2:4", 500, 2.0, 0.01), ("skip", 0, 0.0, 0.9),
          through=("last", "tail")),
    layer("last", ("dense", 800, 3.0, 0.0), ("2:4", 400, 1.5, 0.02), ("skip", 0, 0.0, 0.04),
          through=("tail",)),
    layer("tail", ("dense", 100, 1.0, 0.0), ("skip", 0, 0.0, 5.0)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("latency=6.5ms", ["2:4", "dense", "dense"]),
        ("latency=4.4ms", ["skip", "skip", "dense"]),  # not 2:4 and 2:4, which lose 0.03 in 4.5
        ("latency=4.5ms", ["2:4", "2:4", "dense"]),
        ("macs=0.05", ["skip", "skip", "skip"]),
    ],
)
def test_with_the_end_of_a_branch_goes_what_serves_it_alone(program, ctx, text, chosen):
    found = assigned(program, ctx, text, BRANCH)
    assert [str(x.pattern) for x in found.layers] == chosen
    # What is skipped along with another loses nothing more.
    losses = {"2:4": (0.01, 0.02), "skip": (0.0, 0.04)}
    known = [losses[x][n] for n, x in enumerate(chosen[:2]) if x in losses]
    expected = 5.0 if chosen[2] == "skip" else sum(known)
    assert found.loss == pytest.approx(expected)


# Two branches, and what gathers their results and the value before them: 12 inputs, 4 from each.
GATHERED = plan(
    layer("one", ("dense", 100, 1.0, 0.0), ("skip", 0, 0.0, 0.05), shape=(4, 4, 3, 3)),
    layer("two", ("dense", 100, 1.0, 0.0), ("skip", 0, 0.0, 0.02), shape=(4, 4, 3, 3)),
    layer("all", ("dense", 900, 9.0, 0.0), ("2:4", 450, 4.5, 0.03), ("skip", 0, 0.0, 5.0),
          shape=(4, 12, 1, 1), repeats=("one", "two")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("latency=11ms", ["dense", "dense", "dense"]),
        ("latency=7ms", ["dense", "skip", "dense"]),  # 1 + 6; 2:4 would lose more
        ("latency=6.9ms", ["dense", "dense", "2:4"]),  # 2 + 4.5
        ("latency=4.1ms", ["dense", "skip", "2:4"]),  # 1 + 3
        ("latency=3ms", ["skip", "skip", "dense"]),
        ("latency=1.5ms", ["skip", "skip", "2:4"]),
        ("macs=0.6", ["dense", "dense", "2:4"]),
        ("latency=0.5ms", ["skip", "skip", "skip"]),
    ],
)
def test_inputs_that_repeat_others_take_nothing(program, ctx, text, chosen):
    assert [str(x.pattern) for x in assigned(program, ctx, text, GATHERED).layers] == chosen


def test_inputs_that_repeat_others_gain_within_a_loss_limit():
    chosen = [[str(x.pattern) for x in within_loss(GATHERED, loss).layers]
              for loss in (0.02, 0.03, 0.05, 0.07, 0.1)]  # fmt: skip
    assert chosen == [
        ["dense", "skip", "dense"],  # 7 ms
        ["dense", "dense", "2:4"],  # 6.5
        ["dense", "skip", "2:4"],  # 4
        ["skip", "skip", "dense"],  # 3
        ["skip", "skip", "2:4"],  # 1.5
    ]


def test_a_branch_that_cannot_be_skipped_keeps_its_inputs(program, ctx):
    one = GATHERED.layers[0]
    fixed = GATHERED.with_layers(
        [dataclasses.replace(one, choices=one.choices[:1]), *GATHERED.layers[1:]]
    )
    found = assigned(program, ctx, "latency=4.1ms", fixed)
    assert [str(x.pattern) for x in found.layers] == ["dense", "skip", "2:4"]
    with pytest.raises(NmcompileError, match=r"nearest possible is latency=1\.000ms"):
        assigned(program, ctx, "latency=0.5ms", fixed)


def test_a_branch_without_which_the_output_is_no_number_keeps_its_inputs(program, ctx):
    one = GATHERED.layers[0]
    lost = [one.choices[0], dataclasses.replace(one.choices[1], loss=float("inf"))]
    found = GATHERED.with_layers(
        [dataclasses.replace(one, choices=tuple(lost)), *GATHERED.layers[1:]]
    )
    for text, chosen in (("latency=4.1ms", "2:4"), ("latency=1.5ms", "skip")):
        taken = [str(x.pattern) for x in assigned(program, ctx, text, found).layers]
        assert taken == ["dense", "skip", chosen]


def test_a_loss_limit_counts_a_branch_once():
    found = within_loss(BRANCH, 0.05)
    assert [str(x.pattern) for x in found.layers] == ["skip", "skip", "dense"]
    assert [str(x.pattern) for x in within_loss(BRANCH, 0.035).layers] == ["2:4", "2:4", "dense"]


def test_a_network_is_not_skipped_as_a_whole(program, ctx):
    with pytest.raises(NmcompileError, match="skip on every layer leaves nothing"):
        assigned(program, dataclasses.replace(ctx, uniform=SKIP), "macs=0.5")
