"""Validation samples -> crops degraded, dense, compiled and clean; and a map of chosen levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nmcompile.data import Sample
from nmcompile.evaluate import restorer
from nmcompile.level_map import level_map
from nmcompile.report import Chosen, Example
from nmcompile.runtime import Engine
from nmcompile.runtime.routing import Routes
from nmcompile.tasks import Bytes, to_bytes

_PICTURES = 3
_SIDE = 160


def showcase(dense: Engine, compiled: Engine, samples: Sequence[Sample]) -> list[Example]:
    """The most detailed window of the first few samples, restored by both networks."""
    examples = []
    for sample in samples[:_PICTURES]:
        pictures = [to_bytes(restorer(engine)(sample.degraded)) for engine in (dense, compiled)]
        clean = _shown(sample.clean, pictures[0])
        scale = dense.manifest.scale
        row, column = (start // scale * scale for start in _busiest(clean))
        window = np.s_[row : row + _SIDE, column : column + _SIDE]
        small = np.s_[
            row // scale : (row + _SIDE) // scale, column // scale : (column + _SIDE) // scale
        ]
        cuts = (to_bytes(sample.degraded)[small], *(p[window] for p in pictures), clean[window])
        examples.append(Example(sample.name, *cuts))
    return examples


def chosen_levels(engine: Engine, samples: Sequence[Sample]) -> Chosen | None:
    """The map of the sample on which most levels are used; None of an engine without levels."""
    found = []
    for sample in samples if engine.manifest.routing else ():
        told: list[Routes] = []
        engine.restore(sample.degraded, told=told.append)
        found.append((max(told[0].shares), sample, told[0]))
    if not found:
        return None
    _, sample, routes = min(found, key=lambda item: item[0])
    picture = level_map(sample.degraded, routes.levels, routes.shares)
    return Chosen(sample.name, picture, routes.shares, routes.macs)


def _shown(clean: Bytes, like: Bytes) -> Bytes:
    """The clean image with as many channels as the network's (luma networks: grey)."""
    return clean if clean.shape[2] == like.shape[2] else clean.mean(2, keepdims=True).astype("u1")


def _busiest(clean: Bytes) -> tuple[int, int]:
    """Top left of the window of _SIDE pixels with the strongest gradients."""
    grey = clean.astype(np.float32).mean(2)
    detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    totals = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows, columns = (max(1, size - _SIDE) for size in detail.shape)
    best, place = -1.0, (0, 0)
    for row in range(0, rows, 16):
        for column in range(0, columns, 16):
            below, right = min(row + _SIDE, detail.shape[0]), min(column + _SIDE, detail.shape[1])
            total = (
                totals[below, right] - totals[row, right] - totals[below, column]
                + totals[row, column]
            )  # fmt: skip
            if total > best:
                best, place = float(total), (row, column)
    return place
