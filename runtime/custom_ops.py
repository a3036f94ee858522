"""What an engine with operators of our own needs -> the library that has them, and what runs it."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from nmcompile.errors import NmcompileError
from nmcompile.runtime import native
from nmcompile.runtime.cuda import Gpu, open_device
from nmcompile.runtime.executor import CUDA_PROVIDER, MODEL, OrtExecutor

ABI_VERSION = 1
CUSTOM_OPS = "custom_ops.json"
DENSE_MODEL = "dense_fp16.onnx"  # the original, where the engine runs on a GPU
_LIBRARY = "libnmk_ort.so"
_LEAST_MAJOR = 8
_REBUILD = "build it with `make install`, or with -C cmake.define.ONNXRUNTIME_INCLUDE_DIR=FOLDER"

_LOGGER = logging.getLogger("nmcompile.runtime")


@dataclass(frozen=True)
class CustomOps:
    """What an engine needs besides ONNX Runtime: custom_ops.json.

    Attributes:
        abi: version of the operator nmcompile::NMConv.
        provider: ONNX Runtime's execution provider.
        nodes: NMConv node of model.onnx -> the plan's layer.
        gpu: the one on which it was compiled, "" for the CPU.
        compute_capability: the GPU's, such as 9.0.
    """

    abi: int
    provider: str
    nodes: dict[str, str]
    gpu: str = ""
    compute_capability: str = ""

    def to_json(self) -> str:
        """As text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, folder: Path) -> CustomOps:
        """Reads an engine's; NmcompileError if it is damaged."""
        path = folder / CUSTOM_OPS
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise NmcompileError(f"{path} is damaged ({error}); compile the engine again") from None


def open_custom(folder: Path, threads: int, model: str = MODEL) -> OrtExecutor:
    """What runs an engine with operators of our own, or another model of its folder as it does.

    Raises:
        NmcompileError: the library, the provider or the GPU is not what the engine needs.
    """
    needs = CustomOps.load(folder)
    on_gpu = needs.provider == CUDA_PROVIDER
    if on_gpu:
        _check_gpu(folder, needs)
    library = custom_ops_library(needs.abi, on_gpu)
    return OrtExecutor(folder / model, threads, library, needs.provider)


def check_capability(gpu: Gpu) -> None:
    """NmcompileError for a GPU that our kernels do not run on."""
    if int(gpu.compute_capability.partition(".")[0]) < _LEAST_MAJOR:
        raise NmcompileError(
            f"found {gpu}, our kernels need compute capability {_LEAST_MAJOR}.0 or later; use "
            "such a GPU, or another --target"
        )


def _check_gpu(folder: Path, needs: CustomOps) -> None:
    gpu = open_device().gpu
    check_capability(gpu)
    if gpu.compute_capability != needs.compute_capability:
        raise NmcompileError(
            f"{folder} was compiled for {Gpu(needs.gpu, needs.compute_capability)}, found {gpu}; "
            "compile it again on this machine"
        )
    if gpu.name != needs.gpu:
        _LOGGER.warning(
            "%s was compiled on %s, and runs on %s, where other layers may be faster sparse: "
            "compile it again", folder, needs.gpu, gpu.name,
        )  # fmt: skip


def custom_ops_library(abi: int = ABI_VERSION, cuda: bool = False) -> Path:
    """The library with the operator nmcompile::NMConv, to be given to ONNX Runtime.

        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(str(nmcompile.custom_ops_library()))

    Args:
        abi: the version of the operator that a model was written for.
        cuda: whether it must have the operator for the CUDA provider, too.

    Raises:
        NmcompileError: it was not built, or is of another version.
    """
    path = native.find_library(_LIBRARY, _REBUILD)
    _check(path, abi, cuda)
    return path


def _check(path: Path, abi: int, cuda: bool) -> None:
    try:
        library = ctypes.CDLL(str(path))
        found, has_cuda = library.nmk_ort_abi_version(), library.nmk_ort_has_cuda()
    except (OSError, AttributeError) as error:
        raise NmcompileError(f"{path} does not load ({error}); {_REBUILD}") from None
    if found != abi:
        raise NmcompileError(
            f"{path} has ABI version {found}, {abi} is needed; install the nmcompile that the "
            "engine was compiled with, or compile it again"
        )
    if cuda and not has_cuda:
        raise NmcompileError(
            f"{path} was built without CUDA; build it with `pip install . -C "
            "cmake.define.NMCOMPILE_CUDA=ON`, which needs nvcc 12.5"
        )
