"""A budget in decibels -> patterns whose loss, checked on images, stays within it."""

from __future__ import annotations

import dataclasses
import math

from nmcompile.context import Context
from nmcompile.evaluate import evaluate
from nmcompile.passes.assign_patterns import within_loss
from nmcompile.passes.prune import prune
from nmcompile.program import Program

_TRIALS = 5
_CLOSE_ENOUGH = 0.85
_FIRST_GUESS_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class _Trial:
    limit: float
    drop: float
    program: Program


def prune_within_drop(program: Program, ctx: Context) -> Program:
    """Assigns and prunes until the PSNR lost on the validation images is within the budget.

    Losses of single layers do not simply add up, so the limit on their sum is corrected by what
    each trial measures: while the error is small, (10^(drop/10) - 1) grows as the limit does.
    """
    allowed = ctx.budget.limit
    dense = evaluate(program, ctx.calibration.validation, ctx.task).psnr
    limit = _FIRST_GUESS_SHARE * 10 ** (-dense / 10) * _excess(allowed)
    best: _Trial | None = None
    for _ in range(_TRIALS):
        trial = _try(program, ctx, limit, dense)
        if trial.drop <= allowed and (best is None or trial.limit > best.limit):
            best = trial
        if _settled(trial, allowed):
            break
        limit = _next_limit(trial, allowed, best)
    if best is None:
        best = _try(program, ctx, 0.0, dense)
    return best.program


def _excess(decibels: float) -> float:
    return float(10 ** (decibels / 10) - 1)


def _try(program: Program, ctx: Context, limit: float, dense: float) -> _Trial:
    plan = within_loss(program.the_plan, limit)
    assigned = dataclasses.replace(program.with_plan(plan), facts=program.facts | {"patterns"})
    pruned = prune(assigned, ctx)
    drop = dense - evaluate(pruned, ctx.calibration.validation, ctx.task).psnr
    share = plan.macs / plan.dense_macs
    ctx.reporter.note(
        f"  {share:.3f} of the MACs: {drop:.3f} dB lost, {ctx.budget.limit:g} allowed"
    )
    return _Trial(limit, drop, pruned)


def _settled(trial: _Trial, allowed: float) -> bool:
    plan = trial.program.the_plan
    cheapest = all(
        layer.chosen.macs == min(choice.macs for choice in layer.choices) for layer in plan.layers
    )
    return trial.drop <= allowed and (cheapest or trial.drop >= _CLOSE_ENOUGH * allowed)


def _next_limit(trial: _Trial, allowed: float, best: _Trial | None) -> float:
    ratio = _excess(allowed) / max(_excess(max(trial.drop, 0.0)), 1e-6)
    proposed = trial.limit * min(max(ratio, 0.1), 10.0) * 0.95
    if trial.drop > allowed and best is not None:
        return max(proposed, math.sqrt(best.limit * trial.limit) if best.limit else proposed)
    return proposed
