"""Two callables -> how long each takes, run in turn so that a noisy machine hits both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

_LEAST_ROUNDS = 5
_SECONDS = 2.0


def interleaved(
    first: Callable[[], object], second: Callable[[], object]
) -> tuple[float, float, float]:
    """Median milliseconds of each, and the median over rounds of first / second."""
    first()
    second()
    pairs: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(pairs) < _LEAST_ROUNDS or time.perf_counter() - started < _SECONDS:
        pairs.append((_milliseconds(first), _milliseconds(second)))
    ratios = [a / b for a, b in pairs]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(ratios),
    )


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)
