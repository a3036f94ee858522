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
_MOST_TRIALS = 8  # while none has held
_STEP_BACK = 0.8
_LOOKS = 6
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
    if not math.isfinite(dense):  # a perfect network: any loss is infinitely many decibels
        return _try(program, ctx, 0.0, dense).program
    limit = _FIRST_GUESS_SHARE * 10 ** (-dense / 10) * _excess(allowed)
    best: _Trial | None = None
    too_much = math.inf  # the least summed loss that did not hold
    for number in range(_MOST_TRIALS):
        if number >= _TRIALS and best is not None:
            break
        trial = _try(program, ctx, limit, dense)
        if trial.drop > allowed:
            too_much = min(too_much, trial.program.the_plan.loss or 0.0)
        elif best is None or trial.limit > best.limit:
            best = trial
        if _settled(trial, allowed):
            break
        limit = _next_limit(trial, allowed, best, too_much)
        moved = limit if best is None else _moved(program, limit, best, too_much)
        if moved is None:
            break
        limit = moved
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


def _next_limit(trial: _Trial, allowed: float, best: _Trial | None, too_much: float) -> float:
    """By the trial's drop, but between what held and what did not."""
    ratio = _excess(allowed) / max(_excess(max(trial.drop, 0.0)), 1e-6)
    proposed = trial.limit * min(max(ratio, 0.1), 10.0) * 0.95
    if best is None:
        return min(proposed, _STEP_BACK * too_much)
    if best.limit < proposed < too_much:
        return proposed
    return math.sqrt(best.limit * too_much)


def _moved(program: Program, limit: float, best: _Trial, too_much: float) -> float | None:
    """The limit, or one nearer to what did not hold, that gives other patterns than the best."""
    known = [layer.pattern for layer in best.program.the_plan.layers]
    for _ in range(_LOOKS):
        if [layer.pattern for layer in within_loss(program.the_plan, limit).layers] != known:
            return limit
        limit = math.sqrt(limit * too_much) if math.isfinite(too_much) else 10 * limit
    return None
