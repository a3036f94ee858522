"""Image files -> batches of degraded and clean patches, each a function of its number alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nmcompile.calibration import training_images, training_part
from nmcompile.data import Sample, Source
from nmcompile.errors import NmcompileError
from nmcompile.images import image_size
from nmcompile.program import Interface
from nmcompile.tasks import Floats, Task, luma

_CACHE_BYTES = 1 << 30

Pair = tuple[Tensor, Tensor]


class Patches(Dataset[Pair]):
    """Patch number k of an endless sequence: the same for the same seed and k, in any process.

    Noise is drawn anew for every patch; other degradations are made once for a whole image, so
    that a patch has the borders, blocks and 8-bit steps that an image would have there. Images are
    read when they are needed and kept while they fit into 1 GiB.

    Attributes:
        too_small: images that no patch fits into, which are left out.
    """

    def __init__(
        self,
        source: Source,
        validation: Sequence[Sample],
        task: Task,
        interface: Interface,
        patch: int,
        seed: int = 0,
    ) -> None:
        """Args: validation: samples whose images are not trained on; patch: input pixels."""
        self._source, self._task, self._interface, self._seed = source, task, interface, seed
        self._size = _patch_size(interface, patch)
        images = training_images(source, validation)
        fits = {index: self._fits(index) for index in images}
        self._images = [index for index in images if fits[index]]
        self.too_small: list[Path] = [source.clean[i] for i in images if not fits[i]]
        if not self._images:
            raise NmcompileError(
                f"no training image is as large as a patch, {self._size[0]}x{self._size[1]} at the "
                "network's input; give larger images with --data or a smaller --patch"
            )
        self._kept: OrderedDict[int, Sample] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, number: int) -> Pair:
        """(degraded [C, h, w], clean [C, sh, sw]), both in the network's own range."""
        generator = np.random.default_rng((self._seed, number))
        index = self._image(generator)
        sample, scale = self._sample(index), self._interface.scale
        y, x = (
            int(generator.integers(whole - part + 1))
            for whole, part in zip(sample.degraded.shape[:2], self._size, strict=True)
        )
        height, width = self._size
        low = sample.degraded[y : y + height, x : x + width]
        clean = sample.clean[y * scale : (y + height) * scale, x * scale : (x + width) * scale]
        if self._task.kind == "denoise" and not self._source.degraded:
            low = self._task.degrade(clean, int(generator.integers(1 << 63)))
        target = clean.astype(np.float32) / np.float32(255)
        if clean.shape[2] > self._interface.channels:
            target = (np.floor(luma(clean) + 0.5)[..., None] / 255).astype(np.float32)
        turn = tuple(bool(flag) for flag in generator.integers(2, size=3))
        return self._tensor(low, turn), self._tensor(target, turn)

    def image_of(self, number: int) -> int:
        """The number of the image that a patch is of."""
        return self._image(np.random.default_rng((self._seed, number)))

    def _image(self, generator: np.random.Generator) -> int:
        return self._images[int(generator.integers(len(self._images)))]

    def _fits(self, index: int) -> bool:
        """Whether a patch fits into the part of that image that may be trained on."""
        interface, task = self._interface, self._task
        if self._source.degraded:
            grown = task.scale // interface.scale  # an input enlarged before the network
            height, width = (n * grown for n in image_size(self._source.degraded[index]))
        else:
            height, width = (
                n // task.scale * task.scale // interface.scale
                for n in image_size(self._source.clean[index])
            )
        part = training_part(_blank(height, width, interface.scale), self._source, interface)
        return all(n >= p for n, p in zip(part.degraded.shape[:2], self._size, strict=True))

    def _sample(self, index: int) -> Sample:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        interface = self._interface
        whole = self._source.sample(index, self._task, interface.channels, interface.scale)
        sample = training_part(whole, self._source, interface)
        self._kept[index] = sample
        self._bytes += _bytes(sample)
        while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        return sample

    def _tensor(self, image: Floats, turn: tuple[bool, ...]) -> Tensor:
        if turn[0]:
            image = image[::-1]
        if turn[1]:
            image = image[:, ::-1]
        if turn[2] and self._size[0] == self._size[1]:
            image = image.transpose(1, 0, 2)
        planes: NDArray[np.float32] = np.ascontiguousarray(image.transpose(2, 0, 1))
        return torch.from_numpy(planes * np.float32(self._interface.value_range))


def batches(
    data: Dataset[Pair], batch: int, first: int, rank: int = 0, world: int = 1
) -> Iterator[list[Tensor]]:
    """Endless (degraded, clean) batches from step `first` on: one process's share of each.

    Args:
        data: patches by number; step s takes those from s * batch on.
        batch: patches a step over all processes.
        first: the first step.
        rank: which share.
        world: how many shares; divides `batch`.
    """
    sampler = _Steps(batch, first, rank, world)
    loader: DataLoader[Pair] = DataLoader(data, batch_sampler=sampler)
    return iter(loader)


class _Steps(Sampler[list[int]]):
    """The numbers of the patches of each step that fall to one process."""

    def __init__(self, batch: int, first: int, rank: int, world: int) -> None:
        self._batch, self._first, self._rank, self._share = batch, first, rank, batch // world

    def __iter__(self) -> Iterator[list[int]]:
        step = self._first
        while True:
            start = step * self._batch + self._rank * self._share
            yield list(range(start, start + self._share))
            step += 1


def _patch_size(interface: Interface, patch: int) -> tuple[int, int]:
    if interface.fixed_size:
        return interface.fixed_size
    side = -(-max(patch, interface.minimum) // interface.multiple) * interface.multiple
    return side, side


def _blank(height: int, width: int, scale: int) -> Sample:
    """A sample of that size which takes no memory."""
    clean = np.broadcast_to(np.uint8(0), (height * scale, width * scale, 1))
    return Sample("", np.broadcast_to(np.float32(0), (height, width, 1)), clean)


def _bytes(sample: Sample) -> int:
    return sample.degraded.nbytes + sample.clean.nbytes
