"""One axis of an image + tile size and halo -> the windows to run, and what each one gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Span(NamedTuple):
    """The pixels start <= i < stop of one axis."""

    start: int
    stop: int

    def times(self, scale: int) -> Span:
        """The same span in an image `scale` times as large."""
        return Span(self.start * scale, self.stop * scale)

    def moved(self, by: int) -> Span:
        """The same number of pixels further on."""
        return Span(self.start + by, self.stop + by)

    @property
    def slice(self) -> slice:
        """As an index."""
        return slice(self.start, self.stop)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.stop - self.start


class Cut(NamedTuple):
    """One piece of an axis: the network runs on `window`, `inner` of its result is kept."""

    window: Span
    inner: Span


def cut(size: int, tile: int, halo: int, multiple: int = 1, minimum: int = 1) -> tuple[Cut, ...]:
    """Cuts an axis into pieces of about equal size, none larger than `tile`.

    Windows start and stop at multiples of `multiple` (where the network's strides are in step
    with the whole image), reach `halo` pixels beyond what is kept, and end where the image does:
    there the network's own padding acts as it does untiled.

    Args:
        size: length of the axis, a multiple of `multiple`.
        tile: most pixels a piece keeps (rounded up to a multiple).
        halo: pixels a window adds on either side.
        multiple: what windows are aligned to.
        minimum: smallest window, at most `size`.
    """
    count = math.ceil(size / up(tile, multiple))
    step = up(math.ceil(size / count), multiple)
    cuts = []
    for start in range(0, size, step):
        inner = Span(start, min(start + step, size))
        first = max(0, inner.start - halo)
        stop = min(size, up(max(inner.stop + halo, first + minimum), multiple))
        first = down(max(0, min(first, stop - minimum)), multiple)
        cuts.append(Cut(Span(first, stop), inner))
    return tuple(cuts)


def cut_fixed(size: int, window: int, overlap: int, multiple: int = 1) -> tuple[Cut, ...]:
    """Cuts an axis into windows of exactly `window` pixels; neighbours share `overlap` or more.

    Where the overlap is twice the halo, both windows are right about its middle, where the
    inner spans meet.

    Args:
        size: length of the axis: `window` plus a multiple of `multiple`.
        window: pixels of every window.
        overlap: pixels that neighbours share at least, less than `window`.
        multiple: what windows start at.
    """
    step = max(down(window - overlap, multiple), multiple)
    last = size - window
    starts = [*range(0, last, step), last]
    edges = [0, *(start + overlap // 2 for start in starts[1:]), size]
    return tuple(
        Cut(Span(start, start + window), Span(edges[i], edges[i + 1]))
        for i, start in enumerate(starts)
    )


def blend_weights(cuts: Sequence[Cut], scale: int) -> list[NDArray[np.float32]]:
    """The weight of every output line of every window; over all windows they sum to 1.

    A window's weight falls linearly towards each end that another window covers.
    """
    size = cuts[-1].window.stop * scale
    raw = []
    for window in (piece.window.times(scale) for piece in cuts):
        lines = np.arange(window.start, window.stop) + 0.5
        left = lines - window.start if window.start else np.full(window.size, float(size))
        right = window.stop - lines if window.stop < size else np.full(window.size, float(size))
        raw.append(np.minimum(left, right))
    total = np.zeros(size)
    for piece, weights in zip(cuts, raw, strict=True):
        total[piece.window.times(scale).slice] += weights
    return [
        (weights / total[piece.window.times(scale).slice]).astype(np.float32)
        for piece, weights in zip(cuts, raw, strict=True)
    ]


def up(value: int, multiple: int) -> int:
    """The next multiple, or `value` if it is one."""
    return -(-value // multiple) * multiple


def down(value: int, multiple: int) -> int:
    """The multiple before, or `value` if it is one."""
    return value // multiple * multiple
