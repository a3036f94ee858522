"""An image + the level that restored each of its pixels -> a picture of them, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nmcompile.runtime.pixels import Picture

# From few weights to all: dark blue, green, yellow, red; told apart by their lightness too.
_COLOURS = np.array([(38, 60, 140), (30, 150, 120), (245, 205, 60), (215, 60, 45)])
_TINT = 0.5
_LEAST_WIDTH = 400  # pixels, that the legend can be read
_LINE, _SWATCH, _TEXT = 20, 12, 13


def level_map(
    image: Picture, levels: NDArray[np.uint8], shares: Sequence[float]
) -> NDArray[np.uint8]:
    """Draws an image in the colours of its levels, over a line for each of them.

    Args:
        image: H x W x C as given to the engine.
        levels: H x W, the level of each pixel.
        shares: of the pixels, one a level.

    Returns:
        RGB bytes; small images are enlarged by nearest neighbour.
    """
    largest = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    colours = image[..., : 3 if image.shape[2] >= 3 else 1]
    grey = np.clip(colours.mean(axis=2, keepdims=True) * (255 / largest), 0, 255)
    palette = level_colours(len(shares))
    tinted = (grey * (1 - _TINT) + palette[levels] * _TINT).astype(np.uint8)
    times = -(-_LEAST_WIDTH // image.shape[1])
    picture = tinted.repeat(times, axis=0).repeat(times, axis=1)
    return np.concatenate([picture, _legend(palette, shares, picture.shape[1])])


def level_colours(count: int) -> NDArray[np.uint8]:
    """K x 3, the colour of each level."""
    places = np.linspace(0, len(_COLOURS) - 1, count)
    channels = [np.interp(places, np.arange(len(_COLOURS)), channel) for channel in _COLOURS.T]
    return np.stack(channels, axis=1).astype(np.uint8)


def _legend(palette: NDArray[np.uint8], shares: Sequence[float], width: int) -> NDArray[np.uint8]:
    page = Image.new("RGB", (width, _LINE * len(shares)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(_TEXT)
    for level, share in enumerate(shares):
        top, red_green_blue = level * _LINE, (*map(int, palette[level]),)
        pen.rectangle((4, top + 4, 4 + _SWATCH, top + 4 + _SWATCH), fill=red_green_blue)
        which = " (fewest weights)" if level == 0 else ""
        which = " (most weights)" if level == len(shares) - 1 else which
        pen.text((24, top + 2), f"level {level}{which}: {share:.0%}", "black", font)
    return np.asarray(page)
