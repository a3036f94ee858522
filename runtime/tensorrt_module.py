"""An installation -> the module `tensorrt` of a version that will do, its logger, our plugins."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from nmcompile.engine import Built
from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuda import Gpu
from nmcompile.runtime.native.trt_plugin import plugin_library

MAJORS = (10, 11)
_CREATOR = ("NMConv", "1", "nmcompile")  # operator, version, namespace


def find_tensorrt(needed: str = "10.x or 11.x") -> Any:
    """The module `tensorrt`; NmcompileError if it cannot be imported, or is of another major."""
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as error:  # it loads its libraries at once
        raise NmcompileError(
            f"TensorRT {needed} is needed and its Python module cannot be imported ({error}); "
            "install it: pip install tensorrt"
        ) from None
    if major_of(module) not in MAJORS:
        raise NmcompileError(
            f"found TensorRT {module.__version__}, needed is {needed}; install that one"
        )
    return module


def major_of(module: Any) -> int:
    """10 or 11."""
    return int(module.__version__.partition(".")[0])


def version_of(module: Any) -> str:
    """Major and minor of TensorRT, which an engine must be run with: 10.16."""
    return ".".join(module.__version__.split(".")[:2])


def make_logger(module: Any) -> Any:
    """A TensorRT logger that keeps messages in `lines`, details apart, and errors in `errors`."""

    class Log(module.ILogger):  # type: ignore[misc]  # there is no such class before the import
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = module.ILogger.Severity
            if severity in (level.ERROR, level.INTERNAL_ERROR):
                self.errors.append(msg)
            if severity != level.VERBOSE or "(Sparsity)" in msg:
                self.lines.append(msg)

    return Log()


def said(logger: Any) -> str:
    """The first error that TensorRT told, in one line."""
    return " ".join(logger.errors[0].split()) if logger.errors else "TensorRT gives no reason"


def load_plugins(module: Any) -> None:
    """Makes NMConv known to TensorRT, from the library for this major.

    Raises:
        NmcompileError: the library is missing, or of another version or major.
    """
    path, registry = plugin_library(major_of(module)), module.get_plugin_registry()
    if registry.get_creator(*_CREATOR) is None:  # TensorRT refuses to load a library twice
        registry.load_library(str(path))
    if registry.get_creator(*_CREATOR) is None:
        raise NmcompileError(f"{path} gives TensorRT no {_CREATOR[0]}; build it again")


def check_here(path: Path, built: Built, module: Any, gpu: Gpu) -> None:
    """Raises NmcompileError unless TensorRT and GPU are those that an engine was built with."""
    if version_of(module) != built.version:
        raise NmcompileError(
            f"{path} was built by TensorRT {built.version}, found is {version_of(module)}; install "
            f"tensorrt=={built.version}.*, or compile the engine again here"
        )
    wanted = Gpu(built.gpu, built.compute_capability)
    if gpu != wanted:
        raise NmcompileError(
            f"{path} was built for {wanted}, found is {gpu}; compile the engine again on this GPU"
        )
