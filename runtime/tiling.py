"""An image's size + what the network looks at -> the windows to run it on, and what each gives."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from nmcompile.engine import Manifest
from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuts import Cut, cut, cut_fixed, down, up

MEMORY_VARIABLE = "NMCOMPILE_TILE_MEMORY"
_DEFAULT_MEMORY_MIB = 1024
_BLEND = 32  # pixels that neighbouring windows share where the seam cannot be exact
_SMALLEST_AUTOMATIC = 64  # below this nearly all work would be spent on the halo


@dataclass(frozen=True)
class TilePlan:
    """The windows to run a network on, in input pixels of the padded image.

    Every row of `rows` with every column of `columns` is one tile.

    Attributes:
        rows: the pieces of the height, top to bottom; their inner spans partition it.
        columns: the pieces of the width, left to right.
        blend: whether windows are blended over all they share (else only `inner` is used, and
            the result equals the untiled one).
        note: what the user should know about the result, or "".
    """

    rows: tuple[Cut, ...]
    columns: tuple[Cut, ...]
    blend: bool = False
    note: str = ""

    @property
    def height(self) -> int:
        """Height of the padded image."""
        return self.rows[-1].window.stop

    @property
    def width(self) -> int:
        """Width of the padded image."""
        return self.columns[-1].window.stop

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)


def plan_tiles(manifest: Manifest, height: int, width: int, tile: int | None = None) -> TilePlan:
    """Chooses the windows for an image of this size.

    Without `tile` the image is run whole unless that needs more memory than
    NMCOMPILE_TILE_MEMORY (MiB, 1024 unless set) and the network's halo is known.

    Args:
        manifest: the engine's sizes.
        height: of the image, in pixels.
        width: of the image, in pixels.
        tile: largest height and width of a tile, without its halo; None chooses.

    Raises:
        NmcompileError: the image is smaller than the network's minimum, or `tile` is impossible.
    """
    if tile is not None and tile < 1:
        raise NmcompileError(f"--tile {tile} is impossible; give the size of a tile in pixels")
    if height < 1 or width < 1:
        raise NmcompileError(f"the image is empty ({height}x{width}); give one with pixels")
    if manifest.fixed_size is not None:
        return _plan_fixed(manifest, manifest.fixed_size, (height, width), tile)
    size = (up(height, manifest.multiple), up(width, manifest.multiple))
    if min(size) < manifest.minimum:
        raise NmcompileError(
            f"the image is {height}x{width}, the network needs at least {manifest.minimum}x"
            f"{manifest.minimum} pixels; enlarge the image or add a border"
        )
    if tile is None:
        tile = _automatic_tile(manifest, size) or max(size)
    blend = manifest.halo is None and tile < max(size)
    halo = _BLEND // 2 if manifest.halo is None else manifest.halo
    rows, columns = (
        cut(length, tile, halo, manifest.multiple, manifest.minimum) for length in size
    )
    return TilePlan(rows, columns, blend, _blend_note(manifest) if blend else "")


def _plan_fixed(
    manifest: Manifest, fixed: tuple[int, int], image: tuple[int, int], tile: int | None
) -> TilePlan:
    """Windows of the one size that the network takes, over the image padded to hold them."""
    if tile is not None and (tile, tile) != fixed:
        raise NmcompileError(
            f"--tile {tile}: the network takes images of {fixed[0]}x{fixed[1]} only, so that is "
            "the tile; leave --tile out"
        )
    halo = manifest.halo
    blend = halo is None or min(fixed) - 2 * halo < manifest.multiple
    cuts = []
    for length, window in zip(image, fixed, strict=True):
        size = window + up(max(length - window, 0), manifest.multiple)
        overlap = min(_BLEND, window // 2) if halo is None or blend else 2 * halo
        cuts.append(cut_fixed(size, window, overlap, manifest.multiple))
    plan = TilePlan(cuts[0], cuts[1])
    if not blend or plan.count == 1:
        return plan
    return TilePlan(plan.rows, plan.columns, True, _blend_note(manifest))


def _automatic_tile(manifest: Manifest, size: tuple[int, int]) -> int | None:
    """The largest tile that fits memory budget and profile; None to run the image whole."""
    pixels = _memory_budget() // max(manifest.bytes_per_pixel, 1)
    most = manifest.built.profile[2][1:] if manifest.built else size
    outside = size[0] > most[0] or size[1] > most[1]
    if (size[0] * size[1] <= pixels and not outside) or manifest.halo is None:
        return None
    border = 2 * up(manifest.halo, manifest.multiple)
    if outside:
        tile = down(min(math.isqrt(pixels), *most) - border, manifest.multiple)
        return tile if tile > 0 else None
    tile = down(math.isqrt(pixels) - border, manifest.multiple)
    return max(tile, up(_SMALLEST_AUTOMATIC, manifest.multiple))


def _memory_budget() -> int:
    text = os.environ.get(MEMORY_VARIABLE, str(_DEFAULT_MEMORY_MIB))
    if not text.strip().isdecimal():
        raise NmcompileError(f"{MEMORY_VARIABLE}={text!r}: expected a whole number of MiB")
    return int(text) << 20


def _blend_note(manifest: Manifest) -> str:
    if manifest.halo is None:
        cause = manifest.halo_reason or "an operation that is not local"
        why = f"the network looks at the whole image ({cause})"
    else:
        why = f"the network looks {manifest.halo} pixels far, more than a tile can hold"
    return f"tiled, the result differs from the untiled one: {why}; tiles are blended at seams"
