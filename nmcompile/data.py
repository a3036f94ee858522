"""Image folders -> samples: a name, the network's input, and the clean image it is judged by."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nmcompile.errors import NmcompileError
from nmcompile.images import image_size, list_images, read_image
from nmcompile.resize import imresize
from nmcompile.tasks import Bytes, Floats, Task, as_channels, luma

# Clean images may be a little larger than scale x degraded; they are cut at the bottom and right.
_MARGIN = 4
_FALLBACK = ("astronaut", "chelsea", "rocket", "motorcycle_left", "coffee", "camera")


@dataclass(frozen=True)
class Sample:
    """One image pair.

    Attributes:
        name: file name without its ending (with it, where several share the name without).
        degraded: H x W x C in 0..1, C = the network's channels.
        clean: sH x sW x C', uint8; C' = 3 where a one-channel network is judged on luma.
    """

    name: str
    degraded: Floats
    clean: Bytes


@dataclass(frozen=True)
class Source:
    """Where samples come from: a folder of clean images, or one of pairs.

    Attributes:
        clean: paths of the clean images.
        degraded: paths of the degraded ones, same order; empty if they are made by the task.
    """

    clean: tuple[Path, ...]
    degraded: tuple[Path, ...] = ()

    @classmethod
    def folder(cls, path: Path) -> Source:
        """All images of a folder; the task degrades them."""
        return cls(tuple(list_images(path)))

    @classmethod
    def pairs(cls, degraded: Path, clean: Path) -> Source:
        """Two folders whose images pair by name (`bird.png` with `bird.png` or `birdx4.png`)."""
        low, high = _by_stem(degraded), _by_stem(clean)
        if set(low) != set(high):
            odd = sorted(set(low) ^ set(high))[0]
            where, other = (degraded, clean) if odd in low else (clean, degraded)
            raise NmcompileError(
                f"{where} has an image {odd!r} that {other} lacks; pairs need equal names"
            )
        names = sorted(high)
        return cls(tuple(high[n] for n in names), tuple(low[n] for n in names))

    @classmethod
    def fallback(cls) -> Source:
        """The natural photographs inside scikit-image, for when the user gives none."""
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        found = [p for name in _FALLBACK for p in sorted(folder.glob(f"{name}.*"))]
        if not found:
            raise NmcompileError("scikit-image here ships no images; give some with --data DIR")
        return cls(tuple(found))

    def samples(self, task: Task, channels: int, scale: int) -> Iterator[Sample]:
        """Yields the samples for a network of that many channels and that scale."""
        for index in range(len(self.clean)):
            yield self.sample(index, task, channels, scale)

    def sample(self, index: int, task: Task, channels: int, scale: int) -> Sample:
        """One sample by its place; equal to the one that `samples` yields there."""
        path = self.clean[index]
        clean = read_image(path)
        if clean.dtype != np.uint8:
            raise NmcompileError(f"{path} has 16 bits; quality is judged on 8-bit images")
        if self.degraded:
            low = _given(self.degraded[index], task, channels, scale)
        else:
            clean, low = _made(path, clean, task, index, channels, scale)
        return _sample(self.names[index], path, clean, low, task, channels, scale)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The samples' names, in order."""
        stems = Counter(path.stem for path in self.clean)
        return tuple(path.stem if stems[path.stem] == 1 else path.name for path in self.clean)

    def without(self, folder: Path) -> tuple[Source, list[Path]]:
        """The source less the clean images whose pixels a folder holds too, and those left out."""
        others = [(image_size(path), path) for path in list_images(folder)]
        sizes = {size for size, _ in others}
        suspects = [path for path in self.clean if image_size(path) in sizes]
        digests = {_digest(path) for _, path in others} if suspects else set()
        left_out = [path for path in suspects if _digest(path) in digests]
        kept = [index for index, path in enumerate(self.clean) if path not in left_out]
        if not kept:
            raise NmcompileError(f"{folder} holds every image of the data; give others to train on")
        degraded = tuple(self.degraded[index] for index in kept) if self.degraded else ()
        return Source(tuple(self.clean[index] for index in kept), degraded), left_out


def _digest(path: Path) -> bytes:
    """Equal for equal pixels, whatever the file's format."""
    pixels = read_image(path)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by what pairs them; raises NmcompileError where two have the same."""
    found: dict[str, Path] = {}
    for path in list_images(folder):
        other = found.setdefault(_stem(path), path)
        if other is not path:
            raise NmcompileError(
                f"{folder} has {other.name} and {path.name}, which pair with the same image; "
                "remove one"
            )
    return found


def _stem(path: Path) -> str:
    return re.sub(r"[_-]?(x\d|LR|HR|SRF_\d)$", "", path.stem, flags=re.IGNORECASE)


def _made(
    path: Path, clean: Bytes, task: Task, index: int, channels: int, scale: int
) -> tuple[Bytes, Floats]:
    colour = as_channels(clean, 3 if task.on_luma else channels)
    height, width = (n - n % task.scale for n in colour.shape[:2])
    if min(height, width) == 0:
        raise NmcompileError(
            f"{path} is {clean.shape[0]}x{clean.shape[1]}, too small for --task {task}; remove it"
        )
    colour = colour[:height, :width]
    return colour, _network_input(task.degrade(colour, index), task, channels, scale)


def _given(path: Path, task: Task, channels: int, scale: int) -> Floats:
    image = read_image(path)
    wanted = 3 if task.on_luma else channels
    if image.dtype == np.uint8:
        low = as_channels(image, wanted).astype(np.float32) / np.float32(255)
    else:
        low = _deep_channels(image.astype(np.float32) / np.float32(65535), wanted)
    return _network_input(low, task, channels, scale)


def _deep_channels(image: Floats, channels: int) -> Floats:
    """What as_channels does to 8 bits, not rounded."""
    colour = image[..., : (3 if image.shape[2] >= 3 else 1)]
    if colour.shape[2] > channels:
        grey: Floats = colour @ np.array([[0.299], [0.587], [0.114]], np.float32)
        return grey
    return np.repeat(colour, channels // colour.shape[2], axis=2)


def _network_input(low: Floats, task: Task, channels: int, scale: int) -> Floats:
    """One-channel super-resolution sees luma; a network that keeps the size, an enlarged image."""
    if task.on_luma and channels == 1:
        low = (luma(low * 255)[..., None] / 255).astype(np.float32)
    if scale == 1 and task.scale > 1:
        return imresize(low, task.scale, round_result=False).astype(np.float32)
    return low


def _sample(
    name: str, path: Path, clean: Bytes, low: Floats, task: Task, channels: int, scale: int
) -> Sample:
    clean = as_channels(clean, 3 if task.on_luma else channels)
    height, width = low.shape[0] * scale, low.shape[1] * scale
    beyond = (clean.shape[0] - height, clean.shape[1] - width)
    if min(beyond) < 0 or max(beyond) > _MARGIN * task.scale:
        raise NmcompileError(
            f"{path} is {clean.shape[0]}x{clean.shape[1]}; its degraded image and the network's "
            f"scale {scale} make {height}x{width}: are the pairs for --task {task}?"
        )
    return Sample(name, low, clean[:height, :width])
