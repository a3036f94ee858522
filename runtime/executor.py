"""A model file + named arrays -> the output array, run by ONNX Runtime or by libnmk on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.program import NativeProgram

MODEL = "model.onnx"
NATIVE = "model.nmk"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
_THREADS_ENTRY = "nmcompile.threads"  # of a session's configuration: native/ort/threads.h
_FATAL_ONLY = 4  # ONNX Runtime's severity: what goes wrong is raised, not printed


class OrtExecutor:
    """One ONNX model, ready to run.

    Attributes:
        session: ONNX Runtime's own.

    Args:
        model_path: the ONNX file; its first output is what a call returns.
        threads: how many threads one run may use; None takes every core this process may use.
        library: with operators of our own, if the model has any.
        provider: ONNX Runtime's execution provider; what it lacks runs on the CPU.

    Raises:
        NmcompileError: onnxruntime or its provider is not installed, or the file is not a model it
            can run.
    """

    def __init__(
        self,
        model_path: Path,
        threads: int | None = None,
        library: Path | None = None,
        provider: str = CPU_PROVIDER,
    ) -> None:
        self._runtime = runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = available_cores() if threads is None else threads
        # Threads that keep spinning after a run would slow whatever the process does next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._failures = _failures(runtime)
        providers = list(dict.fromkeys((provider, CPU_PROVIDER)))
        check_provider(runtime, provider)
        try:
            if library is not None:
                options.add_session_config_entry(_THREADS_ENTRY, str(options.intra_op_num_threads))
                options.register_custom_ops_library(str(library))
            self.session = runtime.InferenceSession(str(model_path), options, providers=providers)
        except self._failures as error:
            raise NmcompileError(
                f"{model_path} cannot be run ({_first_line(error)}); compile the engine again"
            ) from None
        if provider not in self.session.get_providers():
            raise NmcompileError(
                f"{provider} could not start and ONNX Runtime left the network to "
                f"{', '.join(self.session.get_providers())}; install the CUDA and cuDNN that "
                f"onnxruntime-gpu {runtime.__version__} needs"
            )

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs the model once.

        Raises:
            NmcompileError: it needs more memory than there is, or an operator of ours refused.
        """
        output: NDArray[np.float32] = self.run(inputs)[0]
        return output

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None = None,
        only: bool = False,
    ) -> list[NDArray[Any]]:
        """Runs the model once and gives these outputs, or all; errors as in a call.

        Args:
            inputs: by name.
            outputs: names of what is wanted.
            only: whether to run nothing that those do not need.
        """
        options = self._runtime.RunOptions()
        options.only_execute_path_to_fetches = only
        try:
            found: list[NDArray[Any]] = self.session.run(outputs, dict(inputs), options)
        except self._failures as error:
            _, ours, said = str(error).partition("Status Message: layer ")
            if ours:
                raise NmcompileError(f"layer {said.splitlines()[0]}") from None
            if "alloc" not in str(error):
                raise
            raise NmcompileError(
                f"not enough memory for this image ({_first_line(error)}); give a (smaller) --tile"
            ) from None
        return found


class NativeExecutor:
    """One native program, ready to run.

    Args:
        model_path: the packed program; its inputs are in the order in which calls name them.
        threads: how many threads one run may use.

    Raises:
        NmcompileError: damaged, or libnmk is not built.
    """

    def __init__(self, model_path: Path, threads: int) -> None:
        self._program = load_native(model_path)
        self.isa = self._program.isa
        self._threads = threads

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs the program once; NmcompileError if it needs more memory than there is."""
        return self._program.run(list(inputs.values()), self._threads)[0]


def load_native(path: Path) -> NativeProgram:
    """The packed program of a file; NmcompileError if it is damaged or libnmk is not built."""
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise NmcompileError(f"{path}: cannot be read ({error})") from None
    return NativeProgram(packed, str(path))


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def check_threads(threads: int | None) -> int:
    """Gives the number of threads to use; raises NmcompileError if there cannot be so many."""
    if threads is not None and threads < 1:
        raise NmcompileError(f"{threads} threads are impossible; give --threads 1 or more")
    return available_cores() if threads is None else threads


def _onnxruntime() -> Any:
    """Imports ONNX Runtime, late: an engine is what needs it, not `import nmcompile.runtime`."""
    try:
        import onnxruntime
    except ImportError:
        raise NmcompileError(
            "ONNX Runtime runs this engine and is not installed; pip install onnxruntime"
        ) from None
    return onnxruntime


def check_provider(runtime: Any, provider: str) -> None:
    """NmcompileError if this build of ONNX Runtime lacks it."""
    there = runtime.get_available_providers()
    if provider not in there:
        raise NmcompileError(
            f"{provider} is needed, onnxruntime {runtime.__version__} has {', '.join(there)}; "
            "pip install onnxruntime-gpu in its place"
        )


def _failures(runtime: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions; they share no base class of their own."""
    state = runtime.capi.onnxruntime_pybind11_state
    return tuple(
        found
        for found in vars(state).values()
        if isinstance(found, type) and issubclass(found, Exception)
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400]
