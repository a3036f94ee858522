"""Example crops -> PNG data URIs that a page holds in itself, and how two crops differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_AMPLIFY = (50, 20, 10, 5, 2, 1)
_MOSTLY = 99.9


@dataclass(frozen=True)
class Example:
    """One crop of an image, uint8 H x W x C (C = 1 or 3); `degraded` may be smaller."""

    name: str
    degraded: NDArray[np.uint8]
    dense: NDArray[np.uint8]
    compiled: NDArray[np.uint8]
    clean: NDArray[np.uint8]


@dataclass(frozen=True)
class Chosen:
    """An image with the level that an input-adaptive engine chose for each of its pixels.

    Attributes:
        name: of the image.
        picture: RGB, H x W x 3, with a legend.
        shares: of its pixels, one a level.
        macs: over the dense network's, the head's and the overlap's included.
    """

    name: str
    picture: NDArray[np.uint8]
    shares: tuple[float, ...]
    macs: float


def data_uri(picture: NDArray[np.uint8]) -> str:
    """H x W x C bytes -> a PNG that needs no file beside the page."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def enlarged(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture at another size, by nearest neighbour: its pixels stay visible."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return np.asarray(picture[rows][:, columns], np.uint8)


def differences(examples: Sequence[Example]) -> tuple[int, list[NDArray[np.uint8]]]:
    """|compiled - dense| of each example (largest channel), and by how much all are amplified.

    One factor serves all, so that they can be compared: the largest of 50, 20, 10, 5, 2, 1 with
    which all but a thousandth of each crop's pixels stay within 255.
    """
    plain = [
        np.abs(example.compiled.astype(int) - example.dense).max(axis=2, keepdims=True)
        for example in examples
    ]
    top = max((float(np.percentile(picture, _MOSTLY)) for picture in plain), default=0.0)
    factor = next((factor for factor in _AMPLIFY if factor * top <= 255), 1)
    return factor, [np.minimum(picture * factor, 255).astype(np.uint8) for picture in plain]
