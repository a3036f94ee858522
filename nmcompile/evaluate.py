"""A network or engine and images -> mean PSNR and SSIM by the standard protocol of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from nmcompile.data import Sample
from nmcompile.engine import Manifest
from nmcompile.metrics import Quality, compare
from nmcompile.program import Program
from nmcompile.runtime import Engine
from nmcompile.tasks import Floats, Task

# An H x W x C picture in 0..1 -> the restored one, not clipped.
Restorer = Callable[[Floats], Floats]


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
    """The network as a function of one picture of any size, padded to what it takes."""
    if isinstance(network, Engine):
        return network.restore
    return lambda image: _run_program(network, image)


def _run_program(program: Program, image: Floats) -> Floats:
    interface = program.interface
    height, width = image.shape[:2]
    below, right = (-height % interface.multiple, -width % interface.multiple)
    padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="reflect")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].contiguous() * interface.value_range
    y: Floats = (program(x)[0].permute(1, 2, 0) / interface.value_range).numpy()
    return y[: height * interface.scale, : width * interface.scale]


def manifest_task(manifest: Manifest) -> Task:
    """The task that an engine was compiled for."""
    return Task.parse(manifest.task)
