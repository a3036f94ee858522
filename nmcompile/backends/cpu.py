"""Layers and patterns -> the native kernels that run them, and what each costs on this machine."""

from __future__ import annotations

import platform
import statistics
import time

import numpy as np

from nmcompile.backends.native import UnsupportedError, lower
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.context import ConvSpec
from nmcompile.errors import NmcompileError
from nmcompile.isa import CAPS
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime import native
from nmcompile.runtime.executor import available_cores
from nmcompile.runtime.native.blob import ConvShape, Isa, Kind, Operation, Value, conv_data, pack
from nmcompile.runtime.native.program import NativeProgram

# Targets that are limited to a family of kernels: what they produce runs on lesser machines as fast
# as it was timed here, and on others no slower.
FAMILIES = ("cpu:portable", "cpu:avx2", "cpu:avx512")
_SECONDS = 0.05
_LEAST_RUNS = 5


class CpuTarget:
    """The native backend: element-wise N:M kernels in fp32 that skip the zeros, and dense ones."""

    executor = "native"
    note = ""

    def __init__(self, name: str = "cpu", threads: int | None = None) -> None:
        """A target.

        Args:
            name: cpu, or one of FAMILIES.
            threads: None for all cores.

        Raises:
            NmcompileError: the family's kernels cannot be timed on this processor.
        """
        self.name = name
        self.threads = threads
        self._most = most_isa(name)
        self._isa = min(Isa[native.isa().upper()], self._most or Isa.AVX512).name.lower()
        _check_timable(name, self._most)
        self._portable = OnnxTarget(name, threads)

    def fitted(self, program: Program) -> CpuTarget | OnnxTarget:
        """This target, or ONNX Runtime for a network with an operation that libnmk lacks."""
        try:
            lower(program)
        except UnsupportedError as error:
            why = f"the native backend has no {error}, so ONNX Runtime runs the network"
            return OnnxTarget(self.name, self.threads, f"{OnnxTarget.note}; {why}")
        return self

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """Type, pattern and ISA; the time depends on the pattern, so it is part of the name."""
        if layer.op != "conv2d":
            return self._portable.kernel(layer, pattern)
        form = "dense" if pattern.is_dense else f"nm-{pattern}"
        return f"f32.{form}.{self._isa}"

    def key(self) -> tuple[str, ...]:
        """Machine, library and threads."""
        version = native.library().nmk_version().decode()
        return (native.cpu_name(), platform.machine(), version, self._isa, str(self.threads))

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Median time of the layer in a program, its activations in the kernels' layout."""
        if spec.op != "conv2d":
            return self._portable.latency_ms(spec, kernel)
        program = NativeProgram(_single(spec, _pattern_of(kernel), self._most))
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float32)
        threads = self.threads or available_cores()
        program.run([x], threads)
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < _LEAST_RUNS or time.perf_counter() - started < _SECONDS:
            times.append(program.profile([x], threads)[0])
        return 1e3 * statistics.median(times)

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Element-wise in steps of an eighth; M = 16 also fits grouped 16-channel layers."""
        return self._portable.default_patterns()


def most_isa(target: str) -> Isa:
    """The most modern kernels that an engine for that target may use."""
    family = target.partition(":")[2]
    return Isa[family.upper()] if family else Isa.BEST


def _check_timable(name: str, most: Isa) -> None:
    family = most.name.lower()
    if most and not CAPS[family].needed <= set(native.cpu_features()):
        raise NmcompileError(
            f"--target {name}: this processor lacks {family}, so that its kernels cannot be timed "
            "here; give --target cpu, or compile where there is one"
        )


def _pattern_of(kernel: str) -> Pattern:
    form = kernel.split(".")[1]
    return DENSE if form == "dense" else Pattern.parse(form.removeprefix("nm-"))


def _single(spec: ConvSpec, pattern: Pattern, isa: Isa) -> bytes:
    """A program of that one call, weights drawn at random and kept as the pattern says."""
    weight = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)
    for start, size, kept in pattern.group_sizes(spec.shape[1]):
        group = weight[:, start : start + size]
        ranks = np.abs(group).argsort(axis=1).argsort(axis=1)
        group[ranks < size - kept] = 0.0
    outputs, inputs = spec.shape[0], spec.shape[1] * spec.groups
    sparse = not pattern.is_dense
    kernel = (spec.shape[2], spec.shape[3])
    shape = ConvShape(kernel, spec.stride, spec.dilation, spec.padding, spec.groups)
    data = conv_data(weight, np.zeros(outputs, np.float32), sparse)
    step = Operation(Kind.CONV2D, (0,), 1, shape.params(sparse=sparse), data=data)
    values = [Value(0, 0, inputs), Value(1, 0, outputs)]
    return pack([inputs, outputs], values, [step], 1, [1], isa)
