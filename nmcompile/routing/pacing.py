"""Nested levels + a target -> each level's time over the last one's, by which they are weighed.

MACs would promise too much: what is not pruned takes as long at every level, and an area that is
run at a lower level must save more time than its overlap takes.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
import time
from collections.abc import Sequence

import numpy as np

from nmcompile.backends.cpu import allowed_kernels
from nmcompile.backends.native import lower
from nmcompile.context import Context
from nmcompile.routing.nested import Nested
from nmcompile.runtime.executor import available_cores
from nmcompile.runtime.native.program import NativeProgram

_SECONDS = 1.0
_LEAST_ROUNDS = 5
_APART = 0.999  # every level needs a price of its own


def level_times(nested: Nested, ctx: Context) -> tuple[float, ...]:
    """Times the levels in turn at the reference size.

    Times are kept by machine and program, so that a resumed run decides as it would have.

    Returns:
        One for each level, increasing, the last 1. Where zeros gain no time, as in ONNX Runtime,
        MACs over the last level's.
    """
    if ctx.target.executor != "native":
        return tuple(cost / nested.costs[-1] for cost in nested.costs)
    packed = lower(nested.program, allowed_kernels(ctx.target), nested.places())
    key = ("level", *ctx.target.key(), ctx.reference_size, hashlib.sha256(packed).hexdigest())
    kept = [ctx.measurements.get(*key, level) for level in range(nested.count)]
    times = [value for value in kept if value is not None]
    if len(times) < nested.count:
        threads = ctx.target.threads or available_cores()
        times = _timed(NativeProgram(packed), ctx.reference_size, threads)
        for level, value in enumerate(times):
            ctx.measurements.put(value, *key, level)
    return rising(times)


def rising(times: Sequence[float]) -> tuple[float, ...]:
    """Times over the last one; a level that is no faster than the next counts as just below it."""
    downwards = itertools.accumulate(reversed(times), lambda above, own: min(own, _APART * above))
    found = list(downwards)[::-1]
    return tuple(value / found[-1] for value in found)


def _timed(program: NativeProgram, size: tuple[int, int], threads: int) -> list[float]:
    """Median seconds of each level."""
    x = np.random.default_rng(0).random((1, program.channels[0], *size), np.float32)
    times: list[list[float]] = [[] for _ in range(program.levels)]
    program.run([x], threads)
    started = time.perf_counter()
    while len(times[0]) < _LEAST_ROUNDS or time.perf_counter() - started < _SECONDS:
        for level, found in enumerate(times):
            before = time.perf_counter()
            program.run([x], threads, level)
            found.append(time.perf_counter() - before)
    return [statistics.median(found) for found in times]
