"""The name of another runtime + an engine's dense original -> something that runs it once."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata, util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError
from nmcompile.isa import openvino_precision
from nmcompile.runtime.executor import OrtExecutor

Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class Peer:
    """Another runtime that is ready to run the dense original.

    Attributes:
        version: the version of its package.
        precision: the type it computes in.
        run: runs the network once.
        capped: whether it obeys nmcompile.isa.cap_isa.
    """

    version: str
    precision: str
    run: Callable[[], object]
    capped: bool = True


def default_peers() -> list[str]:
    """What is compared with unless the user says otherwise."""
    return ["onnxruntime", *(["openvino"] if util.find_spec("openvino") else [])]


def open_peer(name: str, folder: Path, inputs: Mapping[str, Tensor], threads: int) -> Peer:
    """Loads the dense original of the engine in `folder` into the runtime `name`.

    Raises:
        NmcompileError: no such runtime, not installed, or the engine lacks its file.
    """
    if name not in PEERS:
        raise NmcompileError(f"unknown peer {name!r}; choose from {', '.join(PEERS)}")
    package, advice, loader = PEERS[name]
    if util.find_spec(package) is None:
        raise NmcompileError(f"{name} is not installed; {advice}, or leave it out of --against")
    return loader(folder, inputs, threads)


def _onnxruntime(folder: Path, inputs: Mapping[str, Tensor], threads: int) -> Peer:
    version = importlib.import_module("onnxruntime").__version__
    executor = OrtExecutor(_part(folder, "dense.onnx"), threads)
    return Peer(version, "f32", lambda: executor(inputs), capped=False)


def _openvino(
    folder: Path, inputs: Mapping[str, Tensor], threads: int, precision: str = ""
) -> Peer:
    """OpenVINO; precision "" leaves it its own choice, such as bf16 where it is fast."""
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    model = core.read_model(str(_part(folder, "dense.onnx")))
    model.reshape({name: list(value.shape) for name, value in inputs.items()})
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision or openvino_precision():
        options["INFERENCE_PRECISION_HINT"] = precision or openvino_precision()
    with _same_signal_stack():
        compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    return Peer(
        metadata.version("openvino"),
        compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        lambda: request.infer(dict(inputs), share_inputs=True, share_outputs=True),
    )


@contextlib.contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Gives the thread back the alternate signal stack that it had.

    An OpenVINO model sets one of its own and, when it is freed, the one that it had found. Of two
    models, freed in the order in which they were made, the second so leaves the first one's, which
    is gone by then: the next signal, such as Ctrl-C, would end the process with a fault.
    """
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(64)  # a stack_t has 24 bytes
    libc.sigaltstack(None, before)
    yield
    libc.sigaltstack(before, None)


def _torch(folder: Path, inputs: Mapping[str, Tensor], threads: int) -> Peer:
    import torch

    torch.set_num_threads(threads)
    with warnings.catch_warnings(action="ignore"):  # torch's own, about its own archive
        module = torch.export.load(_part(folder, "dense.pt2")).module()
    tensors = [torch.from_numpy(value) for value in inputs.values()]

    def run() -> object:
        with torch.inference_mode():
            return module(*tensors)

    return Peer(torch.__version__, "f32", run)


def _part(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise NmcompileError(f"{folder} has no {name} to time; compile the engine again")
    return path


# name -> (package to look for, how to get it, loader)
PEERS: dict[str, tuple[str, str, Callable[[Path, Mapping[str, Tensor], int], Peer]]] = {
    "onnxruntime": ("onnxruntime", "pip install onnxruntime", _onnxruntime),
    "openvino": ("openvino", "pip install nmcompile[peers]", _openvino),
    "openvino-f32": (
        "openvino",
        "pip install nmcompile[peers]",
        partial(_openvino, precision="f32"),
    ),
    "torch": ("torch", "pip install torch", _torch),
}
