"""A TensorRT engine + named arrays -> the output array, on the GPU that it was built for."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Built, Manifest
from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuda import Memory, open_device
from nmcompile.runtime.tensorrt_module import (
    check_here,
    find_tensorrt,
    load_plugins,
    make_logger,
    said,
)

PLAN = "engine.plan"


class Session:
    """One deserialised engine with one context, and memory for its inputs and its output.

    Inputs and the output are fp32, as nmcompile builds engines. Not for several threads at once.
    """

    def __init__(self, module: Any, plan: bytes, name: str) -> None:
        """Loads an engine.

        Args:
            module: TensorRT; plugins that the engine needs are loaded.
            plan: the serialised engine.
            name: what errors call it.

        Raises:
            NmcompileError: no GPU, a damaged engine, or too little memory.
        """
        self.name = name
        self._module, self._device = module, open_device()
        self._logger = make_logger(module)
        self._device.enter(name)
        # The runtime must outlive its engine, and the engine its context.
        self._runtime = module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise NmcompileError(
                f"{name} does not load ({said(self._logger)}); compile the engine again"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise NmcompileError(
                f"{name}: not enough GPU memory ({said(self._logger)}); compile it with a smaller "
                "--profile"
            )
        engine, output = self._engine, module.TensorIOMode.OUTPUT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._output = next(name for name in names if engine.get_tensor_mode(name) == output)
        self._buffers: dict[str, Memory] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs the engine once; NmcompileError with TensorRT's or CUDA's own words."""
        self._device.enter(self.name)
        held = [np.ascontiguousarray(values, np.float32) for values in inputs.values()]
        for name, values in zip(inputs, held, strict=True):
            if not self._context.set_input_shape(name, values.shape):
                raise NmcompileError(
                    f"{self.name}: input {name} cannot be {values.shape} ({said(self._logger)})"
                )
            self._device.copy_in(self._memory(name, values.nbytes), values, self.name)
        shape = tuple(self._context.get_tensor_shape(self._output))
        memory = self._memory(self._output, 4 * math.prod(shape))
        if not self._context.execute_async_v3(self._device.stream):
            raise NmcompileError(f"{self.name}: TensorRT cannot run it ({said(self._logger)})")
        return self._device.copy_out(memory, shape, self.name)

    def profile(self, inputs: Mapping[str, NDArray[Any]], runs: int) -> dict[str, list[float]]:
        """Layer -> its milliseconds in each of some runs, by TensorRT's own profiler."""
        times: dict[str, list[float]] = {}
        base: Any = self._module.IProfiler

        class Profiler(base):  # type: ignore[misc]  # there is no such class before the import
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        self.run(inputs)
        profiler = Profiler()
        self._context.profiler = profiler
        for _ in range(runs):
            self.run(inputs)
        return times

    def describe(self) -> str:
        """The engine inspector's JSON, for the shapes of the last run."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        text: str = inspector.get_engine_information(self._module.LayerInformationFormat.JSON)
        return text

    def _memory(self, name: str, size: int) -> Memory:
        """Memory for an input or output; the same again while it is large enough."""
        found = self._buffers.get(name)
        if found is None or found.size < size:
            self._buffers.pop(name, None)
            found = self._buffers[name] = self._device.allocate(size, f"{self.name}: {name}")
        self._context.set_tensor_address(name, found.address)
        return found


class TensorRtExecutor:
    """The engine of a folder, ready to run; calls from several threads wait for each other."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Loads `path`, which was built with what the manifest says.

        Raises:
            NmcompileError: TensorRT, GPU or plugin library are not those that it was built with,
                or it is damaged.
        """
        if manifest.built is None:
            raise NmcompileError(f"{path}: the manifest lacks 'built'; compile the engine again")
        self._built, self._image = manifest.built, manifest.input_name
        module = find_tensorrt(f"{manifest.built.version}.x")
        check_here(path, manifest.built, module, open_device().gpu)
        if manifest.built.plugins:
            load_plugins(module)
        try:
            self.session = Session(module, path.read_bytes(), str(path))
        except OSError as error:
            raise NmcompileError(f"{path}: cannot be read ({error})") from None
        batched = (extra.name for extra in manifest.extra_inputs if 0 in extra.shape[:1])
        self._batched = {self._image, *batched}
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs the network; a batch larger than the profile's in several parts.

        Raises:
            NmcompileError: a shape outside of the profile, or what Session.run raises.
        """
        image = inputs[self._image]
        check_profile(self._built, image.shape)
        most = self._built.profile[2][0]
        parts = []
        with self._lock:
            for start in range(0, len(image), most):
                span = slice(start, start + most)
                part = {k: v[span] if k in self._batched else v for k, v in inputs.items()}
                parts.append(self.session.run(part))
        return np.concatenate(parts)


def check_profile(built: Built, shape: tuple[int, ...]) -> None:
    """Raises NmcompileError for an image batch [N, C, H, W] that the profile does not take.

    N may be anything from 1: larger batches run in parts.
    """
    least, _, most = built.profile
    sizes = (shape[0], shape[2], shape[3])
    fits = all(a <= x <= b for a, x, b in zip(least[1:], sizes[1:], most[1:], strict=True))
    if not fits or not sizes[0]:
        spans = " x ".join(f"{a}..{b}" for a, b in zip(least, most, strict=True))
        raise NmcompileError(
            f"the input is {' x '.join(map(str, sizes))} (N x H x W), the engine's profile takes "
            f"{spans}; pad or tile the image (--tile), or compile with another --profile"
        )
