"""Samples -> the crops that a network is measured and pruned on, and others to check it with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmcompile.data import Sample, Source
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface
from nmcompile.tasks import Task

CROP = 48
CROPS = 64
_HELD_OUT = 3
_VALIDATION_IMAGES = 8
_VALIDATION_CROP = 160


@dataclass(frozen=True)
class Calibration:
    """What passes measure on.

    Attributes:
        crops: [K, C, h, w] in the network's own range.
        validation: samples whose pixels are in no crop; quality is checked on them.
    """

    crops: Tensor
    validation: tuple[Sample, ...]


def check_task(task: Task, scale: int) -> None:
    """Raises NmcompileError if a network that enlarges `scale` times cannot do the task."""
    if scale not in (1, task.scale):
        raise NmcompileError(
            f"the network enlarges {scale} times, task {task} needs {task.scale}; "
            f"use --task sr:{scale}"
        )


def calibrate(
    source: Source, task: Task, interface: Interface, crops: int = CROPS, seed: int = 0
) -> Calibration:
    """Cuts calibration crops and validation images out of a source.

    Every third image is held out for validation; with fewer than three images, the right third of
    each is. The same seed gives the same crops.
    """
    check_task(task, interface.scale)
    samples = list(source.samples(task, interface.channels, interface.scale))
    training, validation = _split(samples, interface)
    size = _crop_size(interface)
    usable = [s for s in training if s.degraded.shape[0] >= size[0] <= s.degraded.shape[1]]
    usable = [s for s in usable if s.degraded.shape[1] >= size[1]]
    if not usable:
        largest = max((s.degraded.shape[:2] for s in training), default=(0, 0))
        raise NmcompileError(
            f"the calibration images are too small: the largest network input is {largest[0]}x"
            f"{largest[1]}, a crop needs {size[0]}x{size[1]}; give larger images with --data"
        )
    cut = np.stack(list(_cuts(usable, crops, size, seed)))
    tensor = torch.from_numpy(cut).permute(0, 3, 1, 2).contiguous() * interface.value_range
    return Calibration(tensor, tuple(_shrink(s, interface) for s in validation))


def _split(samples: list[Sample], interface: Interface) -> tuple[list[Sample], list[Sample]]:
    if len(samples) >= _HELD_OUT:
        held = samples[::_HELD_OUT][:_VALIDATION_IMAGES]
        names = {s.name for s in held}
        return [s for s in samples if s.name not in names], held
    left, right = [], []
    for sample in samples:
        middle = sample.degraded.shape[1] * 2 // 3
        left.append(_window(sample, interface, slice(None), slice(0, middle)))
        right.append(_window(sample, interface, slice(None), slice(middle, None)))
    return left, right


def _window(sample: Sample, interface: Interface, rows: slice, columns: slice) -> Sample:
    def enlarge(part: slice) -> slice:
        ends = (None if end is None else end * interface.scale for end in (part.start, part.stop))
        return slice(*ends)

    return Sample(
        sample.name,
        sample.degraded[rows, columns],
        sample.clean[enlarge(rows), enlarge(columns)],
    )


def _shrink(sample: Sample, interface: Interface) -> Sample:
    """The middle of a validation image, of a size that the network takes."""
    parts = []
    for axis in (0, 1):
        length = sample.degraded.shape[axis]
        wanted = min(length, _VALIDATION_CROP)
        if interface.fixed_size:
            wanted = interface.fixed_size[axis]
        wanted -= wanted % interface.multiple
        start = (length - wanted) // 2
        parts.append(slice(start, start + wanted))
    return _window(sample, interface, parts[0], parts[1])


def _crop_size(interface: Interface) -> tuple[int, int]:
    if interface.fixed_size:
        return interface.fixed_size
    size = -(-max(CROP, interface.minimum) // interface.multiple) * interface.multiple
    return size, size


def _cuts(
    samples: list[Sample], count: int, size: tuple[int, int], seed: int
) -> Iterable[np.ndarray]:
    generator = np.random.default_rng(seed)
    for index in range(count):
        image = samples[index % len(samples)].degraded
        y, x = (int(generator.integers(image.shape[a] - size[a] + 1)) for a in (0, 1))
        yield image[y : y + size[0], x : x + size[1]]
