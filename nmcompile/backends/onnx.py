"""A Program -> model.onnx of standard operators, and how long ONNX Runtime takes for each layer."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from nmcompile.capture import quiet
from nmcompile.context import ConvSpec
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime import native
from nmcompile.runtime.executor import OrtExecutor

_OPSET = 20
_TRACE = 40
_SECONDS = 0.05
_LEAST_RUNS = 5


class OnnxTarget:
    """ONNX Runtime on the CPU: portable, dense kernels; zeros in the weights change no time."""

    executor = "onnxruntime"
    note = "dense kernel: no speed-up from zeros"

    def __init__(
        self, name: str = "onnx", threads: int | None = None, note: str | None = None
    ) -> None:
        """Args: name: as the user wrote it; threads: None for all cores; note: instead of ours."""
        self.name = name
        self.threads = threads
        self.note = self.note if note is None else note

    def fitted(self, program: Program) -> OnnxTarget:
        """This target: ONNX Runtime runs whatever ONNX can express."""
        return self

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """ONNX Runtime has one kernel per operator, whatever the zeros."""
        return f"onnxruntime.{layer.op}.dense"

    def key(self) -> tuple[str, ...]:
        """Machine, version and threads."""
        return (
            native.cpu_name(), platform.machine(), onnxruntime.__version__, str(self.threads),
        )  # fmt: skip

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Median time of the layer alone, bias included."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            onnx.save(_single(spec), path)
            executor = OrtExecutor(path, self.threads)
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float32)
        executor({"x": x})
        times: list[float] = []
        while len(times) < _LEAST_RUNS or sum(times) < _SECONDS:
            started = time.perf_counter()
            executor({"x": x})
            times.append(time.perf_counter() - started)
        return 1e3 * statistics.median(times)

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Element-wise in steps of an eighth; M = 16 also fits grouped 16-channel layers."""
        return tuple(Pattern(1, n, 16) for n in range(2, 16, 2))


def export_program(program: Program) -> torch.export.ExportedProgram:
    """The program as torch.export has it, with free batch, height and width."""
    interface = program.interface
    step = interface.multiple
    side = -(-max(_TRACE, interface.minimum) // step) * step
    size = interface.fixed_size or (side, side + step)
    axes: dict[int | str, object] = {0: Dim.AUTO}
    if not interface.fixed_size:
        axes |= {2: Dim.AUTO, 3: Dim.AUTO}
    marks: dict[int | str, int] = {0: 0, "H": 2, "W": 3}
    extra_axes = [
        {axis: Dim.AUTO for axis, item in enumerate(extra.shape) if marks.get(item) in axes}
        for extra in interface.extra_inputs
    ]
    arguments = interface.arguments(torch.rand(2, interface.channels, *size))
    with quiet():
        return torch.export.export(
            program.module, arguments, dynamic_shapes=(axes, *extra_axes), strict=False
        )


def export_onnx(program: Program, path: Path) -> None:
    """Writes the network as ONNX with free batch, height and width; weights keep their zeros.

    Raises:
        NmcompileError: an operation has no ONNX form.
    """
    interface = program.interface
    names = [interface.input_name, *(extra.name for extra in interface.extra_inputs)]
    exported = export_program(program)
    try:
        with quiet():
            _write(exported, names, path)
    except torch.onnx.errors.OnnxExporterError as error:
        first = (str(error).strip().splitlines() or ["unknown"])[0]
        raise NmcompileError(f"torch.onnx cannot write this network: {first}") from error
    onnx.checker.check_model(str(path))


def _write(exported: torch.export.ExportedProgram, names: list[str], path: Path) -> None:
    """onnxscript's optimiser fails on splits of unknown size: such a network is written plainly."""
    for optimize in (True, False):
        try:
            torch.onnx.export(
                exported, (), path, input_names=names, output_names=["output"], dynamo=True,
                external_data=False, opset_version=_OPSET, verbose=False, optimize=optimize,
            )  # fmt: skip
            return
        except onnx_ir.passes.PassError:
            if not optimize:
                raise


def _single(spec: ConvSpec) -> onnx.ModelProto:
    """A model of that one call, weights drawn at random."""
    rng = np.random.default_rng(0)
    outputs, inputs, height, width = spec.shape
    shapes = {
        "conv2d": spec.shape,
        "conv_transpose2d": (inputs * spec.groups, outputs // spec.groups, height, width),
        "linear": (inputs, outputs),
    }
    weight = (rng.standard_normal(shapes[spec.op]) * 0.1).astype(np.float32)
    left, right, top, bottom = spec.padding
    common = {
        "strides": spec.stride,
        "dilations": spec.dilation,
        "group": spec.groups,
        "pads": [top, left, bottom, right],
    }
    if spec.op == "linear":
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    elif spec.op == "conv2d":
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **common)
    else:
        common["output_padding"] = spec.output_padding
        node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **common)
    values = {"w": weight, "b": np.zeros(outputs, np.float32)}
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, spec.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in values.items() if k in node.input],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
