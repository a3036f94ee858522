"""Layers x patterns -> losses: what pruning one layer alone does to the network's output."""

import dataclasses

import pytest
import torch

from nmcompile.cache import Measurements
from nmcompile.convs import set_tensor
from nmcompile.engine import ExtraInput
from nmcompile.passes import analyze_cost, measure_latency, measure_sensitivity, prune
from nmcompile.pattern import DENSE, Pattern
from nmcompile.pipeline import run_passes
from nmcompile.program import Program
from tests.networks import (
    HALF,
    QUARTER,
    Around,
    Shared,
    bare_interface,
    calibration,
    cleaned,
    context,
    conv,
    plain,
    weights,
)


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def timed(module, ctx):
    return run_passes(cleaned(module, ctx), ctx, [analyze_cost, measure_latency])


def with_patterns(program, patterns):
    """The program as if those patterns had been assigned."""
    plan = program.the_plan.assign(patterns, {})
    return dataclasses.replace(program.with_plan(plan), facts=program.facts | {"patterns"})


def losses(program):
    return {
        (layer.name, str(choice.pattern)): choice.loss
        for layer in program.the_plan.layers
        for choice in layer.choices
    }


class Counting(Measurements):
    """Counts what is measured; can be told to stop after so many."""

    def __init__(self, folder, stop_after=None):
        super().__init__(folder)
        self.measured, self.stop_after = 0, stop_after

    def get_or(self, measure, *key):
        def counted():
            if self.measured == self.stop_after:
                raise KeyboardInterrupt
            self.measured += 1
            return measure()

        return super().get_or(counted, *key)


@pytest.mark.parametrize("method", ["obs", "magnitude"])
@pytest.mark.parametrize("module", [plain, Shared], ids=["plain", "shared weight"])
def test_a_loss_is_the_error_when_that_layer_alone_is_pruned(tmp_path, module, method):
    ctx = context(tmp_path, prune_method=method)
    program = timed(module(), ctx)
    found = losses(measure_sensitivity(program, ctx))
    crops = ctx.calibration.crops
    assert len(found) > 6
    for (name, text), loss in found.items():
        if text == "dense":
            assert loss == 0.0
            continue
        pruned = prune(with_patterns(program, {name: Pattern.parse(text)}), ctx)
        alone = program.with_module(program.clone_module())  # where the others do not adapt
        set_tensor(alone.module, name, weights(pruned)[name])
        expected = ((alone(crops) - program(crops)).double() ** 2).mean()
        assert loss == pytest.approx(float(expected), rel=1e-4)
        assert loss > 0


def test_the_network_and_the_choices_stay_as_they_are(ctx):
    program = timed(plain(), ctx)
    before = {name: value.clone() for name, value in weights(program).items()}
    after = measure_sensitivity(program, ctx)
    assert all(torch.equal(weights(after)[name], value) for name, value in before.items())
    blank = [
        [dataclasses.replace(choice, loss=None) for choice in layer.choices]
        for layer in after.the_plan.layers
    ]
    assert blank == [list(layer.choices) for layer in program.the_plan.layers]


def test_losses_are_in_the_0_to_1_range(tmp_path):
    """The same linear network in 0..255 loses the same."""
    module = Around(conv(8, 8, bias=False), conv(8, 8, bias=False))
    small = context(tmp_path)
    crops = small.calibration.crops
    program = timed(module, small)
    for part in ("head", "tail"):
        set_tensor(program.module, f"{part}.bias", torch.zeros(8 if part == "head" else 3))
    large_range = dataclasses.replace(program.interface, value_range=255.0)
    large = dataclasses.replace(
        small, calibration=dataclasses.replace(small.calibration, crops=crops * 255)
    )
    found = losses(measure_sensitivity(program, small))
    scaled = dataclasses.replace(program, interface=large_range)
    for key, loss in losses(measure_sensitivity(scaled, large)).items():
        assert loss == pytest.approx(found[key], rel=1e-3, abs=1e-12)


def test_a_second_run_measures_nothing(tmp_path):
    numbers = Counting(tmp_path)
    ctx = context(tmp_path, measurements=numbers)
    program = timed(plain(), ctx)
    numbers.measured = 0
    first = measure_sensitivity(program, ctx)
    assert numbers.measured == 6  # two patterns of three layers
    again = Counting(tmp_path, stop_after=0)
    assert measure_sensitivity(program, dataclasses.replace(ctx, measurements=again)).plan == (
        first.plan
    )


def test_a_run_that_was_interrupted_goes_on_where_it_was(tmp_path):
    ctx = context(tmp_path / "whole")
    program = timed(plain(), ctx)
    expected = losses(measure_sensitivity(program, ctx))
    halted = dataclasses.replace(ctx, measurements=Counting(tmp_path / "cut", stop_after=3))
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(program, halted)
    rest = Counting(tmp_path / "cut")
    found = losses(measure_sensitivity(program, dataclasses.replace(ctx, measurements=rest)))
    assert rest.measured == 3
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("change", ["weight", "crops", "method", "input"])
def test_what_a_loss_depends_on_is_measured_anew(tmp_path, change):
    numbers = Counting(tmp_path)
    ctx = context(tmp_path, measurements=numbers)
    program = timed(plain(), ctx)
    measure_sensitivity(program, ctx)
    numbers.measured = 0
    if change == "weight":
        program = program.with_module(program.clone_module())
        value = weights(program)["head.weight"].clone()
        value[0, 0, 0, 0] += 1e-3
        set_tensor(program.module, "head.weight", value)
    elif change == "crops":
        crops = calibration(crops=3).crops
        ctx = dataclasses.replace(
            ctx, calibration=dataclasses.replace(ctx.calibration, crops=crops)
        )
    elif change == "method":
        ctx = dataclasses.replace(ctx, prune_method="magnitude")
    else:
        ctx, program = with_level(ctx, program, 0.2)
    measure_sensitivity(program, ctx)
    assert numbers.measured == 6


def with_level(ctx, program, value):
    """The same network, with a further input that its graph ignores."""
    graph = program.clone_module()
    image = next(node for node in graph.graph.nodes if node.op == "placeholder")
    with graph.graph.inserting_after(image):
        graph.graph.placeholder("sigma")
    graph.recompile()
    extra = ExtraInput("sigma", (0, 1, 1, 1), value)
    interface = bare_interface(input_name=image.name, extra_inputs=(extra,))
    return ctx, Program(graph, interface, program.plan, program.facts)


def test_another_value_of_a_further_input_is_measured_anew(tmp_path):
    numbers = Counting(tmp_path)
    ctx = context(tmp_path, measurements=numbers)
    program = timed(plain(), ctx)
    for count, level in enumerate((0.1, 0.2, 0.1)):
        numbers.measured = 0
        measure_sensitivity(*reversed(with_level(ctx, program, level)))
        assert numbers.measured == (6 if count < 2 else 0)


def test_a_uniform_pattern_needs_no_losses(tmp_path):
    ctx = context(tmp_path, uniform=HALF, measurements=Counting(tmp_path))
    program = timed(plain(), ctx)
    assert measure_sensitivity(program, ctx).plan == program.plan


def test_sparser_loses_more(ctx):
    for layer in measure_sensitivity(timed(plain(), ctx), ctx).the_plan.layers:
        found = {choice.pattern: choice.loss for choice in layer.choices}
        if len(found) > 1:
            assert found[DENSE] < found[HALF] < found[QUARTER]
