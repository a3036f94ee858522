"""The installed libnmk_ort -> its path, for ONNX Runtime, once it is known to fit."""

from __future__ import annotations

import ctypes
from pathlib import Path

from nmcompile.errors import NmcompileError
from nmcompile.runtime import native

ABI_VERSION = 1
THREADS_ENTRY = "nmcompile.threads"  # of a session's configuration: ort/threads.h
_LIBRARY = "libnmk_ort.so"
_REBUILD = "build it with `make install`, or with -C cmake.define.ONNXRUNTIME_INCLUDE_DIR=FOLDER"


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
    for folder in native.__path__:
        path = Path(folder) / _LIBRARY
        if path.is_file():
            _check(path, abi, cuda)
            return path
    part = native.build_info()["components"].get("libnmk_ort", {})
    reason = part.get("reason") or "it is not beside libnmk"
    raise NmcompileError(f"{_LIBRARY} was not found ({reason}); {_REBUILD}")


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
