"""The text `sr:4` or `denoise:25` -> a restoration task: how its input is made and compared."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nmcompile.errors import NmcompileError
from nmcompile.resize import imresize

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_KINDS = {
    "sr": ("scale", 2, 8),
    "denoise": ("noise sigma in grey levels", 1, 100),
    "jpeg": ("JPEG quality", 1, 100),
    "deblur": ("", 0, 0),
}
_BLUR_LENGTH = 15


@dataclass(frozen=True)
class Task:
    """A restoration task.

    Attributes:
        kind: sr (super-resolution), denoise, jpeg (deblocking) or deblur.
        value: scale, sigma in grey levels, JPEG quality, or 0.
    """

    kind: str
    value: int = 0

    @classmethod
    def parse(cls, text: str) -> Task:
        """Reads `sr:4`, `denoise:25`, `jpeg:10` or `deblur`."""
        found = re.fullmatch(r"([a-z]+)(?::(\d+))?", text.strip())
        kind = found.group(1) if found else ""
        if found is None or kind not in _KINDS:
            raise NmcompileError(
                f"unknown task {text!r}: expected sr:SCALE, denoise:SIGMA, jpeg:QUALITY or deblur"
            )
        meaning, low, high = _KINDS[kind]
        value = int(found.group(2) or 0)
        if not low <= value <= high:
            wanted = f"{kind}:N, the {meaning}, {low}..{high}" if meaning else f"{kind} alone"
            raise NmcompileError(f"task {text!r}: expected {wanted}")
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if _KINDS[self.kind][0] else self.kind

    @property
    def scale(self) -> int:
        """Size of the restored image / size of the degraded one."""
        return self.value if self.kind == "sr" else 1

    @property
    def border(self) -> int:
        """Pixels left out on each side when comparing (super-resolution: the scale)."""
        return self.value if self.kind == "sr" else 0

    @property
    def on_luma(self) -> bool:
        """Whether PSNR and SSIM are taken on Y alone."""
        return self.kind == "sr"

    def degrade(self, clean: Bytes, index: int) -> Floats:
        """Makes the network's input from a clean image.

        Args:
            clean: H x W x C, uint8.
            index: the image's place in its set; seeds the noise.

        Returns:
            H' x W' x C in 0..1. Noise is neither clipped nor quantised; low-resolution and JPEG
            images are (they would be stored in 8 bits).
        """
        if self.kind == "sr":
            return _unit(imresize(clean, 1 / self.value))
        if self.kind == "denoise":
            noise = np.random.default_rng(index).standard_normal(clean.shape) * self.value / 255
            return (clean / 255 + noise).astype(np.float32)
        if self.kind == "jpeg":
            return _unit(_jpeg(clean, self.value))
        return _unit(_motion_blur(clean, index))


def luma(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """ITU-R BT.601 Y, 16..235, not rounded, of an H x W x 3 image in 0..255 (H x W)."""
    result: NDArray[np.float64] = 16 + rgb.astype(np.float64) @ [65.481, 128.553, 24.966] / 255
    return result


def to_bytes(unit: NDArray[np.floating]) -> Bytes:
    """0..1 -> 0..255, clipped and rounded half up: the 8 bits that an image file would hold."""
    levels: Bytes = np.floor(np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
    return levels


def as_channels(image: Bytes, channels: int) -> Bytes:
    """An H x W x C picture (C = 1..4) with exactly 1 or 3 channels; alpha is dropped."""
    colour = image[..., : (3 if image.shape[2] >= 3 else 1)]
    if colour.shape[2] == channels:
        return colour
    if channels == 3:
        return np.repeat(colour, 3, axis=2)
    grey: Bytes = np.asarray(Image.fromarray(colour).convert("L"))
    return grey[..., None]


def _unit(image: NDArray[np.generic]) -> Floats:
    return image.astype(np.float32) / np.float32(255)


def _jpeg(clean: Bytes, quality: int) -> Bytes:
    squeezed = clean[..., 0] if clean.shape[2] == 1 else clean
    stream = io.BytesIO()
    Image.fromarray(squeezed).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).reshape(clean.shape)


def _motion_blur(clean: Bytes, index: int) -> Bytes:
    """A straight camera motion of _BLUR_LENGTH pixels; its direction goes with `index`."""
    angle = np.pi * (index * 0.381966 % 1)
    steps = np.linspace(-_BLUR_LENGTH / 2, _BLUR_LENGTH / 2, 2 * _BLUR_LENGTH)
    pad = _BLUR_LENGTH
    padded = np.pad(clean.astype(np.float64), ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    total = np.zeros(clean.shape)
    for step in steps:
        y, x = pad + round(step * np.sin(angle)), pad + round(step * np.cos(angle))
        total += padded[y : y + clean.shape[0], x : x + clean.shape[1]]
    return np.floor(total / len(steps) + 0.5).astype(np.uint8)
