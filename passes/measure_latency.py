"""Layers and candidate patterns -> choices with MACs, kernel and latency measured on the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import fx

from nmcompile.context import Context, ConvSpec
from nmcompile.convs import get_tensor, read_conv, to_canonical, weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, SKIP, Pattern
from nmcompile.pipeline import compiler_pass
from nmcompile.plan import Choice, Layer
from nmcompile.program import Program
from nmcompile.readers import Readers, channel_readers, repeats, sole_reader, through
from nmcompile.shapes import Shapes, shapes_at

# A layer below this share of the network's MACs cannot pay for the risk of pruning it.
_NEGLIGIBLE = 0.0005


@compiler_pass(needs={"costs"}, gives={"latency"}, changes="nothing")
def measure_latency(program: Program, ctx: Context) -> Program:
    """Lists every layer's choices and times each on the target at the reference size.

    Patterns that run in the same kernel at the same speed (a dense kernel that multiplies the
    zeros too) are timed once. Times are cached by machine, call and kernel.

    Under a pattern of channels the layer before computes less. Which one that will be is not known
    yet, so it is the layer itself, if it stands in a chain, between one whose outputs it alone
    reads and one that alone reads its own, that is counted and timed with as few outputs as
    inputs: what it saves in the one before is what the one behind would save in it. The first of a
    chain is counted as if the next read everything, so that a chain takes no more than this says
    unless its layers keep very unlike shares.

    A layer that is skipped takes no time, nor do those that serve it alone, nor what a layer behind
    it takes to read the same twice.

    Raises:
        NmcompileError: `skip` is a candidate where what is skipped would still be computed.
    """
    plan = program.the_plan
    shapes = shapes_at(program, ctx.reference_size)
    uses = weight_uses(program.module)
    # Only libnmk leaves out what nobody reads.
    native = ctx.target.executor == "native"
    private = _private(channel_readers(program.module)) if native else {}
    if SKIP in (*ctx.patterns, ctx.uniform) and not native:
        raise NmcompileError(
            f"pattern {SKIP}: target {ctx.target.name} would compute what is skipped, as libnmk "
            "does not run the whole network (--target cpu may); name other --patterns"
        )
    skips = SKIP in ctx.patterns
    serves = through(program.module) if skips else {}
    twice = repeats(program.module) if skips else {}
    layers = []
    with ctx.reporter.stage("measuring latency", len(plan.layers)) as step:
        for layer in plan.layers:
            calls = [
                (conv_spec(program, node, shapes), private.get(node, 0))
                for node in uses[layer.name]
            ]
            with_choices = _with_choices(layer, calls, plan.dense_macs, ctx)
            layers.append(
                dataclasses.replace(
                    with_choices,
                    through=serves.get(layer.name, ()),
                    repeats=twice.get(layer.name, ()),
                )
            )
            step()
    return program.with_plan(plan.with_layers(layers))


def candidates(
    layer: Layer, patterns: tuple[Pattern, ...], total: int
) -> tuple[list[Pattern], str]:
    """The patterns that a layer can take, and why it can take no other."""
    if layer.macs < _NEGLIGIBLE * total:
        return [], f"only {layer.macs / total:.2%} of the MACs"
    able = [pattern for pattern in patterns if layer.obstacle(pattern) is None]
    if able or not patterns:
        return [pattern for pattern in able if not _is_surpassed(pattern, able)], ""
    return [], layer.obstacle(patterns[0]) or ""


def _is_surpassed(pattern: Pattern, others: list[Pattern]) -> bool:
    """Whether another one of whole kernels allows all its masks and more, in the same kernel.

    Measured on DnCNN, half of the kernels by second order: M = 16 29.50 dB, 32 29.58, 64 29.64.
    """
    return pattern.whole and any(
        (other.v, other.whole) == (pattern.v, True)
        and other.n * pattern.m == pattern.n * other.m
        and other.m > pattern.m
        and other.m % pattern.m == 0
        for other in others
    )


def kept_macs(layer: Layer, pattern: Pattern) -> int:
    """MACs that are left of a layer under a pattern, all outputs computed."""
    inputs = layer.shape[1]
    return layer.macs if pattern.is_dense else layer.macs * pattern.kept(inputs) // inputs


def _private(readers: Mapping[fx.Node, Readers]) -> dict[fx.Node, int]:
    """How many outputs of each layer within a chain one convolution and nothing else reads."""
    alone = {node: [sole_reader(channel) for channel in own] for node, own in readers.items()}
    chained = {reader for own in alone.values() for reader in own}
    return {
        node: sum(reader is not None for reader in own)
        for node, own in alone.items()
        if node in chained
    }


def _outputs(spec: ConvSpec, pattern: Pattern, private: int) -> int:
    """How many outputs are computed if the layers behind take that pattern too."""
    if not pattern.of_channels or spec.op != "conv2d" or spec.groups != 1:
        return spec.shape[0]
    return spec.shape[0] - private + pattern.kept(private)


def _with_choices(
    layer: Layer, calls: list[tuple[ConvSpec, int]], total: int, ctx: Context
) -> Layer:
    wanted = (ctx.uniform,) if ctx.uniform else ctx.patterns
    able, obstacle = candidates(layer, wanted, total)
    if len({(spec.op, spec.groups) for spec, _ in calls}) > 1:
        able, obstacle = [], "its weight is used by convolutions of different kinds"
    choices = []
    for pattern in (DENSE, *able):
        if pattern == SKIP:
            choices.append(Choice(SKIP, 0, 0.0, None, "none"))
            continue
        kernel = ctx.target.kernel(layer, pattern)
        outputs = [_outputs(spec, pattern, private) for spec, private in calls]
        latency = sum(
            _timed(dataclasses.replace(spec, shape=(count, *spec.shape[1:])), kernel, ctx)
            for (spec, _), count in zip(calls, outputs, strict=True)
        )
        macs = kept_macs(layer, pattern) * sum(outputs) // (layer.shape[0] * len(calls))
        choices.append(Choice(pattern, macs, latency, None, kernel))
    return dataclasses.replace(layer, choices=tuple(choices), reason=obstacle)


def _timed(spec: ConvSpec, kernel: str, ctx: Context) -> float:
    key = ("latency", *ctx.target.key(), spec, kernel)
    return ctx.measurements.get_or(lambda: ctx.target.latency_ms(spec, kernel), *key)


def conv_spec(program: Program, node: fx.Node, shapes: Shapes) -> ConvSpec:
    """What the speed of a node that applies a weight depends on, at the sizes given."""
    conv = read_conv(node)
    assert conv is not None
    weight = get_tensor(program.module, str(conv.weight.target))
    outputs, inputs, height, width = to_canonical(weight, conv.op, conv.groups).shape
    return ConvSpec(
        conv.op, (outputs, inputs, height, width), conv.groups, conv.stride, conv.padding,
        conv.dilation, conv.output_padding, shapes[conv.source],
    )  # fmt: skip
