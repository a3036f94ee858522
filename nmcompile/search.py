"""A measured plan and a budget -> what SLS pays for each N of each layer, and its limit."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from nmcompile.budget import Budget
from nmcompile.context import Context
from nmcompile.errors import NmcompileError
from nmcompile.passes.assign_patterns import end_layers, reverted
from nmcompile.passes.measure_latency import candidates, kept_macs, measure_latency
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.training.sls import DEADLINE, Search, SlsPolicy

GROUPS = (4, 8, 16, 32)
_FAMILY = re.compile(r"([0-9]+x)?[0-9]+k?")
_RUNGS = 8
_EPOCHS, _LEAST_EPOCH = 300, 2  # the paper's, and steps of one
# How far a gate could move until the search must end, if it went one way at the highest rate:
# Adam's steps are about as long as the rate, and in a short training no gate would ever close.
_TRAVEL = 2.0


def check_search(family: Pattern, budget: Budget) -> None:
    """Raises NmcompileError for what SLS cannot search."""
    if family.m not in GROUPS:
        raise NmcompileError(
            f"--search sls: groups of {family.m}; expected one of "
            f"{', '.join(map(str, GROUPS))}, as in sls:32 or sls:8x16k"
        )
    if budget.quantity == "drop":
        raise NmcompileError(
            "--search sls needs a budget that it can pay: --budget macs=0.5 or latency=0.5x"
        )


def family_of_search(text: str) -> Pattern:
    """`32` or `8x16k` -> patterns 1:32, 8x1:16k, whose N is searched for.

    Raises:
        NmcompileError: something else.
    """
    if not _FAMILY.fullmatch(text):
        raise NmcompileError(
            f"--search sls:{text}: N is what is searched for; give sls:M, sls:VxM or sls:VxMk, as "
            "in sls:16 or sls:8x16k"
        )
    shared, _, rest = text.rpartition("x")
    return Pattern.parse(f"{shared}x1:{rest}" if shared else f"1:{rest}")


def priced(program: Program, ctx: Context, family: Pattern) -> Program:
    """Measures what the family's patterns cost in each layer.

    Args:
        program: with costs (analyze_cost).
        ctx: whose budget is to be met.
        family: v, m and whole of the patterns.
    """
    check_search(family, ctx.budget)
    return measure_latency(program, dataclasses.replace(ctx, patterns=_ladder(family)))


def sls_policy(
    program: Program, budget: Budget, family: Pattern, steps: int, rate: float
) -> SlsPolicy:
    """The policy that searches among a family's patterns.

    Args:
        program: priced.
        budget: to be met.
        family: as it was priced.
        steps: of the training.
        rate: the largest learning rate.
    """
    plan, quantity, ends = program.the_plan, budget.quantity, end_layers(program)
    costs = {
        layer.name: _costs(layer, family, quantity)
        for layer in plan.layers
        if layer.name not in ends and candidates(layer, (family,), plan.dense_macs)[0]
    }
    if not costs:
        raise NmcompileError(f"--search sls: no layer of the trunk can take {family}")
    dense = sum(_dense(layer, quantity) for layer in plan.layers)
    fixed = dense - sum(cost[-1] for cost in costs.values())
    limit = budget.limit * (dense if budget.unit == "x" else 1)
    least = fixed + sum(cost[0] for cost in costs.values())
    if least > limit:
        raise NmcompileError(
            f"budget {budget} is impossible for {family}: the least is {least / dense:.3f} of "
            "the dense cost"
        )
    search = Search(family, limit, fixed, min(_EPOCHS, max(1, steps // _LEAST_EPOCH)))
    return SlsPolicy(search, costs, max(1.0, _TRAVEL / (rate * DEADLINE * steps)))


def settled(program: Program, ctx: Context, patterns: dict[str, Pattern]) -> Program:
    """The program whose plan has these patterns, each measured; dense where none is faster."""
    found = tuple(sorted({pattern for pattern in patterns.values() if not pattern.is_dense}))
    measured = measure_latency(program, dataclasses.replace(ctx, patterns=found))
    learned = measured.the_plan.assign(patterns, dict.fromkeys(patterns, "learned by SLS"))
    plan = reverted(learned)
    if plan.macs > learned.macs:
        ctx.reporter.note(
            f"note: where a learned pattern is no faster than dense here, the layer runs dense: "
            f"{plan.macs / plan.dense_macs:.3f} of the MACs, not the "
            f"{learned.macs / plan.dense_macs:.3f} that were learned; --budget latency= weighs time"
        )
    return dataclasses.replace(measured, plan=plan, facts=measured.facts | {"patterns"})


def _ladder(family: Pattern) -> tuple[Pattern, ...]:
    """Some of the family's patterns; what lies between them is interpolated."""
    rungs = sorted({max(1, family.m * i // _RUNGS) for i in range(1, _RUNGS)} | {1})
    return tuple(dataclasses.replace(family, n=n) for n in rungs if n < family.m)


def _dense(layer: Layer, quantity: str) -> float:
    return float(layer.macs if quantity == "macs" else layer.choices[0].latency_ms or 0.0)


def _costs(layer: Layer, family: Pattern, quantity: str) -> list[float]:
    """Of N = 1 .. M; never falling: a layer runs in the fastest kernel that has its weights."""
    if quantity == "macs":
        sparse = [dataclasses.replace(family, n=n) for n in range(1, family.m)]
        return [float(kept_macs(layer, pattern)) for pattern in sparse] + [float(layer.macs)]
    known = {choice.pattern.n: choice.latency_ms or 0.0 for choice in layer.choices[1:]}
    known[family.m] = _dense(layer, quantity)
    counts = sorted(known)
    times = np.interp(range(1, family.m + 1), counts, [known[n] for n in counts])
    cheapest: list[float] = np.minimum.accumulate(times[::-1])[::-1].tolist()
    return cheapest
