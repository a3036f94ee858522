"""The name of a target -> the backend that measures and lowers for it."""

from __future__ import annotations

from nmcompile.backends.cpu import FAMILIES, CpuTarget
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.errors import NmcompileError

TARGETS = ("cpu", *FAMILIES, "onnx")


def make_target(name: str, threads: int | None = None) -> CpuTarget | OnnxTarget:
    """The backend of that name; raises NmcompileError if there is none."""
    if name not in TARGETS:
        raise NmcompileError(f"unknown target {name!r}: expected one of {', '.join(TARGETS)}")
    return OnnxTarget(name, threads) if name == "onnx" else CpuTarget(name, threads)
