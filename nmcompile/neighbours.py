"""The operating system's accounts -> how much of our cores' time other work took meanwhile."""

from __future__ import annotations

import os
import time

import psutil

MOST_DISTURBED = 0.1  # beyond this share, times tell little
_IDLE = ("idle", "iowait", "guest", "guest_nice")  # a guest's time stands under user already


class Neighbours:
    """Watches from when it is made; time that a hypervisor gave to others counts as theirs."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """0 (the cores that this process may use were ours alone) up to 1."""
        cores = len(os.sched_getaffinity(0))
        others = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        wall = time.perf_counter() - self._started
        return min(max(others / max(wall * cores, 1e-9), 0.0), 1.0)


def _busy_seconds() -> float:
    allowed = os.sched_getaffinity(0)
    return sum(
        float(seconds)
        for core, times in enumerate(psutil.cpu_times(percpu=True))
        if core in allowed
        for kind, seconds in times._asdict().items()
        if kind not in _IDLE
    )


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)
