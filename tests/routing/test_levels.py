"""Budgets -> plans and masks of which each lies within the next, whatever the layers."""

import dataclasses
import itertools
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

from nmcompile.convs import get_tensor, set_tensor, to_canonical
from nmcompile.errors import NmcompileError
from nmcompile.passes import analyze_cost, measure_latency
from nmcompile.passes import prune as prune_pass
from nmcompile.passes.assign_patterns import gains
from nmcompile.pattern import DENSE, Pattern
from nmcompile.pipeline import run_passes
from nmcompile.plan import Choice
from nmcompile.routing.levels import assign_levels, make_levels, nest, nests, settled
from nmcompile.routing.nested import NEVER
from nmcompile.routing.spec import RouteSpec
from tests.networks import (
    Around,
    CountingTarget,
    PerPixel,
    Shared,
    cleaned,
    context,
    conv,
    image,
    layer,
    plan,
    weights,
)

# Whole kernels are fast, single weights lose less.
BOTH = plan(
    *(
        layer(
            name,
            ("dense", 1000, 10.0, 0.0), ("1:4", 250, 8.0, 0.10 * loss), ("2:4", 500, 9.0, 0.02),
            ("3:4", 750, 9.9, 0.01), ("8x1:4k", 250, 3.0, 0.30 * loss), ("8x2:4k", 500, 6.0, 0.05),
        )
        for name, loss in (("a", 1), ("b", 2), ("c", 3))
    ),
    layer("d", ("dense", 50, 1.0, 0.0)),
)  # fmt: skip


def time(found):
    return sum(x.chosen.latency_ms for x in found.layers)


@pytest.mark.parametrize("text", ["0.3,0.5,0.8", "0.27,1", "latency=0.35,0.5,0.7,1", "3"])
def test_every_level_keeps_its_share_and_lies_within_the_next(text):
    spec = settled(BOTH, RouteSpec.parse(text))
    found = assign_levels(BOTH, spec)
    for each, share in zip(found, spec.shares, strict=True):
        if spec.quantity == "macs":
            assert each.macs <= share * BOTH.dense_macs
        else:
            assert time(each) <= share * time(BOTH)
        assert each.budget == f"{spec.quantity}={share:g}{'x' * (spec.quantity == 'latency')}"
    for lower, upper in itertools.pairwise(found):
        assert lower.macs < upper.macs
        for inner, outer in zip(lower.layers, upper.layers, strict=True):
            assert nests(inner.pattern, outer.pattern)
            assert inner.pattern == outer.pattern or gains(inner.chosen, outer.chosen)


def test_a_branch_that_is_skipped_comes_back_at_the_level_above():
    branch = plan(
        layer("first", ("dense", 1000, 4.0, 0.0), ("2:4", 500, 2.0, 0.01), ("skip", 0, 0.0, 0.9),
              through=("last",)),
        layer("last", ("dense", 800, 3.0, 0.0), ("2:4", 400, 1.5, 0.02), ("skip", 0, 0.0, 0.04)),
        layer("tail", ("dense", 100, 1.0, 0.0)),
    )  # fmt: skip
    found = assign_levels(branch, RouteSpec.parse("latency=0.2,0.6,1"))
    assert [[str(x.pattern) for x in each.layers] for each in found] == [
        ["skip", "skip", "dense"],
        ["2:4", "2:4", "dense"],
        ["dense", "dense", "dense"],
    ]
    assert found[0].loss == pytest.approx(0.04)


def test_a_pattern_that_is_slower_than_dense_is_no_step_between_levels():
    even = plan(
        layer("a", ("dense", 1000, 4.0, 0.0), ("2:4", 500, 3.0, 0.01), ("3:4", 750, 4.1, 0.005)),
        layer("b", ("dense", 1000, 2.99, 0.0), ("2:4", 500, 2.9, 0.01)),
    )
    found = assign_levels(even, RouteSpec.parse("latency=0.85,1"))
    assert [str(x.pattern) for x in found[0].layers] == ["2:4", "2:4"]
    assert all(x.pattern.is_dense for x in found[1].layers)


def test_a_level_is_what_loses_least_around_the_one_below():
    lower, upper = assign_levels(BOTH, RouteSpec.parse("latency=0.5,0.8"))
    others = []
    for picked in itertools.product(*(x.choices for x in BOTH.layers)):
        each = BOTH.assign(
            {x.name: c.pattern for x, c in zip(BOTH.layers, picked, strict=True)}, {}
        )
        around = all(
            inner.pattern == outer.pattern
            or (nests(inner.pattern, outer.pattern) and gains(inner.chosen, outer.chosen))
            for inner, outer in zip(lower.layers, each.layers, strict=True)
        )
        if around and time(each) <= 0.8 * time(BOTH):
            others.append(each.loss)
    assert upper.loss == pytest.approx(min(others), abs=1e-12)


def test_levels_that_are_counted_reach_from_near_the_least_to_all():
    spec = settled(BOTH, RouteSpec(3))
    least = (3 * 3.0 + 1) / 31
    assert (spec.quantity, spec.shares[-1]) == ("latency", 1.0)
    assert spec.shares[0] == pytest.approx(least + 0.2 * (1 - least), abs=1e-3)
    assert spec.shares[1] ** 2 == pytest.approx(spec.shares[0], abs=2e-3)
    flat = BOTH.with_layers(
        dataclasses.replace(x, choices=tuple(Choice(c.pattern, c.macs, 1.0, c.loss) for c in
                                             x.choices))
        for x in BOTH.layers
    )  # fmt: skip
    assert settled(flat, RouteSpec(3)).quantity == "macs"


@pytest.mark.parametrize("text", ["0.1,0.5", "latency=0.2,0.9"])
def test_a_share_out_of_reach_names_the_nearest(text):
    with pytest.raises(NmcompileError, match=f"--route .*{text}: level 0 cannot have") as caught:
        assign_levels(BOTH, RouteSpec.parse(text))
    nearest = re.search(r"nearest possible is ([\d.]+);", str(caught.value)).group(1)
    quantity = "latency=" if "latency" in text else ""
    assert assign_levels(BOTH, RouteSpec.parse(f"{quantity}{nearest},1"))
    below = float(nearest) - 0.001
    with pytest.raises(NmcompileError, match="cannot have"):
        assign_levels(BOTH, RouteSpec.parse(f"{quantity}{below},1"))


def test_a_pattern_that_saves_macs_alone_does_not_hold_back_the_levels_above():
    slow = BOTH.with_layers(
        dataclasses.replace(
            x,
            choices=tuple(
                dataclasses.replace(c, latency_ms=30.0) if str(c.pattern) == "1:4" else c
                for c in x.choices
                if str(c.pattern) != "8x1:4k"
            ),
        )
        for x in BOTH.layers
    )
    lower, upper = assign_levels(slow, RouteSpec.parse("0.27,1"))
    assert [str(x.pattern) for x in lower.layers] == ["1:4", "1:4", "1:4", "dense"]
    assert upper.loss == 0
    assert all(x.pattern.is_dense for x in upper.layers)


def test_equal_levels_are_refused():
    with pytest.raises(NmcompileError, match=r"levels 1 and 2 come out equal, with 0\.5"):
        assign_levels(BOTH, RouteSpec.parse("0.3,0.6,0.601"))


def test_what_nests_in_what():
    patterns = ["1:4", "2:4", "2:8", "8x1:4", "8x1:4k", "8x2:4k", "skip", "dense"]
    pairs = {
        (a, b)
        for a, b in itertools.permutations(patterns, 2)
        if nests(Pattern.parse(a), Pattern.parse(b))
    }
    inside_dense = {(a, "dense") for a in patterns[:-1]}
    skipped = {("skip", b) for b in patterns if b != "skip"}
    assert pairs == {("1:4", "2:4"), ("8x1:4k", "8x2:4k"), *inside_dense, *skipped}


NETWORKS = {
    "plain": lambda: Around(conv(8, 16), nn.ReLU(), conv(16, 8)),
    "grouped": lambda: Around(conv(8, 16, groups=2), conv(16, 12, groups=2), conv(12, 8)),
    "ragged": lambda: Around(conv(8, 10), conv(10, 8)),
    "strided": lambda: Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, 2, 1)),
    "shared": Shared,
    "linear": PerPixel,
}
LADDERS = ("1:4 2:4 3:4", "1:4 1:4 dense", "4x1:4k 4x2:4k dense", "2x1:4 2x2:4 2x2:4")
PATTERNS = tuple(sorted({Pattern.parse(x) for text in LADDERS for x in text.split()} - {DENSE}))


def ladders(program, text):
    """A plan for each pattern of the text, on all layers that can take it, else dense."""
    plans = []
    for pattern in map(Pattern.parse, text.split()):
        able = {
            x.name: pattern if x.obstacle(pattern) is None else DENSE
            for x in program.the_plan.layers
        }
        plans.append(program.the_plan.assign(able, {}))
    return plans


@cache
def network(name):
    with TemporaryDirectory() as folder:
        ctx = context(Path(folder), patterns=PATTERNS)
        return run_passes(cleaned(NETWORKS[name](), ctx), ctx, [analyze_cost, measure_latency])


@pytest.mark.parametrize("method", ["obs", "magnitude"])
@pytest.mark.parametrize("text", LADDERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_masks_lie_within_each_other_and_keep_their_patterns(tmp_path, name, text, method):
    ctx, program = context(tmp_path, prune_method=method), network(name)
    plans = ladders(program, text)
    ready = dataclasses.replace(program, plan=plans[-1], facts=program.facts | {"patterns"})
    nested = nest(prune_pass(ready, ctx), plans, ctx)
    levels = [nested.at(level) for level in range(nested.count)]
    for each in nested.program.the_plan.layers:
        value = weights(nested.program)[each.name]
        rungs = [p.layer(each.name).pattern for p in plans]
        if rungs[0] == rungs[-1]:
            assert each.name not in nested.least
            continue
        least = nested.least[each.name]
        assert (least.shape, least.dtype) == (value.shape, torch.uint8)
        assert torch.equal(value != 0, least != NEVER)
        for level, pattern in enumerate(rungs):
            mask = to_canonical(least <= level, each.op, each.groups)
            assert pattern.allows(mask.numpy(), each.groups)
            inputs = each.shape[1]
            assert int(mask.sum()) * inputs == mask.numel() * pattern.kept(inputs)
            kept = torch.where(least <= level, value, 0.0)
            assert torch.equal(weights(levels[level])[each.name], kept)
        for level in range(1, len(rungs)):
            if rungs[level - 1] == rungs[level]:
                assert not (least == level).any()


def test_a_network_is_made_of_levels(tmp_path):
    ctx = context(tmp_path, patterns=(Pattern(1, 1, 4), Pattern(1, 2, 4), Pattern(1, 3, 4)))
    program = cleaned(Around(conv(8, 8), nn.ReLU(), conv(8, 8)), ctx)
    nested = make_levels(program, ctx, RouteSpec.parse("0.5,0.7,1"))
    assert nested.count == 3
    assert nested.plans[-1] == nested.program.the_plan
    assert all(a < b for a, b in itertools.pairwise(nested.costs))
    x = image(program)
    assert torch.equal(nested.at(2)(x), nested.program(x))
    assert torch.equal(nested.at(2)(x), program(x))
    wanted = [float((nested.at(level)(x) - program(x)).square().mean()) for level in range(3)]
    assert wanted[0] > wanted[1] > wanted[2] == 0


def test_of_channels_that_are_alike_a_lower_level_keeps_one(tmp_path):
    """By what each alone would lose all of them would go, or as well as any others stay."""
    ctx, module = context(tmp_path), Around(conv(8, 8))
    program = cleaned(module, ctx)
    for name in ("head.weight", "head.bias"):
        value = get_tensor(program.module, name).clone()
        value[4:] = value[:4]
        set_tensor(program.module, name, value)
    analyzed = run_passes(program, ctx, [analyze_cost, measure_latency])
    patterns = {"body.0.weight": Pattern.parse("4:8c")}
    plans = [analyzed.the_plan.assign(patterns, {}), analyzed.the_plan]
    nested = nest(analyzed, plans, ctx)
    kept = (nested.least["body.0.weight"] == 0)[0, :, 0, 0]
    assert (kept[:4] ^ kept[4:]).all()


def test_where_zeros_gain_no_time_levels_are_cheaper_in_macs(tmp_path):
    ctx = context(tmp_path, target=CountingTarget(sparse=False))
    program = cleaned(Around(conv(8, 8), nn.ReLU(), conv(8, 8)), ctx)
    assert make_levels(program, ctx, RouteSpec(2)).costs[0] < 0.75
    with pytest.raises(NmcompileError, match=r"nearest possible is 1\.000"):
        make_levels(program, ctx, RouteSpec.parse("latency=0.5,1"))


def test_the_last_level_may_be_dense_whatever_its_times_round_to():
    tenths = plan(
        *(layer(str(n), ("dense", 1000, 0.1, 0.0), ("2:4", 500, 0.05, 0.01)) for n in range(10))
    )
    assert time(tenths) < 1  # summed in turn, though they are 1
    upper = assign_levels(tenths, RouteSpec.parse("latency=0.6,1"))[1]
    assert all(x.pattern.is_dense for x in upper.layers)
