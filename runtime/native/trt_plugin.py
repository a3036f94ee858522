"""A major version of TensorRT -> the library with its plugin, which is of that version and ours."""

from __future__ import annotations

import ctypes
from pathlib import Path

import nmcompile
from nmcompile.errors import NmcompileError
from nmcompile.runtime import native

_BUILD = (
    "build it with `pip install . -C cmake.define.NMCOMPILE_CUDA=ON "
    "-C cmake.define.TENSORRT_INCLUDE_DIR=<folder of NvInferRuntime.h>`"
)


def plugin_library(major: int) -> Path:
    """The library for IPluginRegistry::loadLibrary; loading it alone registers nothing.

    Raises:
        NmcompileError: it was not built, does not load, or is of another version.
    """
    name = f"libnmk_trt{major}.so"
    for folder in native.__path__:
        path = Path(folder) / name
        if path.is_file():
            return checked(path, major)
    parts = native.build_info()["components"]
    reasons = [
        f"{part}: {found['reason'] or found['state']}"
        for part, found in parts.items()
        if part.startswith("libnmk_trt")
    ]
    raise NmcompileError(
        f"{name}, the plugin for TensorRT {major}, was not found ({', '.join(reasons)}); {_BUILD}"
    )


def checked(path: Path, major: int) -> Path:
    """The same path, if the library there is for that TensorRT and of this nmcompile.

    Raises:
        NmcompileError: it does not load, or is of another version.
    """
    try:
        library = ctypes.CDLL(str(path))
        library.nmk_trt_version.restype = ctypes.c_char_p
        found, version = library.nmk_trt_tensorrt_major(), library.nmk_trt_version().decode()
    except (OSError, AttributeError) as error:
        raise NmcompileError(f"{path} does not load ({error}); {_BUILD}") from None
    if found != major:
        raise NmcompileError(
            f"{path} is the plugin for TensorRT {found}, TensorRT {major} is needed; {_BUILD}"
        )
    if version != nmcompile.__version__:
        raise NmcompileError(
            f"{path} is of nmcompile {version}, this is {nmcompile.__version__}; {_BUILD}"
        )
    return path
