"""A network or engine and images -> mean PSNR and SSIM by the standard protocol of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from nmcompile.data import Sample
from nmcompile.engine import Manifest
from nmcompile.errors import NmcompileError
from nmcompile.metrics import Quality, compare
from nmcompile.program import Interface, Program
from nmcompile.runtime import Engine
from nmcompile.runtime.pixels import mirrored
from nmcompile.tasks import Floats, Task

# An H x W x C picture in 0..1 -> the restored one, not clipped.
Restorer = Callable[[Floats], Floats]
Arrays = NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """Means over images, and each image's own figures."""

    psnr: float
    ssim: float
    images: dict[str, Quality]


def evaluate(network: Program | Engine, samples: Iterable[Sample], task: Task) -> Evaluation:
    """Restores every sample and compares it with its clean image.

    The dense network and the engine are judged alike: whole images, the same rounding.

    Args:
        network: a captured Program or a loaded Engine.
        samples: from nmcompile.data.Source.samples.
        task: decides the protocol (nmcompile.metrics.PROTOCOL).
    """
    images = dict(qualities(restorer(network), samples, task))
    return Evaluation(
        fmean(q.psnr for q in images.values()), fmean(q.ssim for q in images.values()), images
    )


def qualities(
    restore: Restorer, samples: Iterable[Sample], task: Task
) -> Iterator[tuple[str, Quality]]:
    """Each sample's name and quality, as it is done."""
    for sample in samples:
        yield sample.name, compare(task, restore(sample.degraded), sample.clean)


def restorer(network: Program | Engine) -> Restorer:
    """The network as a function of one picture, padded to a size that it takes."""
    if isinstance(network, Engine):
        return network.restore
    return arrays_restorer(network.interface, lambda x: network(torch.from_numpy(x)).numpy())


def arrays_restorer(interface: Interface, run: Callable[[Arrays], Arrays]) -> Restorer:
    """A function of N x C x H x W arrays in the network's range as one of a picture."""
    return lambda image: _run_arrays(interface, run, image)


def _run_arrays(interface: Interface, run: Callable[[Arrays], Arrays], image: Floats) -> Floats:
    height, width = image.shape[:2]
    size = _padded_size(interface, height, width)
    rows, columns = mirrored(height, size[0]), mirrored(width, size[1])
    padded = image[rows[:, None], columns].transpose(2, 0, 1)[None]
    x = np.ascontiguousarray(padded) * np.float32(interface.value_range)
    y: Floats = run(x)[0].transpose(1, 2, 0) / np.float32(interface.value_range)
    return y[: height * interface.scale, : width * interface.scale]


def _padded_size(interface: Interface, height: int, width: int) -> tuple[int, int]:
    """The size at which an image is run; raises NmcompileError where there is none."""
    step, fixed = interface.multiple, interface.fixed_size
    size = fixed or (-(-height // step) * step, -(-width // step) * step)
    if size[0] < height or size[1] < width:
        raise NmcompileError(
            f"the image is {height}x{width}, the network takes {size[0]}x{size[1]} only; compile "
            "it first: an engine runs larger images in tiles"
        )
    if min(size) < interface.minimum:
        raise NmcompileError(
            f"the image is {height}x{width}, the network needs at least {interface.minimum}x"
            f"{interface.minimum} pixels; enlarge the image or add a border"
        )
    return size


def manifest_task(manifest: Manifest) -> Task:
    """The task that an engine was compiled for."""
    return Task.parse(manifest.task)
