"""An image's size -> its cells, areas of which are run at one level, and how they are blended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nmcompile.runtime.cuts import Cut, Span, down, up


@dataclass(frozen=True)
class Area:
    """A rectangle of an image that is run at one level.

    Attributes:
        rows, columns: what is run, and of that the part that is made of cells.
        level: from 0.
    """

    rows: Cut
    columns: Cut
    level: int

    @property
    def pixels(self) -> int:
        """How many are run, overlap included."""
        return self.rows.window.size * self.columns.window.size

    @property
    def parts(self) -> tuple[tuple[Span, Span], ...]:
        """Its cells' rows and columns, then those of what it overlaps: above, below and beside."""
        rows, columns = self.rows, self.columns
        above = Span(rows.window.start, rows.inner.start), columns.window
        below = Span(rows.inner.stop, rows.window.stop), columns.window
        left = rows.inner, Span(columns.window.start, columns.inner.start)
        right = rows.inner, Span(columns.inner.stop, columns.window.stop)
        overlapped = (part for part in (above, below, left, right) if part[0].size * part[1].size)
        return (rows.inner, columns.inner), *overlapped

    def work(self, full_width: int) -> int:
        """What running it takes, in pixels: lines are computed up to a multiple of a full width.

        Its rows or its columns, whichever takes less, as libnmk runs it.
        """
        height, width = self.rows.window.size, self.columns.window.size
        return min(height * up(width, full_width), width * up(height, full_width))


def cells(
    size: int, tile: int, overlap: int, multiple: int = 1, minimum: int = 1
) -> tuple[Cut, ...]:
    """Cuts an axis into the fewest cells whose windows, of about equal size, take `tile` or less.

    Args:
        size: length of the axis, a multiple of `multiple`.
        tile: most pixels of a window (rounded up to a multiple at either end).
        overlap: pixels that neighbouring windows share; their cells meet in its middle.
        multiple: what windows are aligned to.
        minimum: smallest window, at most `size`.
    """
    count, half = max(1, math.ceil((size - overlap) / (tile - overlap))), overlap // 2
    inner = (index * (size - overlap) // count + half for index in range(1, count))
    found = []
    for start, stop in pairwise((0, *inner, size)):
        first, last = down(max(0, start - half), multiple), up(stop + half, multiple)
        last = min(size, max(last, up(first + minimum, multiple)))
        first = down(max(0, min(first, last - minimum)), multiple)
        found.append(Cut(Span(first, last), Span(start, stop)))
    return tuple(found)


def weights(cut: Cut, size: int, overlap: int, scale: int) -> NDArray[np.float32]:
    """The weight of every output line of a window; over all windows of an axis they sum to 1.

    A weight falls linearly to 0 over the middle half of the overlap, about where two cells meet:
    what is nearest to a window's end is its worst part (over all of it DnCNN's borders lose 0.005
    dB more).

    Args:
        cut: the window, and the cells in it.
        size: length of the axis.
        overlap: pixels that neighbours share; 0 for none.
        scale: output lines a pixel.
    """
    lines = (np.arange(cut.window.start * scale, cut.window.stop * scale) + 0.5) / scale
    found = np.ones(len(lines))
    for edge, sign in ((cut.inner.start, 1), (cut.inner.stop, -1)):
        if 0 < edge < size:
            beyond = np.clip((lines - edge) / max(overlap // 2, 1 / scale) + 0.5, 0, 1)
            found -= (1 - beyond) if sign > 0 else beyond
    return found.astype(np.float32)
