"""uint8 image + scale -> the bicubic resize that MATLAB's `imresize` makes of it, bit for bit."""

import math

import numpy as np
import numpy.typing as npt

_SUPPORT = 4.0  # width in input pixels of the cubic kernel before it is stretched


def imresize(
    image: npt.NDArray[np.uint8] | npt.NDArray[np.floating],
    scale: float,
    *,
    round_result: bool = True,
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float64]:
    """Resize an image as MATLAB's `imresize(image, scale, 'bicubic')` does.

    Shrinking stretches the cubic kernel by `1 / scale` (antialiasing); enlarging does not. Height
    goes first. MATLAB stores a uint8 image as uint8 between the two directions, so rounding after
    the first one is needed to reproduce its files.

    Args:
        image: height x width x channels, or height x width; grey levels 0..255 when rounding.
        scale: output size / input size; the output has `ceil(n * scale)` rows and columns.
        round_result: True rounds half up and clips to 0..255 after each direction (a uint8 image
            in MATLAB); False does neither (a double image in MATLAB).

    Returns:
        The resized image, uint8 when `round_result`, else float64, same number of dimensions.

    Raises:
        ValueError: if `scale` is not a positive finite number or the image is not 2-D or 3-D.

    Source:
        MathWorks, `imresize` (Image Processing Toolbox), method 'bicubic', Antialiasing default;
        R. Keys, "Cubic convolution interpolation", IEEE TASSP 29(6), 1981, with a = -0.5.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, found {scale}; use 0.5 to halve")
    if image.ndim not in (2, 3):
        raise ValueError(
            f"image has {image.ndim} dimensions; give height x width or height x width x channels"
        )
    result = image.astype(np.float64)
    for axis in (0, 1):
        result = _resize_axis(result, scale, axis)
        if round_result:
            result = np.clip(np.floor(result + 0.5), 0.0, 255.0)
    return result.astype(np.uint8) if round_result else result


def _resize_axis(
    image: npt.NDArray[np.float64], scale: float, axis: int
) -> npt.NDArray[np.float64]:
    """Resize one axis: a weighted sum of `taps` input lines for every output line."""
    indices, weights = _taps(image.shape[axis], scale)
    lines = np.moveaxis(image, axis, 0)
    spread = (-1,) + (1,) * (image.ndim - 1)
    result = np.zeros((indices.shape[0], *lines.shape[1:]))
    for tap in range(indices.shape[1]):
        result += weights[:, tap].reshape(spread) * lines[indices[:, tap]]
    return np.moveaxis(result, 0, axis)


def _taps(size: int, scale: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Input indices (0-based) and weights, each [outputs, taps], for one axis of length `size`."""
    stretch = min(scale, 1.0)
    width = _SUPPORT / stretch
    # Positions are 1-based, as in MATLAB, so that floor() breaks ties at the same places.
    outputs = np.arange(1, math.ceil(size * scale) + 1, dtype=np.float64)
    centres = outputs / scale + 0.5 * (1.0 - 1.0 / scale)
    first = np.floor(centres - width / 2.0)
    positions = first[:, None] + np.arange(math.ceil(width) + 2)
    weights = stretch * _cubic(stretch * (centres[:, None] - positions))
    weights /= weights.sum(axis=1, keepdims=True)
    # Beyond the border the image is mirrored with its edge line repeated: 1..n, n..1, and so on.
    mirror = np.concatenate([np.arange(size), np.arange(size - 1, -1, -1)])
    indices = mirror[np.mod(positions.astype(np.int64) - 1, 2 * size)]
    return indices, weights


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic kernel with a = -0.5, zero outside [-2, 2]."""
    a = np.abs(x)
    near = 1.5 * a**3 - 2.5 * a**2 + 1.0
    far = -0.5 * a**3 + 2.5 * a**2 - 4.0 * a + 2.0
    return np.where(a <= 1.0, near, np.where(a <= 2.0, far, 0.0))
