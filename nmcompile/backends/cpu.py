"""Layers and patterns -> the native kernels that run them, and what each costs on this machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nmcompile.backends.as_conv import phases, transposed
from nmcompile.backends.native import Allowed, UnsupportedError, lower
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.backends.region_times import gain_of_regions
from nmcompile.backends.regions import Region, find_regions
from nmcompile.context import ConvSpec, Target
from nmcompile.convs import read_conv
from nmcompile.errors import NmcompileError
from nmcompile.isa import CAPS
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime import native
from nmcompile.runtime.executor import available_cores
from nmcompile.runtime.native.blob import (
    ConvShape,
    Family,
    Isa,
    Kind,
    Operation,
    Precision,
    Value,
    conv_data,
    family_of,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram

# Targets that are limited to a family of kernels: what they produce runs on lesser machines as fast
# as it was timed here, and on others no slower.
FAMILIES = tuple(f"cpu:{isa}" for isa in CAPS)
# Element-wise, and of whole kernels.
FP32_PATTERNS = (
    *(Pattern(1, n, 16) for n in (2, 4, 6, 8, 12)),
    *(Pattern(8, m * n // 8, m, whole=True) for m in (64, 32, 16) for n in (1, 2, 4, 6)),
)
_SECONDS = 0.05
_LEAST_RUNS = 5
# Patterns gain time in native regions only, so that a tie of dense networks goes to them.
_LEAST_GAIN = 0.95


class CpuTarget:
    """The native backend: kernels that skip the zeros, and dense ones.

    Attributes:
        precision: fp32, or bf16 or fp16 where layers whose kernels gain by it may round to it.
        isa: the family of kernels that its programs are loaded for here.
    """

    def __init__(
        self,
        name: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
        regions: Sequence[Region] = (),
    ) -> None:
        """Chooses the kernels.

        Args:
            name: cpu, or one of FAMILIES.
            threads: None for all cores.
            precision: see above.
            regions: of a network that is not native as a whole.

        Raises:
            NmcompileError: the family's kernels cannot be timed on this processor.
        """
        self.name = name
        self.threads = threads
        self.precision = precision
        self.executor = "regions" if regions else "native"
        self.note = _note(regions) if regions else ""
        self._regions = regions
        self._outside = _weights_outside(regions)
        self.isa = native.isa(most_isa(name))
        _check_timable(name, most_isa(name))
        self._portable = OnnxTarget(name, threads)

    def with_precision(self, precision: str) -> CpuTarget:
        """The same with another precision."""
        return CpuTarget(self.name, self.threads, precision, self._regions)

    def fitted(self, program: Program, size: tuple[int, int]) -> CpuTarget | OnnxTarget:
        """This target, in regions if libnmk lacks an operation; ONNX Runtime if they do not pay."""
        try:
            lower(program)
        except UnsupportedError as error:
            why = f"the native backend has no {error}"
            regions = find_regions(program)
            if any(region.runner == "native" for region in regions):
                gain = gain_of_regions(program, allowed_kernels(self), size, self.threads)
                if gain >= _LEAST_GAIN:
                    return CpuTarget(self.name, self.threads, self.precision, regions)
                why += f" and native regions around it would take {1 / gain:.2f} times as long"
            why += ", so ONNX Runtime runs the network"
            return OnnxTarget(self.name, self.threads, f"{OnnxTarget.note}; {why}")
        return self

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """Type, pattern and ISA; the time depends on the pattern, so it is part of the name."""
        if layer.op == "linear" or layer.name in self._outside:
            return self._portable.kernel(layer, pattern)
        form = "dense" if pattern.is_dense else f"nm-{pattern}"
        phased = "phases-" if layer.op == "conv_transpose2d" else ""
        return f"{self.precision}.{phased}{form}.{self.isa}"

    def key(self) -> tuple[str, ...]:
        """Machine, library and threads."""
        machine = (native.cpu_name(), platform.machine())
        return (*machine, native.fingerprint(), self.isa, self.precision, str(self.threads))

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Median time of the layer in a program, its activations in the kernels' layout."""
        if kernel.startswith("onnxruntime."):
            return self._portable.latency_ms(spec, kernel)
        program = NativeProgram(_single(spec, _pattern_of(kernel), allowed_kernels(self)))
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float32)
        threads = self.threads or available_cores()
        program.run([x], threads)
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < _LEAST_RUNS or time.perf_counter() - started < _SECONDS:
            times.append(sum(program.profile([x], threads)))
        return 1e3 * statistics.median(times)

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Element-wise and of whole kernels, which gain in 3x3 layers; all fit 16-channel groups.

        Vector-wise ones besides where there are bf16 kernels that make them pay. Of whole kernels
        a layer takes the largest M that it can.
        """
        shared = (Pattern(64, 32, 64), Pattern(64, 16, 64)) if self.precision == "bf16" else ()
        return (*FP32_PATTERNS, *shared)


def allowed_kernels(target: Target) -> Allowed:
    """The kernels that programs of a target's engines may take."""
    return Allowed(most_isa(target.name), Precision[target.precision.upper()])


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


def _single(spec: ConvSpec, pattern: Pattern, allowed: Allowed) -> bytes:
    """A program of that one call, weights drawn at random and kept as the pattern says."""
    weight = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)
    weight *= pattern.largest(weight)
    outputs, inputs = spec.shape[0], spec.shape[1] * spec.groups
    family = family_of(pattern.v, dense=pattern.is_dense)
    bias = np.zeros(outputs, np.float32)
    if spec.op == "conv_transpose2d":
        found = transposed(
            weight, spec.stride, spec.dilation, spec.padding, spec.output_padding, spec.groups
        )
        assert found is not None  # or the layer would be ONNX Runtime's
        params, data = phases(found, bias, family, allowed.precision)
        factor = found.factor
    else:
        kernel, factor = (spec.shape[2], spec.shape[3]), 1
        shape = ConvShape(kernel, spec.stride, spec.dilation, spec.padding, spec.groups)
        data = conv_data(weight, bias, family is not Family.DENSE)
        params = shape.params(family=family, precision=allowed.precision)
    step = Operation(Kind.CONV2D, (0,), 1, params, data=data, shuffle=factor)
    values = [Value(0, 0, inputs), Value(1, 0, outputs)]
    return pack([inputs, outputs], values, [step], 1, [1], allowed.isa)
