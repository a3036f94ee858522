"""Sensitivities + measured costs + budget -> a pattern for every layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from torch import fx

from nmcompile.assignment import Option, least_cost, solve
from nmcompile.budget import Budget
from nmcompile.context import Context
from nmcompile.convs import Conv, read_conv
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, SKIP, Pattern
from nmcompile.pipeline import compiler_pass
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.program import Program

# Of dense time, what a pattern must stay below: times vary by more than the rest.
_GAINS = 0.98


@compiler_pass(needs={"sensitivity"}, gives={"patterns"}, changes="nothing")
def assign_patterns(program: Program, ctx: Context) -> Program:
    """Gives every layer its pattern: the exact optimum of a mixed-integer programme.

    macs and latency budgets: least summed loss within the budget. A drop budget is turned into
    a limit on the summed loss by nmcompile.drop, which checks it on images; used alone this pass
    takes it for that limit, in the unit of the losses.
    """
    plan = program.the_plan
    if ctx.uniform:
        return program.with_plan(reverted(_uniform(program, ctx.uniform)))
    if ctx.budget.quantity == "drop":
        return program.with_plan(within_loss(plan, ctx.budget.limit))
    return program.with_plan(_within_cost(plan, ctx.budget))


def within_loss(plan: Plan, limit: float) -> Plan:
    """The cheapest patterns whose losses sum to at most `limit`."""
    quantity, offered = cost_quantity(plan), gaining(plan)
    chosen = solve(options(offered, lambda x: (cost_in(x, quantity), x.loss or 0.0)), limit)
    assert chosen is not None, "dense loses nothing, so a loss limit can always be met"
    return _assigned(plan, offered, chosen, f"least {quantity} within a summed loss of {limit:.3g}")


def options(plan: Plan, valued: Callable[[Choice], tuple[float, float]]) -> list[list[Option]]:
    """What a programme chooses from, layer by layer: its choices, and to be skipped with another.

    Args:
        plan: choices.
        valued: a choice's objective and cost.

    Returns:
        An option for each choice; where a layer can be skipped and there are others that all it
        gives passes through, one more, which loses nothing besides them. `picked` reads its index.
        Behind the layers stand the inputs that layers need not read if others are skipped, each
        with the choices of its layer, of which that layer has to take the same, and to be gone.
    """
    skips = {
        layer.name: (number, [x.pattern for x in layer.choices].index(SKIP))
        for number, layer in enumerate(plan.layers)
        if any(x.pattern == SKIP for x in layer.choices)
    }
    table = []
    for layer in plan.layers:
        own = [Option(*valued(choice)) for choice in layer.choices]
        behind = tuple(skips[name] for name in layer.through if name in skips)
        if layer.name in skips and behind:
            skipped = dataclasses.replace(layer.choices[skips[layer.name][1]], loss=0.0)
            own.append(Option(*valued(skipped), behind))
        table.append(own)
    return _without_repeats(plan, table, skips, valued)


def _without_repeats(
    plan: Plan,
    table: list[list[Option]],
    skips: Mapping[str, tuple[int, int]],
    valued: Callable[[Choice], tuple[float, float]],
) -> list[list[Option]]:
    """The table where what a layer takes is split by the inputs that it may not have to read."""

    def same(number: int, pattern: Pattern) -> tuple[tuple[int, int], ...]:
        """The options by which a layer takes a pattern: a choice, and to be skipped with others."""
        layer, count = plan.layers[number], len(table[number])
        return tuple((number, at) for at in range(count) if picked(layer, at) == pattern)

    behind = []
    for number, layer in enumerate(plan.layers):
        inputs = left = layer.shape[1]
        for name in (x for x in layer.repeats if x in skips):
            end, index = skips[name]
            if not math.isfinite(plan.layers[end].choices[index].loss or 0.0):
                continue  # never skipped
            count = plan.layers[end].shape[0]
            left -= count
            parts = [
                Option(*valued(_part(choice, count / inputs)), same(number, choice.pattern))
                for choice in layer.choices
            ]
            gone = Option(*valued(_part(layer.choices[0], 0)), same(end, SKIP))
            behind.append([*parts, gone])
        if left < inputs:
            own = [_part(choice, left / inputs, choice.loss) for choice in layer.choices]
            table[number][: len(own)] = [Option(*valued(choice)) for choice in own]
    return table + behind


def _part(choice: Choice, share: float, loss: float | None = 0.0) -> Choice:
    """A share of what a choice takes."""
    latency = None if choice.latency_ms is None else share * choice.latency_ms
    return dataclasses.replace(
        choice, macs=round(share * choice.macs), latency_ms=latency, loss=loss
    )


def picked(layer: Layer, index: int) -> Pattern:
    """The pattern that an option of a layer stands for."""
    return layer.choices[index].pattern if index < len(layer.choices) else SKIP


def cost_quantity(plan: Plan) -> str:
    """What is to be saved: latency where it depends on the pattern at all, else MACs."""
    differs = any(
        choice.latency_ms is not None
        and layer.choices[0].latency_ms is not None
        and choice.latency_ms != layer.choices[0].latency_ms
        for layer in plan.layers
        for choice in layer.choices[1:]
    )
    return "latency" if differs else "macs"


def _within_cost(plan: Plan, budget: Budget) -> Plan:
    offered = _paying(plan, budget)
    table = options(offered, lambda x: (x.loss or 0.0, cost_in(x, budget.quantity)))
    dense = math.fsum(options[0].cost for options in table)
    limit = budget.limit * dense if budget.unit == "x" else budget.limit
    chosen = solve(table, limit)
    if chosen is None:
        raise NmcompileError(_impossible(budget, least_cost(table), dense, cost_quantity(plan)))
    return _assigned(plan, offered, chosen, f"least loss within {budget}")


def gains(choice: Choice, other: Choice) -> bool:
    """Whether a choice was measured faster than another, by more than times vary."""
    if choice.latency_ms is None or other.latency_ms is None:
        return True
    return choice.latency_ms < _GAINS * other.latency_ms


def _pays(layer: Layer, choice: Choice) -> bool:
    """Whether a choice is dense or gains on dense."""
    return choice is layer.choices[0] or gains(choice, layer.choices[0])


def gaining(plan: Plan) -> Plan:
    """The plan without choices that cost quality and gain no time, where patterns change times."""
    if cost_quantity(plan) != "latency":
        return plan
    return plan.with_layers(
        dataclasses.replace(
            layer, choices=tuple(choice for choice in layer.choices if _pays(layer, choice))
        )
        for layer in plan.layers
    )


def _paying(plan: Plan, budget: Budget) -> Plan:
    """The same, unless a budget in MACs cannot be met without such choices."""
    kept = gaining(plan)
    if budget.quantity != "macs":
        return kept
    least = sum(min(choice.macs for choice in layer.choices) for layer in kept.layers)
    limit = budget.limit * (plan.dense_macs if budget.unit == "x" else 1)
    return kept if least <= limit else plan


def reverted(plan: Plan) -> Plan:
    """Layers whose pattern is no faster than dense -> dense, where patterns change times at all."""
    if cost_quantity(plan) != "latency":
        return plan
    patterns, reasons = {}, {}
    for layer in plan.layers:
        if not _pays(layer, layer.chosen):
            patterns[layer.name] = DENSE
            reasons[layer.name] = (
                f"reverted to dense: {layer.pattern} takes {layer.chosen.latency_ms:.3g} ms, "
                f"dense {layer.choices[0].latency_ms:.3g} ms"
            )
    return plan.assign(patterns, reasons)


def _impossible(budget: Budget, least: float, dense: float, saved: str) -> str:
    exact = least / dense if budget.unit == "x" else least
    nearest = f"{math.ceil(exact * 1000) / 1000:.3f}"  # rounded up, so that it is possible
    unit = "" if budget.quantity == "macs" else budget.unit
    why = "; allow sparser --patterns to go lower"
    if budget.quantity == "latency" and least >= dense:
        why = (
            "; of these --patterns none is faster than dense here, allow sparser ones"
            if saved == "latency"
            else "; on this target a pattern changes no layer's time (a dense kernel multiplies "
            "the zeros too), use --budget macs=... or drop=..."
        )
    possible = f"{budget.quantity}={nearest}{unit}"
    return f"budget {budget} is impossible: the nearest possible is {possible}{why}"


def cost_in(choice: Choice, quantity: str) -> float:
    """What a choice costs in `macs`, or milliseconds where the quantity is `latency`."""
    return float(choice.macs) if quantity == "macs" else float(choice.latency_ms or 0.0)


def _assigned(plan: Plan, offered: Plan, chosen: list[int], why: str) -> Plan:
    """The plan with the choices of those numbers among the ones that were offered."""
    patterns: dict[str, Pattern] = {}
    reasons: dict[str, str] = {}
    own = chosen[: len(plan.layers)]
    for layer, few, index in zip(plan.layers, offered.layers, own, strict=True):
        patterns[layer.name] = picked(few, index)
        if len(layer.choices) > 1:
            reasons[layer.name] = why if index else f"dense is best: {why}"
    return plan.assign(patterns, reasons)


def _uniform(program: Program, pattern: Pattern) -> Plan:
    """The pattern on every layer of the trunk that can take it; ends stay dense, as in SLS."""
    plan = program.the_plan
    if pattern == SKIP:
        raise NmcompileError(
            f"{SKIP} on every layer leaves nothing of the network; make it a candidate (--patterns)"
        )
    ends = end_layers(program)
    patterns, reasons = {}, {}
    for layer in plan.layers:
        if layer.name in ends:
            reasons[layer.name] = "first or last convolution: dense under a uniform pattern"
        elif any(choice.pattern == pattern for choice in layer.choices):
            patterns[layer.name] = pattern
            reasons[layer.name] = "uniform"
    if not patterns:
        whys = sorted({layer.reason for layer in plan.layers if layer.name not in ends})
        why = "; ".join(whys) or "there is none between the first and the last"
        raise NmcompileError(f"no layer of the trunk can take {pattern}: {why}")
    return plan.assign(patterns, reasons)


def end_layers(program: Program) -> set[str]:
    """Weights of convolutions with no other before them, or none after them; not mean shifts."""
    before: dict[object, bool] = {}
    ends: set[str] = set()
    for node in program.module.graph.nodes:
        seen = any(before.get(source, False) for source in node.all_input_nodes)
        conv = _read_layer(node)
        if conv is not None and not seen:
            ends.add(str(conv.weight.target))
        before[node] = seen or conv is not None
    after: dict[object, bool] = {}
    for node in reversed(program.module.graph.nodes):
        follows = any(after.get(user, False) for user in node.users)
        conv = _read_layer(node)
        if conv is not None and not follows:
            ends.add(str(conv.weight.target))
        after[node] = follows or conv is not None
    return ends


def _read_layer(node: fx.Node) -> Conv | None:
    """The convolution of a node, unless it is a pixel's 1x1 change of colour, such as the mean."""
    conv = read_conv(node)
    if conv is None or conv.weight.meta["val"].numel() > 9:
        return conv
    return None
