"""A routed engine's files + windows -> what the head says of them, and the network at any level."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Manifest
from nmcompile.errors import NmcompileError
from nmcompile.runtime.executor import MODEL, NATIVE, OrtExecutor, load_native
from nmcompile.runtime.inputs import filled
from nmcompile.runtime.pixels import Tensor
from nmcompile.runtime.routing import forced

HEAD = "head.nmk"
_SAID, _OFFSETS = ["scores", "difficulty"], "offsets"


class Routed(Protocol):
    """What runs an input-adaptive engine.

    Attributes:
        isa: the family of libnmk's kernels, None where another runtime runs it.
        levels: how many there are.
        threads: how many calls of `at` may run at once, one thread each.
        full_width: columns that it computes at a time, see Area.work.
    """

    isa: str | None
    levels: int
    threads: int
    full_width: int

    def ask(self, windows: Tensor) -> Tensor:
        """N x C x H x W -> N x (K + 1), the head's scores of K levels and the difficulty."""
        ...

    def at(self, inputs: Mapping[str, NDArray[Any]], level: int, threads: int) -> Tensor:
        """The network's output at a level, N x C x H x W, on so many threads."""
        ...


class AtLevel:
    """A routed engine at one level, as an executor.

    Args:
        routed: the engine's.
        level: from 0.
    """

    def __init__(self, routed: Routed, level: int) -> None:
        self.isa = routed.isa
        self._routed, self._level = routed, level

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Tensor:
        """Runs the network at the level, on all threads."""
        return self._routed.at(inputs, self._level, self._routed.threads)


class NativeRouted:
    """Two native programs: the head, and the network with all its levels.

    Args:
        folder: the engine's.
        levels: how many there are.
        threads: how many threads may run.

    Raises:
        NmcompileError: damaged, other numbers of levels, or libnmk is not built.
    """

    def __init__(self, folder: Path, levels: int, threads: int) -> None:
        self._head = load_native(folder / HEAD)
        self._network = load_native(folder / NATIVE)
        if self._network.levels != levels:
            raise NmcompileError(
                f"{folder / NATIVE} has {self._network.levels} levels, the manifest promises "
                f"{levels}; compile the engine again"
            )
        self.isa: str | None = self._network.isa
        self.levels, self.threads = levels, threads
        # Measured on one thread: with 16 lanes, which 64 columns fill, 72 take as long as 128 would
        # in IMDN x4 and DnCNN (1.5 times as long for each pixel as 64 or 128), while the height
        # hardly matters.
        self.full_width = self._network.full_width

    def ask(self, windows: Tensor) -> Tensor:
        """N x C x H x W -> N x (K + 1).

        A thread each for its share of the windows: they are small, and threads that share one wait
        for each other (24 of 64x64 took 12.6 ms so, 3.5 ms apart).
        """
        if self.threads == 1 or len(windows) < self.threads:
            return self._ask(windows, self.threads)
        with ThreadPoolExecutor(self.threads) as pool:
            shares = np.array_split(windows, self.threads)
            return np.concatenate(list(pool.map(self._ask, shares)))

    def _ask(self, windows: Tensor, threads: int = 1) -> Tensor:
        (found,) = self._head.run([windows], threads)
        return found.reshape(len(found), -1)

    def at(self, inputs: Mapping[str, NDArray[Any]], level: int, threads: int) -> Tensor:
        """The network's output at a level; NmcompileError if it needs more memory than there is."""
        return self._network.run(list(inputs.values()), threads, level)[0]


class OrtRouted:
    """One ONNX model whose input `offsets` is added to the scores before the largest is taken.

    ONNX Runtime uses its threads within a run, and the model takes one image.

    Args:
        folder: the engine's.
        manifest: names of its inputs.
        levels: how many there are.
        threads: how many threads one run may use.

    Raises:
        NmcompileError: onnxruntime is not installed, or the file is not a model it can run.
    """

    isa: str | None = None
    threads = full_width = 1

    def __init__(self, folder: Path, manifest: Manifest, levels: int, threads: int) -> None:
        self._session = OrtExecutor(folder / MODEL, threads)
        self._image, self._extras = manifest.input_name, manifest.extra_inputs
        self.levels = levels

    def ask(self, windows: Tensor) -> Tensor:
        """N x C x H x W -> N x (K + 1), one by one; the network itself does not run."""
        # ONNX Runtime wants the network's further inputs too, though nothing reads them.
        shape = (1, *windows.shape[1:])
        given = {extra.name: filled(extra, extra.value, shape) for extra in self._extras}
        found = [
            self._session.run({self._image: window[None], **given}, _SAID, only=True)
            for window in windows
        ]
        return np.concatenate([np.concatenate(said, axis=1) for said in found])

    def at(self, inputs: Mapping[str, NDArray[Any]], level: int, threads: int) -> Tensor:
        """The network's output at a level; NmcompileError if it needs more memory than there is."""
        offsets = forced(level, self.levels).astype(np.float32)
        batch = len(inputs[self._image])
        outputs = [
            self._session({**single(inputs, index, batch), _OFFSETS: offsets})
            for index in range(batch)
        ]
        return np.concatenate(outputs)


def single(inputs: Mapping[str, NDArray[Any]], index: int, batch: int) -> dict[str, NDArray[Any]]:
    """One image's inputs of a batch's."""
    return {
        name: value[index : index + 1] if len(value) == batch else value
        for name, value in inputs.items()
    }


def open_routed(folder: Path, manifest: Manifest, levels: int, threads: int) -> Routed:
    """What runs a routed engine; NmcompileError if it is damaged or nothing here can."""
    if manifest.executor == "native":
        return NativeRouted(folder, levels, threads)
    if manifest.executor == "onnxruntime":
        return OrtRouted(folder, manifest, levels, threads)
    raise NmcompileError(
        f"{folder} has routing and the executor {manifest.executor!r}; this nmcompile routes in "
        "native and onnxruntime engines: compile it again, or update nmcompile"
    )
