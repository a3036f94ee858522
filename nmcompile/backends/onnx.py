"""A Program -> model.onnx of standard operators, and how long ONNX Runtime takes for each layer."""

from __future__ import annotations

import hashlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch.export import ExportedProgram

from nmcompile.capture.tracing import TRACE_BATCH, free_dimensions, quiet, trace_size
from nmcompile.context import ConvSpec
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.program import Interface, Program
from nmcompile.runtime import native
from nmcompile.runtime.executor import OrtExecutor

_OPSET = 20
TOLERANCE = 1e-3
_SECONDS = 0.05
_LEAST_RUNS = 5


class OnnxTarget:
    """ONNX Runtime on the CPU: portable, dense kernels; zeros in the weights change no time."""

    executor = "onnxruntime"
    precision = "fp32"
    note = "dense kernel: no speed-up from zeros"

    def __init__(
        self, name: str = "onnx", threads: int | None = None, note: str | None = None
    ) -> None:
        """Args: name: as the user wrote it; threads: None for all cores; note: instead of ours."""
        self.name = name
        self.threads = threads
        self.note = self.note if note is None else note

    def fitted(self, program: Program, size: tuple[int, int]) -> OnnxTarget:
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
            onnx.save(single(spec), path)
            executor = OrtExecutor(path, self.threads)
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float32)
        return median_ms(lambda: executor({"x": x}))

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Element-wise in steps of an eighth; M = 16 also fits grouped 16-channel layers."""
        return tuple(Pattern(1, n, 16) for n in range(2, 16, 2))


def median_ms(run: Callable[[], object]) -> float:
    """The median time of a call, in milliseconds, once it has run."""
    run()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < _SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def export_program(program: Program) -> ExportedProgram:
    """The program as torch.export has it, with free batch, height and width."""
    interface = program.interface
    size = interface.fixed_size or trace_size(interface)
    image = torch.rand(TRACE_BATCH, interface.channels, *size) * interface.value_range
    with quiet(), torch.no_grad():
        return torch.export.export(
            program.module,
            interface.arguments(image),
            dynamic_shapes=free_dimensions(interface),
            strict=False,
        )


def export_onnx(program: Program, path: Path) -> None:
    """Writes the network as ONNX with free batch, height and width; weights keep their zeros.

    Raises:
        NmcompileError: an operation has no ONNX form.
    """
    write_onnx(export_program(program), program.interface, path)


def write_onnx(
    exported: ExportedProgram,
    interface: Interface,
    path: Path,
    outputs: Sequence[str] = ("output",),
    further: Sequence[str] = (),
    translations: dict[Callable[..., Any], Callable[..., Any]] | None = None,
) -> None:
    """Writes what export_program made, its outputs under those names; see export_onnx.

    `further` names inputs beyond the interface's; `translations` has operators beyond torch's own
    -> what writes them.
    """
    names = [interface.input_name, *(extra.name for extra in interface.extra_inputs), *further]
    try:
        with quiet():
            _write(exported, names, list(outputs), path, translations)
    except torch.onnx.errors.OnnxExporterError as error:
        raise NmcompileError(f"torch.onnx cannot write this network: {_cause(error)}") from error
    onnx.checker.check_model(str(path))


def _write(
    exported: ExportedProgram,
    names: list[str],
    outputs: list[str],
    path: Path,
    translations: dict[Callable[..., Any], Callable[..., Any]] | None,
) -> None:
    """Plainly where onnxscript's optimiser fails: rare graphs, and outputs that are constant."""
    for optimize in (True, False):
        try:
            torch.onnx.export(
                exported, (), path, input_names=names, output_names=outputs, dynamo=True,
                external_data=False, opset_version=_OPSET, verbose=False, optimize=optimize,
                custom_translation_table=translations,
            )  # fmt: skip
            return
        except (onnx_ir.passes.PassError, ValueError):
            if not optimize:
                raise


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def check_onnx(program: Program, path: Path) -> None:
    """Runs the ONNX file once, at another size than it was traced at, and compares.

    Raises:
        NmcompileError: ONNX Runtime cannot run it, or gives something else.
    """
    interface = program.interface
    least, step = interface.minimum, interface.multiple
    size = interface.fixed_size or (least + 4 * step, least + 5 * step)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, interface.channels, *size, generator=generator) * interface.value_range
    names = [interface.input_name, *(extra.name for extra in interface.extra_inputs)]
    values = [value.numpy() for value in interface.arguments(image)]
    expected = program(image).numpy()
    try:
        found = OrtExecutor(path, 1)(dict(zip(names, values, strict=True)))
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise NmcompileError(f"ONNX Runtime cannot run this network: {_cause(error)}") from error
    if found.shape != expected.shape:
        raise NmcompileError(
            f"the ONNX form of this network gives {found.shape} at {size[0]}x{size[1]} instead of "
            f"{expected.shape}: some operation in it exists for one size only in ONNX; compile it "
            "for one size with --input 1xCxHxW in numbers"
        )
    difference = float(np.abs(found - expected).max()) / interface.value_range
    if not difference <= TOLERANCE:
        raise NmcompileError(
            f"the ONNX form of this network differs from it by {difference:.2g} of its range; "
            "please report the network"
        )


def exchange_weights(source: Path, old: Program, new: Program, path: Path) -> bool:
    """Writes an ONNX file of `old` again with the weights of `new`, an equal graph.

    Exporting again would take as long as the first time. A weight is found by its values, as it
    is or transposed, which is how the exporter may have folded it.

    Returns:
        Whether every weight that differs was found, once; nothing is written if not.
    """
    if str(old.module.graph) != str(new.module.graph):
        return False
    replaced: dict[bytes, NDArray[np.float32]] = {}
    differing = set()
    for name, before in old.module.state_dict().items():
        first, last = before.numpy(), new.module.state_dict()[name].numpy()
        forms = [(first, last)] if first.ndim != 2 else [(first, last), (first.T, last.T)]
        for key, value in ((_key(a), b) for a, b in forms):
            if key in replaced and not np.array_equal(replaced[key], value):
                return False  # two weights of the same values, pruned to different ones
            replaced[key] = value
        if not np.array_equal(first, last):
            differing.add(_key(first))
    model = onnx.load(source)
    found = set()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        value = replaced.get(_key(values))
        if value is not None:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
            found |= {_key(values), _key(values.T)}
    if differing <= found:
        onnx.save(model, path)
    return differing <= found


def _key(values: NDArray[Any]) -> bytes:
    text = f"{values.dtype}{values.shape}".encode()
    return hashlib.sha256(text + np.ascontiguousarray(values).tobytes()).digest()


def single(spec: ConvSpec, dtype: type[np.floating[Any]] = np.float32) -> onnx.ModelProto:
    """A model x -> y of that one call, weights of that type drawn at random."""
    rng = np.random.default_rng(0)
    outputs, inputs, height, width = spec.shape
    shapes = {
        "conv2d": spec.shape,
        "conv_transpose2d": (inputs * spec.groups, outputs // spec.groups, height, width),
        "linear": (inputs, outputs),
    }
    weight = (rng.standard_normal(shapes[spec.op]) * 0.1).astype(dtype)
    left, right, top, bottom = spec.padding
    common: dict[str, Any] = {
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
    values = {"w": weight, "b": np.zeros(outputs, dtype)}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", kind, spec.input_shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(v, k) for k, v in values.items() if k in node.input],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
