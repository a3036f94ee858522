"""Layers and patterns -> the native kernels that run them, and what each costs on this machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nmcompile.backends.as_conv import phases, transposed
from nmcompile.backends.native import UnsupportedError, lower
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.backends.regions import Region, find_regions
from nmcompile.context import ConvSpec
from nmcompile.convs import read_conv
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime import native
from nmcompile.runtime.executor import available_cores
from nmcompile.runtime.native.blob import ConvShape, Kind, Operation, Value, conv_data, pack
from nmcompile.runtime.native.program import NativeProgram

_SECONDS = 0.05
_LEAST_RUNS = 5


class CpuTarget:
    """The native backend: element-wise N:M kernels in fp32 that skip the zeros, and dense ones."""

    def __init__(
        self, name: str = "cpu", threads: int | None = None, regions: Sequence[Region] = ()
    ) -> None:
        """Chooses the kernels.

        Args:
            name: as the user wrote it.
            threads: None for all cores.
            regions: of a network that is not native as a whole.
        """
        self.name = name
        self.threads = threads
        self.executor = "regions" if regions else "native"
        self.note = _note(regions) if regions else ""
        self._outside = _weights_outside(regions)
        self._isa = native.isa()
        self._portable = OnnxTarget(name, threads)

    def fitted(self, program: Program) -> CpuTarget | OnnxTarget:
        """This target, in regions if libnmk lacks an operation; ONNX Runtime if no region pays."""
        try:
            lower(program)
        except UnsupportedError as error:
            regions = find_regions(program)
            if any(region.runner == "native" for region in regions):
                return CpuTarget(self.name, self.threads, regions)
            why = f"the native backend has no {error}, so ONNX Runtime runs the network"
            return OnnxTarget(self.name, self.threads, f"{OnnxTarget.note}; {why}")
        return self

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """Type, pattern and ISA; the time depends on the pattern, so it is part of the name."""
        if layer.op == "linear" or layer.name in self._outside:
            return self._portable.kernel(layer, pattern)
        form = "dense" if pattern.is_dense else f"nm-{pattern}"
        phased = "phases-" if layer.op == "conv_transpose2d" else ""
        return f"f32.{phased}{form}.{self._isa}"

    def key(self) -> tuple[str, ...]:
        """Machine, library and threads."""
        version = native.library().nmk_version().decode()
        return (native.cpu_name(), platform.machine(), version, self._isa, str(self.threads))

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Median time of the layer in a program, its activations in the kernels' layout."""
        if kernel.startswith("onnxruntime."):
            return self._portable.latency_ms(spec, kernel)
        program = NativeProgram(_single(spec, _pattern_of(kernel)))
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float32)
        threads = self.threads or available_cores()
        program.run([x], threads)
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < _LEAST_RUNS or time.perf_counter() - started < _SECONDS:
            times.append(sum(program.profile([x], threads)))
        return 1e3 * statistics.median(times)

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Element-wise in steps of an eighth; M = 16 also fits grouped 16-channel layers."""
        return self._portable.default_patterns()


def _note(regions: Sequence[Region]) -> str:
    """Which operations stay outside the native regions."""
    outside = [region for region in regions if region.runner == "onnxruntime"]
    counts: Counter[str] = Counter()
    for region in outside:
        counts.update(region.operations())
    named = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    everything = sum(len(region.nodes) for region in regions)
    return (
        f"ONNX Runtime runs {counts.total()} of {everything} operations, in {len(outside)} of "
        f"{len(regions)} regions: {named}"
    )


def _weights_outside(regions: Sequence[Region]) -> frozenset[str]:
    """The weights that ONNX Runtime's kernels apply."""
    nodes = (node for region in regions if region.runner == "onnxruntime" for node in region.nodes)
    convs = (read_conv(node) for node in nodes)
    return frozenset(str(conv.weight.target) for conv in convs if conv is not None)


def _pattern_of(kernel: str) -> Pattern:
    form = kernel.split(".")[1].removeprefix("phases-")
    return DENSE if form == "dense" else Pattern.parse(form.removeprefix("nm-"))


def _single(spec: ConvSpec, pattern: Pattern) -> bytes:
    """A program of that one call, weights drawn at random and kept as the pattern says."""
    weight = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)
    for start, size, kept in pattern.group_sizes(spec.shape[1]):
        group = weight[:, start : start + size]
        ranks = np.abs(group).argsort(axis=1).argsort(axis=1)
        group[ranks < size - kept] = 0.0
    outputs, inputs = spec.shape[0], spec.shape[1] * spec.groups
    sparse, bias = not pattern.is_dense, np.zeros(outputs, np.float32)
    if spec.op == "conv_transpose2d":
        found = transposed(
            weight, spec.stride, spec.dilation, spec.padding, spec.output_padding, spec.groups
        )
        assert found is not None  # or the layer would be ONNX Runtime's
        params, data = phases(found, bias, sparse)
        wide = len(found.weight)
        steps = [
            Operation(Kind.CONV2D, (0,), 1, params, data=data),
            Operation(Kind.PIXEL_SHUFFLE, (1,), 2, (found.factor,)),
        ]
        values = [Value(0, 0, inputs), Value(1, 0, wide), Value(2, 0, outputs)]
        return pack([inputs, wide, outputs], values, steps, 1, [2])
    kernel = (spec.shape[2], spec.shape[3])
    shape = ConvShape(kernel, spec.stride, spec.dilation, spec.padding, spec.groups)
    data = conv_data(weight, bias, sparse)
    step = Operation(Kind.CONV2D, (0,), 1, shape.params(sparse=sparse), data=data)
    return pack([inputs, outputs], [Value(0, 0, inputs), Value(1, 0, outputs)], [step], 1, [1])
