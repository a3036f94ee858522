"""A head's scores and each level's errors on windows -> the bias of every effort, and a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Routing
from nmcompile.runtime.routing import levels_of

EFFORTS = 21
WITHIN_DB = 0.02  # what the default effort may lose against the last level
COLLAPSED = 0.99
_HALVINGS = 60
_ROUNDING = 1e-9  # of a mean of equal costs
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Calibrated:
    """How a head decides at every effort.

    Attributes:
        bias: as the manifest's Routing has it.
        effort: the default: the least at which windows lose no more than WITHIN_DB against the
            last level.
        shares: of windows that each level gets at that effort.
        facts: what the receipt says of it, see `judge`.
        notes: what the user must know.
    """

    bias: tuple[float, ...]
    effort: float
    shares: tuple[float, ...]
    facts: dict[str, Any]
    notes: tuple[str, ...]


def calibrate(scores: Values, errors: Values, costs: Values) -> Calibrated:
    """Fits the bias to calibration windows.

    Effort e is to cost cost_0 + e (cost_last - cost_0) on average. A bias is a price of cost: the
    dearer, the cheaper the levels chosen, window by window, so that the mean falls with it and
    bisection finds it. Neither the head nor the windows' overlap is part of these costs.

    Args:
        scores: [N, K] of the windows.
        errors: [N, K], mean squares.
        costs: [K], increasing.
    """
    bias = biases(scores, costs)
    routing = _routing(bias, costs)
    last = errors[:, -1].mean()
    effort = 1.0
    for place in reversed(range(EFFORTS)):
        tried = place / (EFFORTS - 1)
        if _db(_taken(errors, levels_of(scores, routing, tried)), last) > WITHIN_DB:
            break
        effort = tried
    chosen = levels_of(scores, routing, effort)
    shares = tuple(np.bincount(chosen, minlength=len(costs)) / len(chosen))
    notes = () if max(shares) <= COLLAPSED else (_collapsed(shares, effort),)
    facts = {"effort": effort, "shares": [round(float(x), 4) for x in shares]}
    return Calibrated(bias, effort, tuple(map(float, shares)), facts, notes)


def biases(scores: Values, costs: Values) -> tuple[float, ...]:
    """The bias at EFFORTS efforts evenly spaced over 0..1, falling; see `calibrate`."""
    dearest, cheapest = _limits(scores, costs)[::-1]
    wanted = np.linspace(costs[0], costs[-1], EFFORTS)[1:-1]
    found = [dearest, *(price_of(scores, costs, float(cost)) for cost in wanted), cheapest]
    return tuple(np.minimum.accumulate(found).tolist())


def price_of(scores: Values, costs: Values, wanted: float) -> float:
    """The least bias at which levels of argmax(score - bias * cost) cost `wanted` or less."""
    low, high = _limits(scores, costs)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if costs[best_levels(scores, middle, costs)].mean() > wanted:
            low = middle
        else:
            high = middle
    return high


def best_levels(scores: Values, price: float, costs: Values) -> NDArray[np.intp]:
    """[N], argmax(score - price * cost)."""
    chosen: NDArray[np.intp] = np.argmax(scores - price * costs, axis=1)
    return chosen


def judge(scores: Values, errors: Values, costs: Values) -> dict[str, Any]:
    """What the head gains, on windows that it was neither trained nor calibrated on.

    All are PSNRs of the windows taken together, at one mean cost: half way between the first
    level's and the last's, so that two heads can be compared.

    Args:
        scores: [N, K] of the windows.
        errors: [N, K], mean squares.
        costs: [K], increasing.

    Returns:
        cost: mean cost of the windows; psnr: in dB; over_static: what it is above the best level
        alone that costs no more, over_random: above levels drawn with the same shares, and
        under_oracle: below the choice that knows the errors; shares of the levels.
    """
    middle = float(costs[0] + costs[-1]) / 2
    chosen = best_levels(scores, price_of(scores, costs, middle), costs)
    shares = np.bincount(chosen, minlength=len(costs)) / len(chosen)
    cost, means = float(costs[chosen].mean()), errors.mean(axis=0)
    alone = means[costs <= cost + _ROUNDING].min()
    known = -errors / means[-1]
    price = price_of(known, costs, cost)
    oracle = _taken(errors, best_levels(known, price, costs))
    routed = _taken(errors, chosen)
    return {
        "cost": round(cost, 4),
        "psnr": round(-_db(routed, 1.0), 4),
        "over_static": round(_db(alone, routed), 4),
        "over_random": round(_db(float(shares @ means), routed), 4),
        "under_oracle": round(_db(routed, oracle), 4),
        "shares": [round(float(x), 4) for x in shares],
    }


def _limits(scores: Values, costs: Values) -> tuple[float, float]:
    """Biases below and above which every window takes the last level, or the first."""
    above, below = np.tril_indices(len(costs), -1)
    prices = (scores[:, above] - scores[:, below]) / (costs[above] - costs[below])
    margin = 1e-3 * max(float(np.ptp(prices)), 1e-6)
    return float(prices.min()) - margin, float(prices.max()) + margin


def _taken(errors: Values, levels: NDArray[np.intp]) -> float:
    """The mean error where each window takes its level."""
    return float(np.take_along_axis(errors, levels[:, None], axis=1).mean())


def _db(error: float, other: float) -> float:
    """How many dB an error is worse than another."""
    return float(10 * np.log10(error / other))


def _routing(bias: tuple[float, ...], costs: Values) -> Routing:
    """What the runtime's own decision needs of a manifest."""
    taken = tuple(map(float, costs))
    return Routing("image", 0, 0, taken, taken, 0.0, bias, 0.5)


def _collapsed(shares: tuple[float, ...], effort: float) -> str:
    level = int(np.argmax(shares))
    return (
        f"routing has collapsed: {shares[level]:.1%} of the calibration windows get level "
        f"{level} of {len(shares)} at effort {effort:g}; level {level} alone would do as well, "
        "other levels (--route) or more training may not"
    )
