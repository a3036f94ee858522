"""The name of a target -> the backend that measures and lowers for it."""

from __future__ import annotations

from nmcompile.backends.cpu import FAMILIES, CpuTarget
from nmcompile.backends.cuda import CudaTarget
from nmcompile.backends.custom_ops import CustomOpsTarget
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.backends.tensorrt import TensorRtTarget
from nmcompile.backends.tensorrt_build import Profile
from nmcompile.errors import NmcompileError

TARGETS = ("cpu", *FAMILIES, "onnx", "onnx:custom-ops", "cuda", "tensorrt")


def make_target(
    name: str, threads: int | None = None, profile: str | None = None, strict: bool = False
) -> CpuTarget | CustomOpsTarget | OnnxTarget | TensorRtTarget:
    """The backend of that name.

    Args:
        name: one of TARGETS.
        threads: for timing; None for all cores.
        profile: of TensorRT, see Profile.parse.
        strict: of TensorRT, whether a pruned layer that runs dense is an error.

    Raises:
        NmcompileError: there is none, it takes no such options, or it cannot be used here.
    """
    if name not in TARGETS:
        raise NmcompileError(f"unknown target {name!r}: expected one of {', '.join(TARGETS)}")
    if name == "tensorrt":
        return TensorRtTarget(name, Profile.parse(profile) if profile else None, strict)
    for option, given in (("--profile", profile), ("--strict", strict)):
        if given:
            raise NmcompileError(f"{option} is about --target tensorrt; leave it out for {name}")
    if name == "cuda":
        return CudaTarget(name)
    if name == "onnx:custom-ops":
        return CustomOpsTarget(name, threads)
    return OnnxTarget(name, threads) if name == "onnx" else CpuTarget(name, threads)
