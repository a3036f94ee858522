"""A dense network and what its levels may cost -> a plan for each, and nested masks of its weights.

ClassPruning (arXiv 2211.05488) names the idea: N:M subnetworks of different capability inside one
network. Layer-wise patterns from measured losses and times, one exact assignment for each level,
are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmcompile import transform
from nmcompile.assignment import Option, least_cost, solve
from nmcompile.budget import Budget
from nmcompile.context import Context
from nmcompile.convs import from_canonical, get_tensor, to_canonical
from nmcompile.errors import NmcompileError
from nmcompile.passes.assign_patterns import (
    cost_in,
    cost_quantity,
    gaining,
    gains,
    options,
    picked,
)
from nmcompile.passes.prune import prune_layers
from nmcompile.pattern import SKIP, Pattern
from nmcompile.plan import Layer, Plan
from nmcompile.program import Program
from nmcompile.readers import counted
from nmcompile.routing.nested import NEVER, Nested
from nmcompile.routing.spec import RouteSpec
from nmcompile.second_order import prune_magnitude

# Where between the least that patterns reach and the dense network the first level lies: at the
# least itself, quality falls fast (sample network, one-shot).
_ABOVE_LEAST = 0.2
_NAMES = {"macs": "MACs", "latency": "time"}


def make_levels(dense: Program, ctx: Context, spec: RouteSpec) -> Nested:
    """Assigns patterns to every level, prunes for the last and ranks what it keeps for the others.

    Args:
        dense: the network.
        ctx: target, candidate patterns, calibration crops; its budget is not looked at.
        spec: what the levels may cost.

    Raises:
        NmcompileError: a level cannot be as cheap as asked, or two come out equal.
    """
    analyzed = transform.analyze(dense, ctx)
    plans = assign_levels(analyzed.the_plan, spec)
    chosen = dataclasses.replace(analyzed, plan=plans[-1], facts=analyzed.facts | {"patterns"})
    return nest(transform.prune(chosen, ctx), plans, ctx)


def assign_levels(plan: Plan, spec: RouteSpec) -> tuple[Plan, ...]:
    """A plan for each level, from the first up: least loss within its share.

    A layer takes at a level the pattern that it has at the level below, or one which that nests in
    and which takes more time, where patterns change times. So whatever the first level can have is
    no obstacle to the others; from the last down, a pattern that is best there may have none
    within it that is fast enough below (sample network, three levels by time).

    Args:
        plan: choices, their costs and losses.
        spec: shares of MACs or time.

    Raises:
        NmcompileError: as make_levels.
    """
    spec = settled(plan, spec)
    plans: list[Plan] = []
    for level in range(spec.count):
        plans.append(_assigned(plan, plans[-1] if plans else None, spec, level))
    for level in range(len(plans) - 1):
        if plans[level].macs >= plans[level + 1].macs:
            raise NmcompileError(
                f"--route {spec}: levels {level} and {level + 1} come out equal, with "
                f"{plans[level].macs / plan.dense_macs:.3f} of the MACs; give shares that are "
                "further apart, or more --patterns"
            )
    return tuple(plans)


def settled(plan: Plan, spec: RouteSpec) -> RouteSpec:
    """The shares of levels that are only counted; a spec that has them is given back.

    They are of the time where patterns change it, else of the MACs. The last level is the dense
    network, so that the highest effort loses nothing; each is the same multiple of the one before.
    """
    if spec.shares:
        return spec
    quantity = cost_quantity(plan)
    dense = math.fsum(cost_in(layer.choices[0], quantity) for layer in plan.layers)
    least = least_cost(_table(gaining(plan), quantity)) / dense
    first = least + _ABOVE_LEAST * (1 - least)
    powers = [1 - level / (spec.count - 1) for level in range(spec.count)]
    shares = tuple(math.ceil(1000 * first**power) / 1000 for power in powers)
    return dataclasses.replace(spec, shares=shares, quantity=quantity)


def nests(lower: Pattern, upper: Pattern) -> bool:
    """Whether the masks of one pattern can be chosen within every mask of another."""
    if upper.is_dense or lower in (upper, SKIP):
        return True
    family = (lower.v, lower.m, lower.whole) == (upper.v, upper.m, upper.whole)
    return family and lower.n <= upper.n


def nest(program: Program, plans: Sequence[Plan], ctx: Context) -> Nested:
    """Prunes each level from the one above it, which says what the lower one keeps.

    The values are the last level's; `fitting` and training adapt them to all levels.

    Args:
        program: pruned to the last plan.
        plans: one a level, each nested in the next.
        ctx: calibration crops and the pruning method.
    """
    names = [layer.name for layer in plans[-1].layers]
    above, least = program, dict[str, Tensor]()
    for name in names:
        if plans[0].layer(name).pattern != plans[-1].layer(name).pattern:
            weight = get_tensor(program.module, name)
            dense = plans[-1].layer(name).pattern.is_dense
            kept = torch.ones_like(weight, dtype=torch.bool) if dense else weight != 0
            least[name] = torch.where(kept, len(plans) - 1, NEVER).to(torch.uint8)
    for level in reversed(range(len(plans) - 1)):
        pruned = prune_layers(dataclasses.replace(above, plan=plans[level]), names, ctx)
        for name, own in least.items():
            layer, same = plans[level].layer(name), plans[level + 1].layer(name).pattern
            kept = own <= level + 1
            if layer.pattern != same:
                before, after = (get_tensor(x.module, name) for x in (above, pruned))
                kept = _kept(before, after, kept, layer)
            own[kept] = level
        above = Nested(program, least, tuple(plans)).at(level)
    nested = Nested(program, least, tuple(plans))
    if ctx.target.executor != "native":
        return nested
    plans = [counted(nested.at(level)) for level in range(nested.count)]
    return Nested(dataclasses.replace(program, plan=plans[-1]), least, tuple(plans))


def _kept(above: Tensor, pruned: Tensor, within: Tensor, layer: Layer) -> Tensor:
    """What a level keeps of a weight: what pruning left of what the level above keeps.

    Pruning may have filled places that are zero there; the largest weights then take theirs.
    """
    size = above.square() / above.square().max().clamp_min(1e-30)
    score = torch.where(within, (pruned != 0) + size / 2 + 1e-9, 0.0)
    canonical = to_canonical(score.sqrt(), layer.op, layer.groups)
    kept = prune_magnitude(canonical, layer.groups, layer.pattern) != 0
    return from_canonical(kept, layer.op, layer.groups)


def _assigned(plan: Plan, below: Plan | None, spec: RouteSpec, level: int) -> Plan:
    """The plan of a level, in which the one below it nests."""
    share, quantity = spec.shares[level], spec.quantity
    dense = math.fsum(cost_in(layer.choices[0], quantity) for layer in plan.layers)
    offered = gaining(plan)
    if quantity == "macs" and least_cost(_table(offered, quantity)) > share * dense:
        offered = plan
    if below is not None:
        offered = _around(offered, below)
    table = _table(offered, quantity)
    chosen = solve(table, share * dense)
    if chosen is None:
        nearest = math.ceil(least_cost(table) / dense * 1000) / 1000
        raise NmcompileError(
            f"--route {spec}: level {level} cannot have {share:g} of the {_NAMES[quantity]}: the "
            f"nearest possible is {nearest:.3f}; raise it, or allow sparser --patterns"
        )
    patterns = {
        layer.name: picked(layer, index)
        for layer, index in zip(offered.layers, chosen[: len(offered.layers)], strict=True)
    }
    budget = str(Budget(quantity, share, "x"))
    reasons = {
        layer.name: f"least loss within {budget}" for layer in plan.layers if len(layer.choices) > 1
    }
    return dataclasses.replace(plan.assign(patterns, reasons), budget=budget)


def _around(plan: Plan, below: Plan) -> Plan:
    """The plan with the choices in which those of the level below nest, that one itself first."""
    timed = cost_quantity(plan) == "latency"
    layers = []
    for layer, lower in zip(plan.layers, below.layers, strict=True):
        own = lower.chosen
        # A pattern that is no faster than dense is there for its MACs: no reason to stay with it.
        faster = timed and gains(own, layer.choices[0])
        outer = [
            choice
            for choice in layer.choices
            if choice.pattern != own.pattern
            and nests(own.pattern, choice.pattern)
            and (not faster or gains(own, choice))
        ]
        layers.append(dataclasses.replace(lower, choices=(own, *outer)))
    return plan.with_layers(layers)


def _table(plan: Plan, quantity: str) -> list[list[Option]]:
    return options(plan, lambda choice: (choice.loss or 0.0, cost_in(choice, quantity)))
