"""The steps between a captured network and a pruned one, as functions of a Program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nmcompile.backends import make_target
from nmcompile.budget import Budget
from nmcompile.cache import Measurements
from nmcompile.calibration import CROPS, calibrate
from nmcompile.context import Context, Target
from nmcompile.data import Source
from nmcompile.drop import prune_within_drop
from nmcompile.errors import NmcompileError
from nmcompile.passes import (
    analyze_cost,
    assign_patterns,
    drop_inference_noops,
    fold_batch_norm,
    fold_constants,
    measure_latency,
    measure_sensitivity,
)
from nmcompile.passes import prune as prune_pass
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.plan import Plan
from nmcompile.program import Interface, Program
from nmcompile.tasks import Task

CLEAN = (drop_inference_noops, fold_constants, fold_batch_norm)
ANALYZE = (analyze_cost, measure_latency, measure_sensitivity)

_SAME_SIZE = (480, 640)


def prepare(
    program: Program,
    task: Task | str,
    *,
    source: Source | None = None,
    target: str | Target = "cpu",
    threads: int | None = None,
    budget: Budget | str = "drop=0.1dB",
    patterns: Sequence[Pattern] | None = None,
    reference_size: tuple[int, int] | None = None,
    crops: int = CROPS,
    **options: Any,
) -> Context:
    """What passes need besides the program.

    Args:
        program: a captured network.
        task: what it does.
        source: calibration images; scikit-image's photographs if None.
        target: cpu, cpu:avx512, cpu:avx2, cpu:portable, onnx or tensorrt, or a backend made of it.
        threads: for timing; all cores if None.
        budget: see nmcompile.budget.
        patterns: candidates; the target's own if None.
        reference_size: (H, W) of the input at which costs are stated; 720p output if None.
        crops: how many calibration crops.
        options: further fields of Context.
    """
    task = Task.parse(task) if isinstance(task, str) else task
    backend = make_target(target, threads) if isinstance(target, str) else target
    chosen = Source.fallback() if source is None else source
    return Context(
        target=backend,
        task=task,
        calibration=calibrate(chosen, task, program.interface, crops),
        measurements=Measurements(),
        reference_size=reference_size or default_size(program.interface),
        budget=Budget.parse(budget) if isinstance(budget, str) else budget,
        patterns=tuple(patterns) if patterns is not None else backend.default_patterns(),
        **options,
    )


def analyze(program: Program, ctx: Context) -> Program:
    """Cleans the graph, then fills the plan with every layer's choices, costs and losses."""
    if "batch norm folded" not in program.facts:
        program = run_passes(program, ctx, CLEAN)
    return run_passes(program, ctx, ANALYZE)


def assign(program: Program, ctx: Context) -> Program:
    """Chooses every layer's pattern within the budget.

    With a budget in decibels the choice cannot be told from the pruned weights it is checked
    with, so that the result is pruned already.
    """
    if ctx.budget.quantity == "drop" and ctx.uniform is None:
        return prune_within_drop(program, ctx)
    return assign_patterns(program, ctx)


def prune(program: Program, ctx: Context) -> Program:
    """Prunes the weights to the plan's patterns; does nothing to a program already pruned."""
    return program if "pruned" in program.facts else prune_pass(program, ctx)


def follow(program: Program, ctx: Context, plan: Plan, source: str) -> Program:
    """Takes the patterns of another plan, edited by hand perhaps, instead of searching.

    Raises:
        NmcompileError: the plan names other layers or shapes than the network has.
    """
    program = run_passes(program, ctx, (analyze_cost,))
    own = {layer.name: layer for layer in program.the_plan.layers}
    for layer in plan.layers:
        if layer.name not in own or own[layer.name].shape != layer.shape:
            raise NmcompileError(
                f"{source}: layer {layer.name} {layer.shape} is not in this network; "
                "a plan fits only the network it was made for"
            )
        obstacle = layer.obstacle(layer.pattern)
        if obstacle:
            raise NmcompileError(f"{source}: layer {layer.name}: {obstacle}")
    missing = sorted(set(own) - {layer.name for layer in plan.layers})
    if missing:
        raise NmcompileError(f"{source}: layer {missing[0]} of the network is not in the plan")
    return Program(program.module, program.interface, plan, program.facts | {"latency", "patterns"})


def default_size(interface: Interface) -> tuple[int, int]:
    """Input size for a 1280x720 output, or 480x640 where the network keeps the size."""
    if interface.fixed_size:
        return interface.fixed_size
    height, width = (
        _SAME_SIZE if interface.scale == 1 else (720 // interface.scale, 1280 // interface.scale)
    )
    step = interface.multiple
    return -(-height // step) * step, -(-width // step) * step
