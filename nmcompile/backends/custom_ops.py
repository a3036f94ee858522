"""Layers and patterns -> the faster of ONNX Runtime's kernel and our operator in it, timed here."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from nmcompile.backends.cpu import FP32_PATTERNS
from nmcompile.backends.nmconv_onnx import obstacles, write_nmconv
from nmcompile.backends.nmconv_pack import Call, single
from nmcompile.backends.onnx import median_ms
from nmcompile.backends.onnx import single as plain
from nmcompile.context import ConvSpec
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime import native
from nmcompile.runtime.custom_ops import (
    ABI_VERSION,
    CUSTOM_OPS,
    CustomOps,
    custom_ops_library,
)
from nmcompile.runtime.executor import CPU_PROVIDER, MODEL, OrtExecutor
from nmcompile.runtime.native.blob import ConvShape
from nmcompile.runtime.native.cuda_pack import Half

OURS = "nmconv"


class CustomOpsTarget:
    """ONNX Runtime on the CPU in fp32, with the operator nmcompile::NMConv where that is faster.

    Attributes:
        half: the 16-bit type that engines compute in; None for fp32.
        layout: of the images that our operator reads and writes.
        provider: ONNX Runtime's execution provider.
        outside: layers that it cannot run.
    """

    executor = "onnxruntime-nmconv"
    precision = "fp32"
    format = "cpu"
    half: Half | None = None
    layout = "NCHW"
    provider = CPU_PROVIDER

    def __init__(
        self,
        name: str = "onnx:custom-ops",
        threads: int | None = None,
        outside: Collection[str] = (),
    ) -> None:
        """Args: name: as the user wrote it; threads: None for all cores; outside: see above.

        Raises:
            NmcompileError: the library with the operator was not built.
        """
        self._begin(name, threads, outside, custom_ops_library())

    def _begin(
        self, name: str, threads: int | None, outside: Collection[str], library: Path
    ) -> None:
        self.name, self.threads, self.outside, self.note = name, threads, outside, ""
        self.library = library
        self._times: dict[tuple[ConvSpec, str], float] = {}

    def fitted(self, program: Program, size: tuple[int, int]) -> CustomOpsTarget:
        """This target, knowing which of the network's layers our operator cannot run."""
        return CustomOpsTarget(self.name, self.threads, frozenset(obstacles(program, self.format)))

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """ONNX Runtime's where ours cannot be, else the name under which both are weighed."""
        if layer.op != "conv2d" or layer.name in self.outside:
            return f"onnxruntime.{layer.op}.dense"
        return f"{OURS}.{self.precision}.{'dense' if pattern.is_dense else f'nm-{pattern}'}"

    def key(self) -> tuple[str, ...]:
        """Machine, versions, kernels and threads."""
        return (
            "custom-ops", native.cpu_name(), platform.machine(), onnxruntime.__version__,
            native.fingerprint(), native.isa(), str(self.threads),
        )  # fmt: skip

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Median time of the layer alone, in the faster of both kernels."""
        return self.fastest(spec, kernel)[0]

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Those that our kernels gain by in fp32."""
        return FP32_PATTERNS

    def fastest(self, spec: ConvSpec, kernel: str) -> tuple[float, str]:
        """The time, and which kernel it is that takes it."""
        theirs = f"onnxruntime.{spec.op}.dense"
        kernels = dict.fromkeys((theirs, kernel))
        return min((self._timed(spec, name), name) for name in kernels)

    def settled(self, program: Program, calls: Mapping[str, Collection[ConvSpec]]) -> Program:
        """The program, its plan naming for every layer the kernel that runs it.

        Args:
            program: the pruned network.
            calls: layer -> the calls that apply its weight, at the reference size.
        """
        layers = (self._settled(layer, calls[layer.name]) for layer in program.the_plan.layers)
        return program.with_plan(program.the_plan.with_layers(layers))

    def write(self, folder: Path, program: Program) -> None:
        """Writes model.onnx, with our operator where the plan names it, and what it needs."""
        layers = [x.name for x in program.the_plan.layers if x.chosen.kernel.startswith(OURS)]
        written = write_nmconv(
            program, folder / MODEL, format=self.format, half=self.half, layout=self.layout,
            layers=layers,
        )  # fmt: skip
        nodes = {item.node: item.layer for item in written}
        (folder / CUSTOM_OPS).write_text(self.needs(nodes).to_json())

    def needs(self, nodes: dict[str, str]) -> CustomOps:
        """What an engine with those nodes needs."""
        return CustomOps(ABI_VERSION, self.provider, nodes)

    def time_ms(self, model: onnx.ModelProto, spec: ConvSpec) -> float:
        """Median time of a model x -> y on noise of the call's size."""
        executor = self.opened(model)
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float32)
        return median_ms(lambda: executor({"x": x}))

    def opened(self, model: onnx.ModelProto) -> OrtExecutor:
        """A model, ready to run where engines do."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            onnx.save(model, path)
            return OrtExecutor(path, self.threads, self.library, self.provider)

    def _timed(self, spec: ConvSpec, kernel: str) -> float:
        key = (spec, kernel)
        if key not in self._times:
            self._times[key] = self.time_ms(self._model(spec, kernel), spec)
        return self._times[key]

    def _model(self, spec: ConvSpec, kernel: str) -> onnx.ModelProto:
        if not kernel.startswith(OURS):
            return plain(spec, np.float32 if self.half is None else np.float16)
        form = kernel.split(".", 2)[2]
        pattern = DENSE if form == "dense" else Pattern.parse(form.removeprefix("nm-"))
        return single(_call(spec, pattern), self.half, self.layout)

    def _settled(self, layer: Layer, calls: Collection[ConvSpec]) -> Layer:
        """The layer in the kernel that is faster over all of its uses."""
        kernels = {f"onnxruntime.{layer.op}.dense", self.kernel(layer, layer.pattern)}
        times = {name: sum(self._timed(spec, name) for spec in calls) for name in kernels}
        kernel = min(times, key=lambda name: (times[name], name))
        chosen = dataclasses.replace(layer.chosen, kernel=kernel, latency_ms=times[kernel])
        choices = (chosen if x.pattern == layer.pattern else x for x in layer.choices)
        return dataclasses.replace(layer, choices=tuple(choices))


def _call(spec: ConvSpec, pattern: Pattern) -> Call:
    """The operator on random weights of that pattern."""
    weight = np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32) * 0.1
    shape = ConvShape(
        (spec.shape[2], spec.shape[3]), spec.stride, spec.dilation, spec.padding, spec.groups
    )
    bias = np.zeros(spec.shape[0], np.float32)
    return Call("layer", weight * pattern.largest(weight), bias, shape, pattern)
