"""(layer, pattern) costs and losses -> the exact best choice under a limit, by MILP (HiGHS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

# Between choices of equal loss the cheaper wins: the cost enters with this weight.
_TIE = 1e-6


@dataclass(frozen=True)
class Option:
    """One choice of one layer: what is minimised and what is limited."""

    objective: float
    cost: float


def solve(layers: Sequence[Sequence[Option]], limit: float) -> list[int] | None:
    """Index of the chosen option of each layer, minimising Σ objective with Σ cost <= limit.

    Returns None where even the least costly choices exceed the limit.
    """
    options = [option for layer in layers for option in layer]
    objective = np.array([option.objective for option in options])
    cost = np.array([option.cost for option in options])
    if least_cost(layers) > limit:
        return None
    owner = np.repeat(np.arange(len(layers)), [len(layer) for layer in layers])
    one_each = csr_array((np.ones(len(options)), (owner, np.arange(len(options)))))
    cost_unit, objective_unit = cost.max() or 1.0, objective.max() or 1.0
    found = milp(
        objective / objective_unit + _TIE * cost / cost_unit,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[None] / cost_unit, -np.inf, limit / cost_unit),
        ],
        options={"mip_rel_gap": 1e-6, "time_limit": 60},
    )
    if found.x is None:
        return None
    picked = found.x.round().astype(bool)
    starts = np.cumsum([0, *[len(layer) for layer in layers]])
    return [
        int(np.flatnonzero(picked[a:b])[0]) for a, b in zip(starts[:-1], starts[1:], strict=True)
    ]


def least_cost(layers: Sequence[Sequence[Option]]) -> float:
    """The lowest total cost that any choice reaches."""
    return float(sum(min(option.cost for option in layer) for layer in layers))
