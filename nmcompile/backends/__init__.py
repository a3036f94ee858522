"""The name of a target -> the backend that measures and lowers for it."""

from __future__ import annotations

from nmcompile.backends.cpu import CpuTarget
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.errors import NmcompileError

TARGETS = ("cpu", "onnx")


def make_target(name: str, threads: int | None = None) -> CpuTarget | OnnxTarget:
    """The backend of that name; raises NmcompileError if there is none."""
    if name not in TARGETS:
        raise NmcompileError(f"unknown target {name!r}: expected {' or '.join(TARGETS)}")
    return CpuTarget(name, threads) if name == "cpu" else OnnxTarget(name, threads)
