"""Plans of layers and candidate patterns -> choices, each timed once on a target that counts."""

import dataclasses

import pytest
import torch
from torch import nn

from nmcompile.backends import make_target
from nmcompile.errors import NmcompileError
from nmcompile.passes import analyze_cost, measure_latency
from nmcompile.passes.measure_latency import kept_macs
from nmcompile.pattern import DENSE, SKIP, Pattern
from nmcompile.pipeline import run_passes
from tests.networks import (
    HALF,
    QUARTER,
    Around,
    CountingTarget,
    PerPixel,
    Shared,
    captured,
    cleaned,
    context,
    conv,
    layer,
)

PIXELS = 16 * 24


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path)


def measured(module, ctx):
    return run_passes(cleaned(module, ctx), ctx, [analyze_cost, measure_latency]).the_plan


def test_every_layer_gets_the_patterns_it_can_take_dense_first(ctx):
    found = measured(Around(conv(8, 8)), ctx)
    assert {x.name: [c.pattern for c in x.choices] for x in found.layers} == {
        "head.weight": [DENSE],
        "body.0.weight": [DENSE, HALF, QUARTER],
        "tail.weight": [DENSE, HALF, QUARTER],
    }
    body = found.layer("body.0.weight")
    assert [c.macs for c in body.choices] == [576 * PIXELS, 288 * PIXELS, 144 * PIXELS]
    assert [c.kernel for c in body.choices] == ["conv2d dense", "conv2d 2:4", "conv2d 1:4"]
    assert [c.loss for c in body.choices] == [None] * 3
    dense = 576 * PIXELS * 1e-6
    assert [c.latency_ms for c in body.choices] == pytest.approx([dense, dense / 2, dense / 4])


def test_of_whole_kernels_a_layer_takes_the_largest_m_that_it_can(ctx):
    texts = ("2x2:4k", "2x4:8k", "2x2:8k", "2x6:12k", "1:2", "2:4")
    wide = dataclasses.replace(ctx, patterns=tuple(map(Pattern.parse, texts)))
    found = measured(Around(conv(8, 12), conv(12, 4), conv(4, 8)), wide)

    def choices(name):
        return [str(choice.pattern) for choice in found.layer(name).choices[1:]]

    assert choices("body.0.weight") == ["2x4:8k", "2x2:8k", "1:2", "2:4"]
    assert choices("body.1.weight") == ["2x4:8k", "2x2:8k", "2x6:12k", "1:2", "2:4"]
    assert choices("body.2.weight") == ["2x2:4k", "1:2", "2:4"]


def test_what_stands_in_the_way_of_every_pattern_is_the_reason(ctx):
    found = measured(Around(conv(8, 8), conv(8, 8, groups=4)), ctx)
    assert found.layer("head.weight").reason == "3 input channels per group, pattern 2:4 needs 4"
    assert found.layer("body.1.weight").reason == "2 input channels per group, pattern 2:4 needs 4"
    assert found.layer("body.0.weight").reason == ""


def test_patterns_that_some_layers_cannot_take_are_left_out_there(ctx):
    patterns = (HALF, Pattern(4, 2, 4), Pattern(1, 4, 8))
    found = measured(Around(conv(8, 12, groups=2), conv(12, 8)), with_patterns(ctx, patterns))
    grouped, plain = found.layers[1:3]
    assert [c.pattern for c in grouped.choices] == [DENSE, HALF, Pattern(4, 2, 4)]
    assert [c.pattern for c in plain.choices] == [DENSE, *patterns]


@pytest.mark.parametrize("executor", ["native", "onnx"])
def test_a_pattern_of_channels_spares_outputs_that_one_convolution_alone_reads(ctx, executor):
    """The second of the body: what the first reads the sum needs too, and what the third makes."""
    target = CountingTarget()
    target.executor = executor
    quarter = with_patterns(ctx, (Pattern.parse("1:4c"),))
    found = measured(Chained(), dataclasses.replace(quarter, target=target))
    second = 1 / 16 if executor == "native" else 1 / 4
    for name, outputs in (("first", 1 / 4), ("second", second), ("third", 1 / 4)):
        dense, sparse = found.layer(f"{name}.weight").choices
        assert sparse.macs == dense.macs * outputs
        assert sparse.latency_ms == pytest.approx(dense.latency_ms * outputs)


class Chained(nn.Module):
    """Three convolutions, the last of which has a residual, between a head and a tail."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = conv(3, 8), conv(8, 3)
        self.first, self.second, self.third = conv(8, 8), conv(8, 8), conv(8, 8)

    def forward(self, x):
        x = self.head(x)
        y = torch.relu(self.second(torch.relu(self.first(x))))
        return self.tail(x + self.third(y))


def with_patterns(ctx, patterns):
    return dataclasses.replace(ctx, patterns=patterns)


def test_a_layer_that_hardly_counts_stays_dense(ctx):
    gate = measured(Gated(), ctx).layer("gate.weight")
    assert [c.pattern for c in gate.choices] == [DENSE]
    assert gate.reason == "only 0.01% of the MACs"


class Gated(nn.Module):
    """A gate of the image's mean: 64 multiply-accumulates beside 780 288."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = conv(3, 8), conv(8, 3)
        self.body, self.gate = conv(8, 8, 5), conv(8, 8, 1)

    def forward(self, x):
        x = self.body(self.head(x))
        return self.tail(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))


def test_a_call_is_timed_once_for_each_kernel(ctx):
    measured(Shared(), ctx)
    again = [(s, k) for s, k in ctx.target.calls if s.shape == (8, 8, 3, 3)]
    assert [kernel for _, kernel in again] == ["conv2d dense", "conv2d 2:4", "conv2d 1:4"]
    assert len(ctx.target.calls) == len(set(ctx.target.calls))


def test_a_kernel_that_multiplies_zeros_is_timed_once_for_all_patterns(tmp_path):
    ctx = context(tmp_path, target=CountingTarget(sparse=False))
    found = measured(Around(conv(8, 8)), ctx)
    assert len(ctx.target.calls) == 3  # three layers of different shapes
    for each in found.layers:
        assert len({choice.latency_ms for choice in each.choices}) == 1


def test_all_uses_of_a_weight_are_added(ctx):
    found = measured(Shared(), ctx).layer("again.weight")
    assert found.choices[0].latency_ms == pytest.approx(3 * 576 * PIXELS * 1e-6)
    assert found.choices[1].macs == 3 * 288 * PIXELS


def test_what_was_timed_before_is_not_timed_again(ctx, tmp_path):
    first = measured(Around(conv(8, 8)), ctx)
    second = context(tmp_path)
    assert measured(Around(conv(8, 8)), second) == first
    assert second.target.calls == []


def test_another_size_machine_or_pattern_is_timed_anew(ctx, tmp_path):
    module = Around(conv(8, 8))
    measured(module, ctx)
    larger = dataclasses.replace(ctx, target=CountingTarget(), reference_size=(32, 24))
    measured(module, larger)
    assert len(larger.target.calls) == len(ctx.target.calls) == 7  # the head is only dense
    other = CountingTarget()
    other.key = lambda: ("another machine",)
    measured(module, dataclasses.replace(ctx, target=other))
    assert len(other.calls) == len(ctx.target.calls)
    more = dataclasses.replace(ctx, target=CountingTarget(), patterns=(HALF, Pattern(1, 3, 4)))
    measured(module, more)
    assert {kernel for _, kernel in more.target.calls} == {"conv2d 3:4"}


def test_a_uniform_pattern_is_the_only_candidate(ctx):
    found = measured(Around(conv(8, 8)), dataclasses.replace(ctx, uniform=Pattern(1, 3, 4)))
    assert [c.pattern for c in found.layers[1].choices] == [DENSE, Pattern(1, 3, 4)]


class Tied(nn.Module):
    """One weight in a convolution and in a transposed one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16, 8, 3, 3))
        self.head, self.tail = conv(3, 8), conv(8, 3)

    def forward(self, x):
        code = torch.relu(nn.functional.conv2d(self.head(x), self.weight, padding=1))
        return self.tail(nn.functional.conv_transpose2d(code, self.weight, padding=1))


def test_a_weight_under_two_kinds_of_convolution_stays_dense(ctx):
    found = measured(Tied(), ctx).layer("weight")
    assert [c.pattern for c in found.choices] == [DENSE]
    assert found.reason == "its weight is used by convolutions of different kinds"
    shapes = {spec.op: spec.shape for spec, _ in ctx.target.calls if spec.shape[0] != 3}
    assert shapes["conv_transpose2d"] == (8, 16, 3, 3)
    assert (16, 8, 3, 3) in [spec.shape for spec, _ in ctx.target.calls]


@pytest.mark.parametrize(("text", "left"), [("2:4", 50), ("1:4", 30), ("9:10", 90), ("dense", 100)])
def test_what_a_pattern_leaves_is_what_it_keeps_of_the_inputs(text, left):
    ragged = layer("x", ("dense", 100, 1.0, 0.0), shape=(8, 10, 1, 1))
    assert kept_macs(ragged, Pattern.parse(text)) == left


def test_calls_are_described_as_the_backend_runs_them(tmp_path):
    """ONNX Runtime takes every one of them, and each takes some time."""
    ctx = context(tmp_path, target=make_target("onnx", threads=1), reference_size=(12, 14))
    module = Around(
        conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1),
        conv(8, 8, dilation=2, padding=2, groups=2), nn.Conv2d(8, 8, (1, 3), padding="same"),
    )  # fmt: skip
    for network in (module, PerPixel()):
        for each in measured(network, ctx).layers:
            assert all(choice.latency_ms > 0 for choice in each.choices)


def test_the_plan_it_is_given_keeps_everything_else(ctx):
    before = run_passes(cleaned(Around(conv(8, 8)), ctx), ctx, [analyze_cost])
    after = measure_latency(before, ctx).the_plan
    blank = [dataclasses.replace(x, choices=(), reason="") for x in after.layers]
    assert blank == [dataclasses.replace(x, choices=(), reason="") for x in before.the_plan.layers]
    assert captured(Around(conv(8, 8))).plan is None


class Branch(nn.Module):
    """A residual branch of two convolutions between a head and a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3, 8), conv(8, 3)
        self.first, self.second = conv(8, 8), conv(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        return self.tail(x + self.second(torch.relu(self.first(x))))


def test_what_is_skipped_takes_no_time(ctx):
    native = dataclasses.replace(ctx, target=make_target("cpu"), patterns=(SKIP,))
    found = measured(Branch(), native)
    skip = found.layer("second.weight").choices[1]
    assert (skip.pattern, skip.macs, skip.latency_ms) == (SKIP, 0, 0.0)
    assert found.layer("first.weight").through == ("second.weight", "tail.weight")
    assert found.layer("second.weight").through == ("tail.weight",)


@pytest.mark.parametrize("given", [{"patterns": (HALF, SKIP)}, {"uniform": SKIP}])
def test_a_target_that_computes_what_is_skipped_refuses_it(ctx, given):
    portable = dataclasses.replace(ctx, target=make_target("onnx"), **given)
    with pytest.raises(NmcompileError, match=r"skip: target onnx would .*; name other --patterns"):
        measured(Branch(), portable)


class Gathering(Branch):
    """The same, and a 1x1 convolution over the value before and after the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = conv(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        return self.tail(torch.cat((x, x + self.second(torch.relu(self.first(x)))), 1))


def test_what_would_be_read_twice_is_named(ctx):
    native = dataclasses.replace(ctx, target=make_target("cpu"), patterns=(SKIP,))
    found = measured(Gathering(), native)
    assert {x.name: x.repeats for x in found.layers if x.repeats} == {
        "tail.weight": ("second.weight",)
    }
    without = measured(Gathering(), dataclasses.replace(native, patterns=(HALF,)))
    assert not any(x.repeats for x in without.layers)
