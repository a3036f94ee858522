"""Samples -> the crops that a network is measured and pruned on, and others to check it with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmcompile.data import Sample, Source
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface
from nmcompile.tasks import Floats, Task

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
    size = _crop_size(interface)
    training, validation = _gather(source, task, interface, crops)
    cut = np.stack(list(_cuts(training, crops, size, seed)))
    tensor = torch.from_numpy(cut).permute(0, 3, 1, 2).contiguous() * interface.value_range
    return Calibration(tensor, tuple(_shrink(s, interface) for s in validation))


def training_images(source: Source, validation: Sequence[Sample]) -> list[int]:
    """Places of the images that a network may be trained on: none is held out for validation."""
    held = {sample.name for sample in validation}
    few = len(source.clean) < _HELD_OUT
    return [index for index, name in enumerate(source.names) if few or name not in held]


def training_part(sample: Sample, source: Source, interface: Interface) -> Sample:
    """What may be trained on of such an image: its left where there are few images."""
    return _parts(sample, 1, len(source.clean), interface)[0][0]


def _gather(
    source: Source, task: Task, interface: Interface, crops: int
) -> tuple[list[Floats], list[Sample]]:
    """Network inputs to cut crops from, and samples to check with; reads no more than it needs."""
    training: list[Floats] = []
    validation: list[Sample] = []
    size, smallest = _crop_size(interface), _smallest(interface)
    largest = (0, 0)
    for index, sample in enumerate(source.samples(task, interface.channels, interface.scale)):
        largest = max(largest, sample.degraded.shape[:2])
        for part, is_held in _parts(sample, index, len(source.clean), interface):
            if is_held and len(validation) < _VALIDATION_IMAGES:
                if _is_at_least(part, smallest):
                    validation.append(part)
            elif _is_at_least(part, size) and len(training) < crops:
                training.append(part.degraded)
        if len(training) >= crops and len(validation) >= _VALIDATION_IMAGES:
            break
    if not training or not validation:
        raise NmcompileError(
            f"the calibration images are too small: the largest network input is {largest[0]}x"
            f"{largest[1]}, a crop needs {size[0]}x{size[1]}; give larger images with --data"
        )
    return training, validation


def _parts(
    sample: Sample, index: int, count: int, interface: Interface
) -> list[tuple[Sample, bool]]:
    """A sample, or its left and right where there are few, and whether each is held out."""
    if count >= _HELD_OUT:
        return [(sample, index % _HELD_OUT == 0)]
    middle = sample.degraded.shape[1] * 2 // 3
    left, right = slice(0, middle), slice(middle, None)
    return [
        (_window(sample, interface, slice(None), left), False),
        (_window(sample, interface, slice(None), right), True),
    ]


def _is_at_least(sample: Sample, size: tuple[int, int]) -> bool:
    return all(n >= least for n, least in zip(sample.degraded.shape[:2], size, strict=True))


def _smallest(interface: Interface) -> tuple[int, int]:
    least = max(interface.minimum, interface.multiple)
    return interface.fixed_size or (least, least)


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
        wanted = min(length, max(_VALIDATION_CROP, interface.minimum))
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


def _cuts(images: list[Floats], count: int, size: tuple[int, int], seed: int) -> Iterable[Floats]:
    generator = np.random.default_rng(seed)
    for index in range(count):
        image = images[index % len(images)]
        y, x = (int(generator.integers(image.shape[a] - size[a] + 1)) for a in (0, 1))
        yield image[y : y + size[0], x : x + size[1]]
