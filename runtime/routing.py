"""A difficulty head's scores + an effort -> the level of each window of an input-adaptive engine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError

_NAMED = {"min": 0.0, "max": 1.0}


def levels_of(scores: NDArray[np.floating], routing: Routing, effort: float) -> NDArray[np.intp]:
    """The level of each window: that of the largest score - bias(effort) * cost.

    Effort 0 is the first level everywhere, 1 the last, whatever the scores are. Between them the
    bias is interpolated linearly; of equal levels the cheapest wins.

    Args:
        scores: N x K, what the head says of K levels; higher is better.
        routing: the engine's.
        effort: 0..1.

    Raises:
        NmcompileError: another number of scores than the engine has levels.
    """
    count = len(routing.costs)
    if scores.ndim != 2 or scores.shape[1] != count:
        raise NmcompileError(
            f"the head gives scores of shape {scores.shape}, expected N x {count}, one for each "
            "level; compile the engine again"
        )
    if effort in (0, 1):
        return np.full(len(scores), (count - 1) * int(effort), np.intp)
    bias = np.interp(effort, np.linspace(0, 1, len(routing.bias)), routing.bias)
    return np.argmax(scores - bias * np.asarray(routing.costs), axis=1)


def read_effort(effort: float | str | None, routing: Routing) -> float:
    """What a caller gives -> an effort of 0..1; None takes the engine's own.

    Raises:
        NmcompileError: neither `min`, `max` nor a number of 0..1.
    """
    if effort is None:
        return routing.effort
    try:
        number = float(_NAMED.get(str(effort), effort))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise NmcompileError(f"effort {effort}: expected a number from 0 to 1, min or max")
    return number
