"""What a caller gives -> the arrays that a model takes, or one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nmcompile.engine import ExtraInput, Manifest
from nmcompile.errors import NmcompileError
from nmcompile.runtime.pixels import Tensor


def check_tensor(manifest: Manifest, x: Tensor) -> None:
    """Raises NmcompileError unless the network takes `x`."""
    if x.dtype != np.float32 or x.ndim != 4:
        raise NmcompileError(
            f"the input is {x.dtype} of shape {x.shape}; give float32 of shape N x "
            f"{manifest.channels} x H x W, with values 0..{manifest.value_range:g}"
        )
    if x.shape[1] != manifest.channels:
        raise NmcompileError(
            f"the input has {x.shape[1]} channels, the network takes {manifest.channels}"
        )
    height, width = x.shape[2:]
    found = f"the input is {height}x{width}, the network takes"
    if manifest.fixed_size is not None:
        if (height, width) != manifest.fixed_size:
            raise NmcompileError(f"{found} {'x'.join(map(str, manifest.fixed_size))} only; pad it")
        return
    if min(height, width) < manifest.minimum:
        raise NmcompileError(
            f"{found} {manifest.minimum}x{manifest.minimum} or more; use restore() or pad it"
        )
    if height % manifest.multiple or width % manifest.multiple:
        raise NmcompileError(
            f"{found} multiples of {manifest.multiple}; use restore(), which pads, or pad it"
        )


def check_names(manifest: Manifest, extras: Mapping[str, Any]) -> None:
    """Raises NmcompileError unless every name is a further input of the network."""
    known = [extra.name for extra in manifest.extra_inputs]
    for name in extras:
        if name not in known:
            raise NmcompileError(
                f"the network has no further input {name!r}; "
                + (f"it has {', '.join(known)}" if known else "it has none besides the image")
            )


def filled(extra: ExtraInput, value: ArrayLike, image: tuple[int, ...]) -> Tensor:
    """The array for a further input, for an image of N x C x H x W."""
    sizes: dict[int | str, int] = {0: image[0], "H": image[2], "W": image[3]}
    shape = tuple(int(sizes.get(size, size)) for size in extra.shape)
    given = np.asarray(value, dtype=np.float32)
    if given.ndim == 0:
        return np.full(shape, given, np.float32)
    if given.shape != shape:
        raise NmcompileError(
            f"the input {extra.name} has shape {given.shape}, expected {shape} or one number"
        )
    return given
