"""Pixels of a picture <-> the network's tensor: type, range, channels, border, alpha."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError

Picture = NDArray[Any]  # height x width x channels, uint8, uint16 or float32
Tensor = NDArray[np.float32]

_LARGEST = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}


def check_picture(image: Picture) -> None:
    """Raises NmcompileError unless this is an image that an engine can restore."""
    if image.dtype not in _LARGEST:
        raise NmcompileError(
            f"the image holds {image.dtype}; give uint8, uint16 or float32 with values 0..1"
        )
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4):
        raise NmcompileError(
            f"the image has shape {image.shape}; give height x width, or height x width x "
            "channels with 1 to 4 channels"
        )


def mirrored(size: int, padded: int) -> NDArray[np.intp]:
    """For each line of an axis padded at its end, the line of the image that it shows.

    The image is mirrored about its last line, or that line repeated where the image is too
    small for a mirror.
    """
    lines = np.arange(padded)
    beyond = 2 * (size - 1) - lines if padded - size < size else np.full(padded, size - 1)
    return np.where(lines < size, lines, beyond)


def to_tensor(pixels: Picture, value_range: float, channels: int) -> Tensor:
    """Pixels -> 1 x channels x H x W in the network's range; grey is repeated if need be."""
    divisor = np.float32(_LARGEST[pixels.dtype] / value_range)
    planes = np.moveaxis(pixels, 2, 0).astype(np.float32)
    planes /= divisor
    if planes.shape[0] != channels:
        planes = np.broadcast_to(planes, (channels, *planes.shape[1:]))
    return np.ascontiguousarray(planes[None])


def from_tensor(tensor: Tensor, channels: int) -> Tensor:
    """1 x C x H x W -> H x W x channels in the network's range; grey is the channels' mean."""
    planes = tensor[0]
    if planes.shape[0] != channels:
        planes = planes.mean(axis=0, keepdims=True)
    return np.moveaxis(planes, 0, 2)


def to_pixels(values: Tensor, value_range: float, dtype: np.dtype[Any]) -> Picture:
    """Values in the network's range -> pixels of `dtype`: clipped, rounded half up."""
    largest = _LARGEST[dtype]
    scaled = values * np.float32(largest / value_range)
    if dtype.kind == "u":
        scaled += np.float32(0.5)  # what is no whole number is cut off below
    return np.clip(scaled, 0.0, largest, out=scaled).astype(dtype, copy=False)


def enlarged(plane: Picture, scale: int) -> Picture:
    """One plane (H x W, such as alpha) -> `scale` times as large, by linear interpolation."""
    if scale == 1:
        return plane
    wide = _interpolated(_interpolated(plane.astype(np.float32), scale).T, scale).T
    if plane.dtype.kind == "u":
        wide = np.floor(wide + np.float32(0.5))
    return wide.astype(plane.dtype)


def _interpolated(plane: Tensor, scale: int) -> Tensor:
    """Linear interpolation along the rows; beyond the border the outer row is repeated."""
    size = plane.shape[0]
    position = (np.arange(size * scale, dtype=np.float32) + 0.5) / scale - 0.5
    position = np.clip(position, 0, size - 1)
    upper = np.minimum(position.astype(np.intp), max(size - 2, 0))
    share = (position - upper)[:, None].astype(np.float32)
    lower = np.minimum(upper + 1, size - 1)
    result: Tensor = plane[upper] * (1 - share) + plane[lower] * share
    return result
