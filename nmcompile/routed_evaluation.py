"""An input-adaptive engine + images -> quality, cost and time as routed and at each level alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from nmcompile.data import Sample
from nmcompile.metrics import Quality, compare
from nmcompile.runtime import Engine
from nmcompile.runtime.routing import Effort, Routes
from nmcompile.tasks import Task

ROUTED = "routed"


@dataclass
class Outcome:
    """What one way of running an engine gave.

    Attributes:
        name: `routed`, or `level 0` and so on.
        images: each image's name and quality.
        ms: milliseconds of all images together, reading and comparing excluded.
        pixels: of all images together, in input pixels.
        shares: of the pixels, one a level.
        macs: MACs over the dense network's, the head's and the overlap's included.
    """

    name: str
    images: dict[str, Quality] = field(default_factory=dict)
    ms: float = 0.0
    pixels: int = 0
    shares: tuple[float, ...] = ()
    macs: float = 0.0

    def add(self, name: str, quality: Quality, ms: float, routes: Routes) -> None:
        """Counts an image."""
        self.images[name] = quality
        self.ms += ms
        before, own = self.pixels, routes.levels.size
        self.pixels += own
        part = np.array([before, own]) / self.pixels
        known = self.shares or routes.shares
        self.shares = tuple(float(x) for x in part @ np.array([known, routes.shares]))
        self.macs = float(part @ [self.macs, routes.macs])

    def to_json(self) -> dict[str, Any]:
        """Means over images, and shares and MACs of all their pixels."""
        return {
            "name": self.name,
            "psnr": fmean(quality.psnr for quality in self.images.values()),
            "ssim": fmean(quality.ssim for quality in self.images.values()),
            "ms": self.ms / len(self.images),
            "macs": self.macs,
            "shares": list(self.shares),
        }


def judge(
    engine: Engine,
    samples: Iterable[Sample],
    task: Task,
    effort: Effort = None,
    route_by: str | None = None,
    step: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Restores every sample as the engine routes it, then whole at each of its levels.

    Args:
        engine: an input-adaptive one.
        samples: from nmcompile.data.Source.samples.
        task: decides the protocol (nmcompile.metrics.PROTOCOL).
        effort: of the routed runs; None takes the engine's own.
        route_by: `tile` or `image`; None takes the engine's own.
        step: called after each sample.
    """
    routing = engine.manifest.routing
    assert routing is not None
    count = len(routing.costs)
    outcomes = [Outcome(ROUTED), *(Outcome(f"level {level}") for level in range(count))]
    for number, sample in enumerate(samples):
        image = sample.degraded
        if number == 0:  # what the first run alone takes, such as its memory
            for level in range(count):
                engine.at(level).restore(image)
            engine.restore(image, effort=effort, route_by=route_by)
        turns = list(enumerate(outcomes))
        first = number % len(turns)  # what slows a machine for a while then slows all alike
        for index, outcome in turns[first:] + turns[:first]:
            told: list[Routes] = []
            start = time.perf_counter()
            if index == 0:
                restored = engine.restore(image, effort=effort, route_by=route_by, told=told.append)
            else:
                restored = engine.at(index - 1).restore(image)
                told.append(Routes.whole(routing, image.shape[0], image.shape[1], index - 1))
            ms = (time.perf_counter() - start) * 1e3
            quality = compare(task, restored, sample.clean)
            outcome.add(sample.name, quality, ms, told[0])
        step()
    return outcomes
