"""A picture + its tile plan + a network -> the network's picture, written tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nmcompile.engine import Manifest
from nmcompile.runtime.cuts import Cut, blend_weights
from nmcompile.runtime.pixels import Picture, Tensor, from_tensor, mirrored, to_pixels, to_tensor
from nmcompile.runtime.tiling import TilePlan

# A tile, 1 x C x H x W, and the row and column at which it begins -> the tile restored.
Network = Callable[[Tensor, tuple[int, int]], Tensor]


class Assembly:
    """One pass of the network over the tiles of a picture, written into `target`."""

    def __init__(
        self,
        run: Network,
        manifest: Manifest,
        plan: TilePlan,
        source: Picture,
        target: Picture,
    ) -> None:
        self._run, self._manifest, self._plan = run, manifest, plan
        self._source, self._target = source, target
        self._rows = mirrored(source.shape[0], plan.height)
        self._columns = mirrored(source.shape[1], plan.width)

    def steps(self) -> Iterator[int]:
        """Does the work; yields the number of tiles done after each."""
        return self._blended() if self._plan.blend else self._exact()

    def _exact(self) -> Iterator[int]:
        """Writes the inner part of every tile; yields how many are done."""
        scale, done = self._manifest.scale, 0
        for row in self._plan.rows:
            for column in self._plan.columns:
                values = self._values(row, column)
                top = (row.inner.start - row.window.start) * scale
                left = (column.inner.start - column.window.start) * scale
                rows, columns = row.inner.times(scale), column.inner.times(scale)
                inner = values[top : top + rows.size, left : left + columns.size]
                self._write(inner, rows.start, columns.start)
                done += 1
                yield done

    def _blended(self) -> Iterator[int]:
        """Writes the weighted sum of all windows, one band of rows at a time; yields as above."""
        plan, scale, done = self._plan, self._manifest.scale, 0
        row_weights = blend_weights(plan.rows, scale)
        column_weights = blend_weights(plan.columns, scale)
        held = np.zeros((0, plan.width * scale, self._target.shape[2]), np.float32)
        for number, row in enumerate(plan.rows):
            window = row.window.times(scale)
            band = np.zeros((window.size, *held.shape[1:]), np.float32)
            band[: len(held)] = held
            for column, weights in zip(plan.columns, column_weights, strict=True):
                weighted = self._values(row, column) * row_weights[number][:, None, None]
                band[:, column.window.times(scale).slice] += weighted * weights[:, None]
                done += 1
                yield done
            following = plan.rows[number + 1].window.start if number + 1 < len(plan.rows) else None
            ready = window.size if following is None else following * scale - window.start
            self._write(band[:ready], window.start, 0)
            held = band[ready:]

    def _values(self, row: Cut, column: Cut) -> Tensor:
        """The network's result on one window: H x W x channels in its own range."""
        manifest = self._manifest
        rows, columns = self._rows[row.window.slice], self._columns[column.window.slice]
        pixels = self._source[rows[:, None], columns]
        tensor = to_tensor(pixels, manifest.value_range, manifest.channels)
        output = self._run(tensor, (row.window.start, column.window.start))
        return from_tensor(output, self._target.shape[2])

    def _write(self, values: Tensor, top: int, left: int) -> None:
        """Rounds into the target what lies inside the picture, leaving its padding out."""
        spot = self._target[top : top + len(values), left : left + values.shape[1]]
        kept = values[: spot.shape[0], : spot.shape[1]]
        # A plane at a time, as the network gives them: all together took three times as long.
        for channel in range(kept.shape[2]):
            spot[..., channel] = to_pixels(
                kept[..., channel], self._manifest.value_range, self._target.dtype
            )
