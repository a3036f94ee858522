"""A Program in regions, and in ONNX Runtime alone -> how much the regions gain on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from nmcompile.backends.native import Allowed
from nmcompile.backends.onnx import export_onnx
from nmcompile.backends.region_parts import write_regions
from nmcompile.program import Program
from nmcompile.runtime.executor import MODEL, OrtExecutor, available_cores
from nmcompile.runtime.regions import RegionExecutor
from nmcompile.timing import interleaved


def gain_of_regions(
    program: Program, allowed: Allowed, size: tuple[int, int], threads: int | None
) -> float:
    """Time in ONNX Runtime over time in regions, the median of interleaved rounds.

    Args:
        program: the network, some of whose operations libnmk lacks.
        allowed: the kernels that native regions may take.
        size: (H, W) of the input.
        threads: of both; None for all cores.

    Raises:
        NmcompileError: an operation has no ONNX form.
    """
    interface = program.interface
    shape = (1, interface.channels, *size)
    image = np.random.default_rng(0).random(shape, np.float32) * np.float32(interface.value_range)
    names = [interface.input_name, *(extra.name for extra in interface.extra_inputs)]
    values = [value.numpy() for value in interface.arguments(torch.from_numpy(image))]
    inputs = dict(zip(names, values, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        write_regions(Path(folder), program, allowed)
        export_onnx(program, Path(folder) / MODEL)
        whole = OrtExecutor(Path(folder) / MODEL, threads)
        regions = RegionExecutor(Path(folder), threads or available_cores())
        return interleaved(lambda: whole(inputs), lambda: regions(inputs))[2]
