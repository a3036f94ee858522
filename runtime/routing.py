"""What a difficulty head says + an effort -> the level of each window; what was chosen, counted."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuts import Span

Effort = float | str | None

# Measured with every tile on its own, none joined, all of one level, against the untiled image:
# PSNR within 4 pixels of tiles' borders / of all pixels. IMDN x4, Set14: windows of 64, overlap 8
# -0.015 / -0.003 dB (the worst image -0.11), overlap 12 -0.011 / -0.004, overlap 16 +0.003 / +0.001
# for 1.78 times the pixels where 8 takes 1.31. Test images at x4 hold few windows larger than that.
# DnCNN at sigma 25, whose 17 layers see their zero padding: -0.12 / -0.03 dB, with windows of 128
# and overlap 16 -0.05 / -0.006, so that networks that do not enlarge take those.
_WINDOWS = ((128, 16), (64, 8))  # of networks that keep the size, and of those that enlarge
# A window of 64 that stands alone runs 1.31 times its pixels. In results of 720p and more, where
# there are enough to choose from, windows are half as large again.
_LARGE = 1280 * 720
_FORCED = 1e9  # beyond any score
_NAMED = {"min": 0.0, "max": 1.0}


def default_window(scale: int) -> tuple[int, int]:
    """Size of a window, overlap included, and the overlap, in input pixels."""
    return _WINDOWS[scale > 1]


def window_in(routing: Routing, height: int, width: int, scale: int) -> int:
    """Size of a window in an image of height x width input pixels."""
    large = height * width * scale**2 >= _LARGE
    return routing.tile * 3 // 2 if large else routing.tile


@dataclass(frozen=True)
class Route:
    """What one run is to do.

    Attributes:
        routing: the engine's, or with other windows.
        effort: 0..1.
    """

    routing: Routing
    effort: float


def read_route(routing: Routing, scale: int, effort: Effort, by: str | None) -> Route:
    """What a caller gives, None for the engine's own -> what one run is to do.

    Raises:
        NmcompileError: an impossible effort, or routing by something else than tile or image.
    """
    if by not in (None, "tile", "image"):
        raise NmcompileError(f"routing by {by!r}: expected tile or image")
    if by == "tile" and not routing.tile:
        tile, overlap = default_window(scale)
        routing = dataclasses.replace(routing, tile=tile, overlap=overlap)
    return Route(dataclasses.replace(routing, by=by or routing.by), read_effort(effort, routing))


def levels_of(scores: NDArray[np.floating], routing: Routing, effort: float) -> NDArray[np.intp]:
    """The level of each window: that of the largest score - bias(effort) * time.

    Effort 0 is the first level everywhere, 1 the last, whatever the scores are. Between them the
    bias is interpolated linearly; of equal levels the cheapest wins.

    Args:
        scores: N x K, see `image_scores`; higher is better.
        routing: the engine's.
        effort: 0..1.
    """
    if effort in (0, 1):
        return np.full(len(scores), (scores.shape[1] - 1) * int(effort), np.intp)
    chosen: NDArray[np.intp] = np.argmax(scores + offsets_of(routing, effort), axis=1)
    return chosen


def image_scores(said: NDArray[np.floating], levels: int) -> NDArray[np.floating]:
    """What the head says of all windows of an image -> their scores, N x K.

    Quality is the image's PSNR, which changes by a share of the image's error. The head sees one
    window, and scores levels by shares of that window's own error; they count by how much of the
    image's error the window has.

    Args:
        said: N x (K + 1), K scores and the difficulty: the logarithm of the last level's error.
        levels: K.

    Raises:
        NmcompileError: what is said is of another number of levels.
    """
    if said.ndim != 2 or said.shape[1] != levels + 1:
        raise NmcompileError(
            f"the head's output has the shape {said.shape}, expected N x {levels + 1}, a score for "
            "each level and the difficulty; compile the engine again"
        )
    errors = np.exp(said[:, -1:] - said[:, -1].max())
    scores: NDArray[np.floating] = said[:, :-1] * (errors / errors.mean())
    return scores


def offsets_of(routing: Routing, effort: float) -> NDArray[np.float64]:
    """What is added to the scores of the K levels at an effort; see `levels_of`."""
    times = np.asarray(routing.times)
    if effort in (0, 1):  # not the head's to decide
        return forced((len(times) - 1) * int(effort), len(times))
    return -bias_at(routing, effort) * times


def bias_at(routing: Routing, effort: float) -> float:
    """What the last level's time costs at an effort, in units of scores."""
    return float(np.interp(effort, np.linspace(0, 1, len(routing.bias)), routing.bias))


def forced(level: int, count: int) -> NDArray[np.float64]:
    """What is added to the scores of `count` levels so that one is taken, whatever they are."""
    offsets = np.zeros(count)
    offsets[level] = _FORCED
    return offsets


def read_effort(effort: Effort, routing: Routing) -> float:
    """What a caller gives -> an effort of 0..1; None takes the engine's own.

    Raises:
        NmcompileError: neither `min`, `max` nor a number of 0..1.
    """
    if effort is None:
        return routing.effort
    try:
        number = float(_NAMED.get(str(effort), effort))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise NmcompileError(f"effort {effort}: expected a number from 0 to 1, min or max")
    return number


class Routes:
    """What was chosen while an image was restored, and what that took.

    Args:
        routing: the engine's.
        height: of the image, in input pixels.
        width: of the image.
        passes: how often the network sees it: once for each colour where it is a grey network.

    Attributes:
        levels: H x W, the level of each pixel, the highest of all passes.
    """

    def __init__(self, routing: Routing, height: int, width: int, passes: int = 1) -> None:
        self._routing, self._passes = routing, passes
        self._chosen, self._run = np.zeros(len(routing.costs)), np.zeros(len(routing.costs))
        self._seen = 0
        self.levels = np.zeros((height, width), np.uint8)

    @classmethod
    def whole(cls, routing: Routing, height: int, width: int, level: int) -> Routes:
        """Those of an image that one level restored whole."""
        routes = cls(routing, height, width)
        routes.add(Span(0, height), Span(0, width), level, height * width)
        return routes

    def add(self, rows: Span, columns: Span, level: int, pixels: int) -> None:
        """Counts a rectangle of the image, and how many pixels were run for it."""
        spot = self.levels[rows.slice, columns.slice]
        np.maximum(spot, np.uint8(level), out=spot)
        self._chosen[level] += spot.size
        self._run[level] += pixels

    def look(self, pixels: int) -> None:
        """Counts pixels that the head has looked at."""
        self._seen += pixels

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the pixels that each level restored."""
        return tuple(float(share) for share in self._chosen / self._chosen.sum())

    @property
    def macs(self) -> float:
        """MACs over the dense network's on the image, the head's and the overlap's included."""
        spent = self._run @ np.asarray(self._routing.costs) + self._seen * self._routing.head_cost
        return float(spent / (self._passes * self.levels.size))
