"""An image's cells and what each level is worth there -> the areas that are best run at one level.

Neighbouring cells of one level need no overlap, and a cell may be worth less at its own level than
the overlap with its neighbours takes. So levels and areas are decided together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.runtime.areas import Area
from nmcompile.runtime.cuts import Cut, Span

_MOST_CELLS = 48  # of a rectangle that is cut in every way (5 ms for 4 x 8); larger ones are halved

_Spot = tuple[int, int, int, int]  # first row, row after the last, first column, column after it
_Found = tuple[float, list[tuple[_Spot, int]]]


def partition(
    rows: Sequence[Cut],
    columns: Sequence[Cut],
    values: NDArray[np.floating],
    prices: Sequence[float],
    full_width: int,
) -> list[Area]:
    """Cuts an image into rectangles of one level, of the best value less what overlap takes.

    It is cut straight through, and its parts again (guillotine cuts), between cells for which
    different levels are best. Of all ways to do so the best is found.

    Args:
        rows: the cells' rows; `window` is a cell with its overlap.
        columns: their columns.
        values: len(rows) x len(columns) x K, how good each level is for a cell, for what it takes.
        prices: of a pixel of work at each level that is computed beyond the cells.
        full_width: see Area.work.
    """
    _, found = _Cells(rows, columns, values, prices, full_width).best(
        (0, len(rows), 0, len(columns))
    )
    return [_area(rows, columns, spot, level) for spot, level in found]


class _Cells:
    """Rectangles of cells, the best of each known once it was asked for."""

    def __init__(
        self,
        rows: Sequence[Cut],
        columns: Sequence[Cut],
        values: NDArray[np.floating],
        prices: Sequence[float],
        full_width: int,
    ) -> None:
        self._rows, self._columns, self._prices = rows, columns, prices
        self._full_width = full_width
        self._values = [_sums(values[:, :, level]) for level in range(len(prices))]
        levels = np.argmax(values, axis=2)
        self._changes_down = _sums(np.diff(levels, axis=0, prepend=levels[:1]) != 0)
        self._changes_across = _sums(np.diff(levels, axis=1, prepend=levels[:, :1]) != 0)
        self._known: dict[_Spot, _Found] = {}

    def best(self, spot: _Spot) -> _Found:
        """The value of the best way to cut a rectangle, and its parts with their levels."""
        if spot not in self._known:
            value, level = self._whole(spot)
            found = [(spot, level)]
            for one, other in self._cuts(spot):
                (first, some), (second, more) = self.best(one), self.best(other)
                if first + second > value:
                    value, found = first + second, some + more
            self._known[spot] = value, found
        return self._known[spot]

    def _whole(self, spot: _Spot) -> tuple[float, int]:
        """The value of a rectangle at the level that is best for all of it; the first of equals."""
        area = _area(self._rows, self._columns, spot, 0)
        beyond = area.work(self._full_width) - area.rows.inner.size * area.columns.inner.size
        levels = zip(self._values, self._prices, strict=True)
        gains = [_within(sums, spot) - price * beyond for sums, price in levels]
        return max(gains), gains.index(max(gains))

    def _cuts(self, spot: _Spot) -> Iterator[tuple[_Spot, _Spot]]:
        top, bottom, left, right = spot
        down = [
            at
            for at in range(top + 1, bottom)
            if _within(self._changes_down, (at, at + 1, left, right))
        ]
        across = [
            at
            for at in range(left + 1, right)
            if _within(self._changes_across, (top, bottom, at, at + 1))
        ]
        if (bottom - top) * (right - left) > _MOST_CELLS and (down or across):
            tall = bottom - top > right - left
            down, across = ([(top + bottom) // 2], []) if tall else ([], [(left + right) // 2])
        for at in down:
            yield (top, at, left, right), (at, bottom, left, right)
        for at in across:
            yield (top, bottom, left, at), (top, bottom, at, right)


def _area(rows: Sequence[Cut], columns: Sequence[Cut], spot: _Spot, level: int) -> Area:
    top, bottom, left, right = spot
    return Area(_span(rows, top, bottom), _span(columns, left, right), level)


def _span(cuts: Sequence[Cut], first: int, stop: int) -> Cut:
    begin, end = cuts[first], cuts[stop - 1]
    return Cut(Span(begin.window.start, end.window.stop), Span(begin.inner.start, end.inner.stop))


def _sums(values: NDArray[Any]) -> list[list[float]]:
    """At each place the sum of all values above and left of it, from which `_within` takes."""
    found: list[list[float]] = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1).tolist()
    return found


def _within(sums: list[list[float]], spot: _Spot) -> float:
    top, bottom, left, right = spot
    return sums[bottom][right] - sums[top][right] - sums[bottom][left] + sums[top][left]
