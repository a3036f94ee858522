"""Plans -> weights that keep their patterns; everything else stays bit for bit."""

import dataclasses

import pytest
import torch
from torch import nn

from nmcompile.convs import read_conv, set_tensor, to_canonical, weight_uses
from nmcompile.passes import analyze_cost, measure_latency, prune
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.second_order import Hessian, aimed, prune_magnitude, prune_second_order
from tests.networks import (
    HALF,
    QUARTER,
    Around,
    PerPixel,
    Shared,
    cleaned,
    context,
    conv,
    every_value,
    plain,
    weights,
)

WIDE = Pattern(4, 2, 4)


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path, patterns=(HALF, QUARTER, WIDE))


def planned(module, ctx, patterns):
    """The cleaned program with those patterns, and dense where none is named."""
    program = run_passes(cleaned(module, ctx), ctx, [analyze_cost, measure_latency])
    plan = program.the_plan.assign({n: Pattern.parse(p) for n, p in patterns.items()}, {})
    return dataclasses.replace(program.with_plan(plan), facts=program.facts | {"patterns"})


def canonical(program, name):
    layer = program.the_plan.layer(name)
    return to_canonical(weights(program)[name], layer.op, layer.groups)


def error(before, after, ctx):
    crops = ctx.calibration.crops
    return float(((after(crops) - before(crops)) ** 2).mean())


NETWORKS = {
    "plain": (lambda: Around(conv(8, 8)), "body.0.weight"),
    "grouped": (lambda: Around(conv(8, 12, groups=2), outputs=12), "body.0.weight"),
    "ragged": (lambda: Around(conv(8, 6), conv(6, 8)), "body.1.weight"),
    "strided": (
        lambda: Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, 2, 1)),
        "body.0.weight",
    ),
    "transposed": (
        lambda: Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, 2, 1)),
        "body.1.weight",
    ),
    "transposed grouped": (
        lambda: Around(nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2)),
        "body.0.weight",
    ),
    "linear": (PerPixel, "mix.weight"),
}


@pytest.mark.parametrize("text", ["2:4", "4x2:4"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_pattern_is_kept_exactly_and_second_order_beats_magnitude(tmp_path, kind, text):
    module, name = NETWORKS[kind]
    pattern = Pattern.parse(text)
    ctx = context(tmp_path, patterns=(pattern,))
    before = planned(module(), ctx, {name: text})
    after = prune(before, ctx)
    layer = before.the_plan.layer(name)
    mask = canonical(after, name) != 0
    assert pattern.allows(mask.numpy(), layer.groups)
    assert (mask.sum(1) == pattern.kept(layer.shape[1])).all()
    assert weights(after)[name].shape == weights(before)[name].shape
    magnitude = prune(before, dataclasses.replace(ctx, prune_method="magnitude"))
    expected = prune_magnitude(canonical(before, name), layer.groups, pattern)
    assert torch.equal(canonical(magnitude, name), expected)
    assert error(before, after, ctx) < error(before, magnitude, ctx)


@pytest.mark.parametrize("method", ["obs", "magnitude"])
def test_what_is_not_pruned_changes_only_where_it_can_make_up_for_what_is(ctx, method):
    ctx = dataclasses.replace(ctx, prune_method=method)
    before = planned(plain(), ctx, {"body.2.weight": "2:4"})
    given = {name: value.clone() for name, value in weights(before).items()}
    after = prune(before, ctx)
    changed = {n for n, value in given.items() if not torch.equal(weights(after)[n], value)}
    adapted = {"body.4.weight", "tail.weight"} & set(given) if method == "obs" else set()
    assert changed == {"body.2.weight", *adapted}
    assert all(torch.equal(weights(before)[name], value) for name, value in given.items())
    assert after.plan == before.plan
    assert "pruned" in after.facts


def test_dense_layers_after_a_pruned_one_bring_the_output_nearer(ctx):
    before = planned(plain(), ctx, {"body.0.weight": "1:4"})
    after = prune(before, ctx)
    alone = before.with_module(before.clone_module())
    set_tensor(alone.module, "body.0.weight", weights(after)["body.0.weight"])
    assert error(before, after, ctx) < 0.9 * error(before, alone, ctx)


def test_a_plan_that_is_all_dense_changes_nothing(ctx):
    before = planned(plain(), ctx, {})
    after = prune(before, ctx)
    assert torch.equal(after(ctx.calibration.crops), before(ctx.calibration.crops))


def uses(program, name):
    """The calls that apply the weight of that name, in order."""
    return [read_conv(node) for node in weight_uses(program.module)[name]]


def inputs_of(program, crops, name):
    """The inputs that these calls see."""
    values = every_value(program, crops)
    return [values[call.source] for call in uses(program, name)]


def test_a_layer_is_pruned_for_the_inputs_that_the_pruned_layers_before_it_give(ctx):
    both = planned(plain(), ctx, {"body.0.weight": "1:4", "body.2.weight": "2:4"})
    after = prune(both, ctx)
    first = prune(planned(plain(), ctx, {"body.0.weight": "1:4"}), ctx)
    (x,) = inputs_of(first, ctx.calibration.crops, "body.2.weight")
    (meant,) = inputs_of(both, ctx.calibration.crops, "body.2.weight")
    hessian = Hessian(uses(first, "body.2.weight")[0], (8, 8, 3, 3), 1 << 16)
    hessian.add(x, original=meant)
    wanted = aimed(canonical(both, "body.2.weight"), hessian)
    expected = prune_second_order(wanted, hessian, HALF)
    assert torch.equal(canonical(after, "body.2.weight"), expected)
    alone = prune(planned(plain(), ctx, {"body.2.weight": "2:4"}), ctx)
    assert not torch.equal(canonical(alone, "body.2.weight"), expected)


def test_the_order_of_the_plan_s_layers_makes_no_difference(ctx):
    program = planned(plain(), ctx, {"body.0.weight": "1:4", "body.2.weight": "2:4"})
    turned = program.with_plan(program.the_plan.with_layers(program.the_plan.layers[::-1]))
    first, second = weights(prune(program, ctx)), weights(prune(turned, ctx))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_shared_weight_is_pruned_for_the_inputs_of_all_its_uses(ctx):
    program = planned(Shared(), ctx, {"again.weight": "2:4"})
    after = prune(program, ctx)
    seen = inputs_of(program, ctx.calibration.crops, "again.weight")
    assert len(seen) == 3
    every, first = (
        Hessian(uses(program, "again.weight")[0], (8, 8, 3, 3), (1 << 16) // 3) for _ in range(2)
    )
    for x in seen:
        every.add(x)
    first.add(seen[0])
    weight = canonical(program, "again.weight")
    found = canonical(after, "again.weight")
    assert torch.equal(found, prune_second_order(weight, every, HALF))
    assert not torch.equal(found, prune_second_order(weight, first, HALF))


def test_a_filter_that_is_zero_already_keeps_the_pattern(ctx):
    module = Around(conv(8, 8))
    program = planned(module, ctx, {"body.0.weight": "4x2:4"})
    zeroed = canonical(program, "body.0.weight").clone()
    zeroed[2] = 0
    program.module.get_submodule("body.0").weight.data.copy_(zeroed)
    for method in ("obs", "magnitude"):
        after = prune(program, dataclasses.replace(ctx, prune_method=method))
        found = canonical(after, "body.0.weight")
        assert WIDE.allows((found != 0).numpy())
        assert (found[2] == 0).all()


def test_pruning_needs_patterns(ctx):
    program = cleaned(plain(), ctx)
    with pytest.raises(RuntimeError, match="prune needs patterns"):
        prune(program, ctx)
