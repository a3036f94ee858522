"""(layer, pattern) costs and losses -> the exact best choice under a limit, by MILP (HiGHS)."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

# HiGHS takes for best, and for within the limit, what is so to an absolute 1e-6. Values are
# therefore scaled: the limit to 1, the least objective to about this.
_SCALE = 1e3
# Between choices of equal objective the cheaper wins: the cost enters with this weight.
_TIE = 1e-3

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]
_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Option:
    """One choice of one layer: what is minimised and what is limited, neither below zero.

    Attributes:
        objective, cost: of this choice.
        needs: choices (layer, option) of other layers, one of which must be taken too; none: the
            layer is free to take it.
    """

    objective: float
    cost: float
    needs: tuple[tuple[int, int], ...] = ()


def solve(layers: Sequence[Sequence[Option]], limit: float) -> list[int] | None:
    """Index of the chosen option of each layer, minimising Σ objective with Σ cost <= limit.

    The objective is the least possible to one part in 10⁵ (or the best that a minute of search
    finds), the limit holds to the last digit. An option whose objective is not finite is never
    chosen.

    Returns None where even the least costly choices exceed the limit.
    """
    table = [
        [o if math.isfinite(o.objective) else dataclasses.replace(o, cost=math.inf) for o in layer]
        for layer in layers
    ]
    if not least_cost(table) <= limit:
        return None
    room = limit - least_cost(table) + 1e-12 * limit  # rounded: in the end the sum itself decides
    starts = np.cumsum([0, *(len(layer) for layer in table)])[:-1]
    owner = np.repeat(np.arange(len(table)), [len(layer) for layer in table])
    cost = np.array([option.cost for layer in table for option in layer])
    spare = cost - np.minimum.reduceat(cost, starts)[owner]
    usable = spare <= room
    gain = np.array([option.objective for layer in table for option in layer])
    gain = np.where(usable, gain, math.inf)
    gain -= np.minimum.reduceat(gain, starts)[owner]
    needs = [
        [int(starts[at]) + index for at, index in option.needs]
        for layer in table
        for option in layer
    ]
    problem = _Problem(owner, gain, spare / (room or 1.0), cost, needs, limit)
    return [int(i) for i in problem.solve(usable) - starts]


def least_cost(layers: Sequence[Sequence[Option]]) -> float:
    """The lowest total cost that any choice reaches."""
    return math.fsum(min(option.cost for option in layer) for layer in layers)


@dataclass(frozen=True)
class _Problem:
    """Flat arrays over the options of all layers.

    Attributes:
        owner: the layer of each.
        gain: objective above the least of its layer.
        spare: cost above the least of its layer, as a share of what can be spent above it.
        cost, limit: the constraint as it was given.
        needs: the others of which each needs one, if any.
    """

    owner: _Indices
    gain: _Floats
    spare: _Floats
    cost: _Floats
    needs: list[list[int]]
    limit: float

    def solve(self, usable: _Bools) -> _Indices:
        """One option per layer; solved again at a finer scale while the result is far below it."""
        unit, free = float(self.gain[usable].max()), not any(self.needs)
        while unit > 0 or not free:
            usable = usable & (self.gain <= unit)  # no part of the best sum exceeds the sum
            chosen = self._minimise(usable, _SCALE / (unit or 1.0))
            reached = float(self.gain[chosen].sum())
            if reached > unit / 10 or (reached == 0 and not free):
                return chosen
            unit = reached
        return self._cheapest(usable & (self.gain == 0))

    def _cheapest(self, usable: _Bools) -> _Indices:
        spare = np.where(usable, self.spare, math.inf)
        order: _Indices = np.lexsort((spare, self.owner))
        return order[np.unique(self.owner[order], return_index=True)[1]]

    def _minimise(self, usable: _Bools, scale: float) -> _Indices:
        """The best choice of usable options; what breaks the limit by rounding is cut off.

        Without presolve: with it, HiGHS 1.12 now and then misses the best of small problems.
        """
        kept = np.flatnonzero(usable)
        cells = (np.ones(len(kept)), (self.owner[kept], np.arange(len(kept))))
        constraints = [
            LinearConstraint(csr_array(cells), 1, 1),
            LinearConstraint(self.spare[kept][None], -math.inf, 1),
            *(self._needing(kept, place) for place, own in enumerate(kept) if self.needs[own]),
        ]
        while True:
            with _silent():
                found = milp(
                    self.gain[kept] * scale + _TIE * self.spare[kept],
                    integrality=np.ones(len(kept)),
                    bounds=Bounds(0, 1),
                    constraints=constraints,
                    options={"mip_rel_gap": 0, "time_limit": 60, "presolve": False},
                )
            if found.x is None:
                raise RuntimeError(f"the assignment was not solved: {found.message}")
            picked: _Bools = found.x > 0.5
            if math.fsum(self.cost[kept[picked]]) <= self.limit:
                chosen: _Indices = kept[picked]
                return chosen
            other = LinearConstraint(picked[None].astype(float), -math.inf, picked.sum() - 1)
            constraints.append(other)

    def _needing(self, kept: _Indices, place: int) -> LinearConstraint:
        """An option only with one of those that it needs."""
        row = -np.isin(kept, self.needs[kept[place]]).astype(float)
        row[place] = 1
        return LinearConstraint(row[None], -math.inf, 0)


@contextmanager
def _silent() -> Iterator[None]:
    """Sends standard output to nowhere: HiGHS 1.12 prints a line now and then, told not to."""
    c_library = ctypes.CDLL(None)
    sys.stdout.flush()
    c_library.fflush(None)
    before, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        c_library.fflush(None)
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)
