"""An image file <-> its pixels, at their own bit depth, without losing grey levels or alpha."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nmcompile.errors import NmcompileError

Pixels = NDArray[Any]  # height x width x channels (1 grey, 2 grey+alpha, 3 RGB, 4 RGB+alpha)

# What Pillow may decode. Its other decoders see little use and much malice.
_READABLE = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM")
_LARGEST_PIXELS = 1 << 30  # OpenCV's own limit
_ORIENTATION = 0x0112
_MODES = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
_AS_THEY_ARE = ("L", "LA", "RGB", "RGBA")


@dataclass(frozen=True)
class _Format:
    """What a file format holds, and how Pillow is told to write it best."""

    name: str
    deep: bool = False
    alpha: bool = False
    options: tuple[tuple[str, Any], ...] = ()


_TIFF = _Format("TIFF", deep=True, alpha=True, options=(("compression", "tiff_adobe_deflate"),))
_JPEG = _Format("JPEG", options=(("quality", 95), ("subsampling", 0)))
_WRITABLE = {
    ".png": _Format("PNG", deep=True, alpha=True),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".bmp": _Format("BMP"),
    ".webp": _Format("WEBP", alpha=True, options=(("lossless", True), ("exact", True))),
}


def read_image(path: Path | str) -> Pixels:
    """Reads an image, upright as its EXIF orientation asks.

    Args:
        path: a PNG, JPEG, TIFF, BMP, WebP or PPM file.

    Returns:
        H x W x C, uint8 or uint16 as stored; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
        alpha). A palette becomes RGB.

    Raises:
        NmcompileError: no such file, not an image, damaged, or a kind that has no place here.
    """
    path = Path(path)
    with _opened(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # a camera's MPO begins with its picture
            raise NmcompileError(
                f"{path} holds {frames} pictures; save the one to restore by itself"
            )
        if _has_deep_colour(image):
            return _read_deep_colour(path, image.getexif().get(_ORIENTATION, 1))
        return _pixels(path, ImageOps.exif_transpose(image))


def write_image(path: Path | str, image: Pixels) -> None:
    """Writes an image whole or not at all; the file's ending chooses the format.

    Args:
        path: ends with .png, .tif, .tiff, .jpg, .jpeg, .bmp or .webp (written without loss).
        image: H x W or H x W x C, uint8 or uint16, channels as `read_image` gives them.

    Raises:
        NmcompileError: the format does not hold such an image, or it cannot be written there.
    """
    path = Path(path)
    pixels = image[:, :, None] if image.ndim == 2 else image
    check_format(path, pixels.dtype, pixels.shape[2])
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_bytes(_encoded(pixels, _WRITABLE[path.suffix.lower()]))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # a ValueError: larger than the format can be
        reason = getattr(error, "strerror", None) or error
        raise NmcompileError(f"{path} cannot be written ({reason})") from None


def check_format(path: Path, dtype: np.dtype[Any], channels: int) -> None:
    """Raises NmcompileError unless a file of this name can hold such pixels."""
    kind = _WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise NmcompileError(
            f"{path}: images are written as {', '.join(_WRITABLE)}, not as "
            f"{path.suffix or 'a file without an ending'}; .png holds everything"
        )
    if dtype == np.uint16 and not kind.deep:
        raise NmcompileError(f"{path}: {kind.name} does not hold 16 bits; write a .png or .tif")
    if channels in (2, 4) and not kind.alpha:
        raise NmcompileError(f"{path}: {kind.name} does not hold alpha; write a .png or .tif")


def list_images(folder: Path | str) -> list[Path]:
    """The images of a folder, sorted by name; hidden files and sub-folders are skipped.

    Raises:
        NmcompileError: no such folder, nothing in it, or a file in it that is not an image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NmcompileError(f"{folder} is not a folder; give a folder of images")
    files = sorted(
        (path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")),
        key=lambda path: path.name,
    )
    if not files:
        raise NmcompileError(f"{folder} holds no images; give a folder with images in it")
    for path in files:
        with _opened(path):
            pass
    return files


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as `read_image` gives it, from the file's first bytes."""
    with _opened(path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return image.size if turned else image.size[::-1]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file with Pillow; what goes wrong inside is the file's fault."""
    if not path.is_file():
        raise NmcompileError(f"there is no image file {path}; check the name")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _LARGEST_PIXELS
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_READABLE) as image:
            yield image
    except UnidentifiedImageError:
        raise NmcompileError(
            f"{path} is not an image that nmcompile reads (PNG, JPEG, TIFF, BMP, WebP, PPM); "
            "remove or convert it"
        ) from None
    except Image.DecompressionBombError as error:
        raise NmcompileError(f"{path}: {error}; cut the image into parts") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NmcompileError(f"{path} cannot be read ({reason}); is it whole?") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _has_deep_colour(image: Image.Image) -> bool:
    """Whether these are 16-bit channels of which Pillow would keep 8 bits."""
    tiles = getattr(image, "tile", [])
    return image.mode in _AS_THEY_ARE and any(";16" in str(tile[3]) for tile in tiles)


def _read_deep_colour(path: Path, orientation: int) -> Pixels:
    """Reads 16-bit RGB, RGB with alpha, or grey with alpha, by OpenCV."""
    cv2 = _opencv()
    if orientation != 1:
        raise NmcompileError(f"{path}: a 16-bit image stored on its side; save it upright")
    data = np.fromfile(path, np.uint8)
    found: Pixels | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        raise NmcompileError(f"{path} cannot be read (16-bit data damaged); is it whole?")
    if found.shape[2] == 3:
        return np.ascontiguousarray(found[..., ::-1])
    is_grey = data[25] == 4 and bytes(data[1:4]) == b"PNG"  # the PNG header's colour type
    return np.ascontiguousarray(found[..., [0, 3] if is_grey else [2, 1, 0, 3]])


def _pixels(path: Path, image: Image.Image) -> Pixels:
    """A Pillow image -> the array of its pixels."""
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > np.iinfo(np.uint16).max:
            raise NmcompileError(f"{path} holds 32-bit integers; save it with 8 or 16 bits")
        return deep.astype(np.uint16)[:, :, None]
    if image.mode == "F":
        raise NmcompileError(f"{path} holds floating-point numbers; save it with 8 or 16 bits")
    if "transparency" in image.info and image.mode != "RGBA":
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode not in _AS_THEY_ARE:
        image = image.convert(_MODES.get(image.mode, "RGB"))
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _encoded(pixels: Pixels, kind: _Format) -> bytes:
    """The contents of the file: by Pillow, or by OpenCV what Pillow cannot write."""
    if pixels.dtype == np.uint16 and pixels.shape[2] > 1:
        return _encoded_deep_colour(pixels, kind)
    stream = io.BytesIO()
    plane = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(plane).save(stream, kind.name, **dict(kind.options))
    return stream.getvalue()


def _encoded_deep_colour(pixels: Pixels, kind: _Format) -> bytes:
    """16-bit channels, BGR order for OpenCV; grey with alpha is stored as RGB with alpha."""
    cv2 = _opencv()
    order = {2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    data: NDArray[np.uint8]
    done, data = cv2.imencode(f".{kind.name.lower()}", np.ascontiguousarray(pixels[..., order]))
    if not done:
        raise RuntimeError(f"OpenCV could not encode {pixels.shape} as {kind.name}")
    return data.tobytes()


def _opencv() -> Any:
    """OpenCV, told not to print about files."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
