"""A routed engine + an image -> a level for each of its tiles, and the image restored with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Manifest
from nmcompile.runtime.areas import Area, cells, weights
from nmcompile.runtime.assembly import Network
from nmcompile.runtime.cuts import Cut, Span
from nmcompile.runtime.partition import partition
from nmcompile.runtime.pixels import Tensor, mirrored
from nmcompile.runtime.routed import Routed, single
from nmcompile.runtime.routing import (
    Route,
    Routes,
    bias_at,
    image_scores,
    levels_of,
    offsets_of,
    window_in,
)

_LEAST_SEEN = 32  # pixels: what the head looks at is mirrored up to this size
# Of the highest bias: where effort makes time free, or less than free, overlap still is not.
_LEAST_PRICE = 1e-3
_FEW = 2  # an area with more than 1 / (_FEW * threads) of the work runs on all threads

Inputs = Callable[[Tensor], Mapping[str, NDArray[Any]]]


class Router:
    """Chooses levels and runs them.

    Args:
        manifest: the engine's.
        route: how to choose.
        routed: what runs.
        inputs: an image tensor -> all inputs of the network.
        routes: told what was chosen.
    """

    def __init__(
        self,
        manifest: Manifest,
        route: Route,
        routed: Routed,
        inputs: Inputs,
        routes: Routes | None = None,
    ) -> None:
        self._manifest, self._routing, self._effort = manifest, route.routing, route.effort
        self._routed, self._inputs = routed, inputs
        self._routes = routes or Routes(route.routing, 1, 1)

    def network(self, whole: Callable[[], Tensor]) -> Network:
        """What restores a tile of a picture; `whole` gives all of that, 1 x C x H x W."""
        if self._routing.by == "tile" and self._effort not in (0, 1):
            return self.mixed
        return partial(self.one, level=self.level(whole))

    def level(self, image: Callable[[], Tensor]) -> int:
        """The one level of an image, 1 x C x H x W; the head is not asked where effort decides."""
        if self._effort in (0, 1):
            return (self._routed.levels - 1) * int(self._effort)
        scores = self._scores(_at_least(image(), _LEAST_SEEN))
        return int(levels_of(scores, self._routing, self._effort)[0])

    def each(self, inputs: Mapping[str, NDArray[Any]]) -> Tensor:
        """Every image of a batch at a level of its own, given all inputs of the network."""
        name, outputs = self._manifest.input_name, []
        for index in range(len(inputs[name])):
            one = single(inputs, index, len(inputs[name]))
            level = self.level(partial(one.__getitem__, name))
            outputs.append(self._routed.at(one, level, self._routed.threads))
        return np.concatenate(outputs)

    def one(self, image: Tensor, corner: tuple[int, int], level: int) -> Tensor:
        """An image, 1 x C x H x W, at one level, and where it begins in the picture -> restored."""
        height, width = image.shape[2:]
        rows, columns = Span(0, height).moved(corner[0]), Span(0, width).moved(corner[1])
        self._routes.add(rows, columns, level, height * width)
        return self._routed.at(self._inputs(image), level, self._routed.threads)

    def mixed(self, image: Tensor, corner: tuple[int, int]) -> Tensor:
        """An image at a level for each of its tiles.

        Args:
            image: 1 x C x H x W, of a size that the network takes.
            corner: the row and column of the picture at which it begins.

        Returns:
            1 x C x scale*H x scale*W, blended where areas of different levels meet; all of it
            at the highest of the levels where that takes no more than the areas do.
        """
        height, width = image.shape[2:]
        tile = window_in(self._routing, height, width, self._manifest.scale)
        rows, columns = self._cells(height, tile), self._cells(width, tile)
        scores = self._scores(_windows(image, rows, columns, tile))
        areas = self._areas(rows, columns, scores)
        ends = Span(0, height), Span(0, width)
        level = max(area.level for area in areas)
        whole = Area(Cut(ends[0], ends[0]), Cut(ends[1], ends[1]), level)
        if self._work(whole) <= sum(map(self._work, areas)):
            areas = [whole]  # the overlap would take more than the lower levels save
        for area in areas:
            self._routes.add(
                area.rows.inner.moved(corner[0]),
                area.columns.inner.moved(corner[1]),
                area.level,
                area.pixels,
            )
        if len(areas) == 1:
            return self._routed.at(self._inputs(image), areas[0].level, self._routed.threads)
        return self._blended(image, areas)

    def _scores(self, windows: Tensor) -> Tensor:
        self._routes.look(windows.size // windows.shape[1])
        return image_scores(self._routed.ask(windows), self._routed.levels)

    def _areas(self, rows: Sequence[Cut], columns: Sequence[Cut], scores: Tensor) -> list[Area]:
        """The areas of an image; overlap costs what pixels do that are restored."""
        routing, shape = self._routing, (len(rows), len(columns), -1)
        values = scores + offsets_of(routing, self._effort)
        bias = max(bias_at(routing, self._effort), _LEAST_PRICE * np.abs(routing.bias).max())
        pixels = rows[-1].inner.stop * columns[-1].inner.stop / len(scores)
        prices = [bias * time / pixels for time in routing.times]
        return partition(rows, columns, values.reshape(shape), prices, self._routed.full_width)

    def _cells(self, size: int, tile: int) -> tuple[Cut, ...]:
        """The tiles of an axis; a network of one size sees all of it as one."""
        manifest = self._manifest
        if manifest.fixed_size is not None:
            return (Cut(Span(0, size), Span(0, size)),)
        return cells(size, tile, self._routing.overlap, manifest.multiple, manifest.minimum)

    def _blended(self, image: Tensor, areas: Sequence[Area]) -> Tensor:
        """The weighted sum of all areas: large ones on all threads, the rest a thread each.

        Cells are written, and what reaches beyond an area's own is added to the others' after it,
        in one order, so that any number of threads gives the same bits.
        """
        scale, threads = self._manifest.scale, self._routed.threads
        _, channels, height, width = image.shape
        canvas = np.empty((1, channels, height * scale, width * scale), np.float32)
        beyond = list[tuple[tuple[slice, ...], Tensor]]()

        def run(area: Area, count: int = 1) -> Tensor:
            part = image[:, :, area.rows.window.slice, area.columns.window.slice]
            inputs = self._inputs(np.ascontiguousarray(part))
            output = self._routed.at(inputs, area.level, count)
            self._weigh(output, area, (height, width))
            return output

        ordered = sorted(areas, key=self._work, reverse=True)
        most = sum(map(self._work, areas)) / (_FEW * threads) if threads > 1 else 0
        large = sum(self._work(area) > most for area in areas)

        def outputs() -> Iterator[Tensor]:
            for area in ordered[:large]:
                yield run(area, threads)
            with ThreadPoolExecutor(threads) as pool:
                yield from pool.map(run, ordered[large:])

        for area, output in zip(ordered, outputs(), strict=True):
            inner, *strips = area.parts
            spot, own = _spots(area, inner, scale)
            canvas[spot] = output[own]
            for strip in strips:
                spot, own = _spots(area, strip, scale)
                beyond.append((spot, output[own].copy()))
        for spot, values in beyond:
            canvas[spot] += values
        return canvas

    def _work(self, area: Area) -> float:
        return area.work(self._routed.full_width) * self._routing.times[area.level]

    def _weigh(self, output: Tensor, area: Area, size: tuple[int, int]) -> None:
        """Multiplies an area's result by its weights; they are 1 but near its edges."""
        for axis, part, length in ((2, area.rows, size[0]), (3, area.columns, size[1])):
            found = weights(part, length, self._routing.overlap, self._manifest.scale)
            below, middle = np.flatnonzero(found < 1), len(found) // 2
            lines = np.moveaxis(output, axis, -1)
            for ends in (below[below < middle], below[below >= middle]):
                if len(ends):
                    near = slice(ends[0], ends[-1] + 1)
                    lines[..., near] *= found[near]


def _spots(
    area: Area, part: tuple[Span, Span], scale: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a part of an area stands in the restored image, and where in the area's own."""
    whole = slice(None)
    at = [span.times(scale).slice for span in part]
    corner = area.rows.window.start, area.columns.window.start
    own = [span.moved(-start).times(scale).slice for span, start in zip(part, corner, strict=True)]
    return (whole, whole, *at), (whole, whole, *own)


def _windows(image: Tensor, rows: Sequence[Cut], columns: Sequence[Cut], tile: int) -> Tensor:
    """What the head looks at: for each cell the window about it, all of one size."""
    seen = _at_least(image, tile)
    found = [
        seen[0, :, top : top + tile, left : left + tile]
        for top in (_centred(row.inner, tile, seen.shape[2]) for row in rows)
        for left in (_centred(column.inner, tile, seen.shape[3]) for column in columns)
    ]
    return np.stack(found)


def _at_least(image: Tensor, size: int) -> Tensor:
    """The image mirrored at its ends up to a size, or itself."""
    height, width = image.shape[2:]
    if min(height, width) >= size:
        return image
    rows, columns = mirrored(height, max(height, size)), mirrored(width, max(width, size))
    return np.ascontiguousarray(image[:, :, rows[:, None], columns])


def _centred(cell: Span, size: int, length: int) -> int:
    """Where a window of this size begins that has the cell in its middle and lies in the axis."""
    return max(0, min((cell.start + cell.stop - size) // 2, length - size))
