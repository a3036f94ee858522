"""A pruned Program -> ONNX in which convolutions are NMConv nodes with packed weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxscript
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from nmcompile.backends.halves import in_halves
from nmcompile.backends.levels import Levels
from nmcompile.backends.nmconv import (
    DOMAIN,
    LAYOUTS,
    OPERATOR,
    VERSION,
    nm_conv2d,
    register_schema,
)
from nmcompile.backends.nmconv_fuse import Fused, Rewriter, find_convs, fuse
from nmcompile.backends.nmconv_pack import TAKES, attributes, call_of, packed
from nmcompile.backends.onnx import write_onnx
from nmcompile.capture.tracing import TRACE_BATCH, free_dimensions, quiet, trace_size
from nmcompile.convs import weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, Pattern
from nmcompile.program import Program
from nmcompile.runtime.native.cuda_pack import Half

LEVEL = "level"
_LEAST = "nmconv_least"


@dataclass(frozen=True)
class Written:
    """One NMConv node of a file.

    Attributes:
        node: its name, and its attribute `name`.
        layer: the weight's name in the plan.
        packed: the bytes that it holds.
    """

    node: str
    layer: str
    packed: bytes


def obstacles(program: Program, format: str) -> dict[str, str]:
    """Layers that cannot be NMConv nodes of a format (cpu or cuda), and why."""
    return find_convs(program, TAKES[format])[1]


def write_nmconv(
    program: Program,
    path: Path,
    *,
    format: str,
    half: Half | None = None,
    layout: str = "NCHW",
    layers: Collection[str] | None = None,
    levels: Mapping[str, NDArray[np.uint8]] | None = None,
) -> list[Written]:
    """Writes the network as ONNX with free batch, height and width; see nmconv.register_schema.

    The network's inputs and outputs are fp32 also where it computes in halves.

    Args:
        program: the pruned network, in fp32.
        path: of the file.
        format: cpu (fp32, NCHW) or cuda (halves).
        half: what the whole network computes in, NMConv or not; None with cpu alone.
        layout: what NMConv nodes read and write; transposes stand where it changes.
        layers: names of the weights whose convolutions become NMConv; None for all that can.
        levels: by weight name, the least level that keeps each weight, as `Levels` has it. The
            file then has an input `level`, int32 [1], beside the network's.

    Returns:
        The nodes that were written, in the order of the graph.

    Raises:
        NmcompileError: a layer of `layers` or `levels` cannot be an NMConv node, or an operation
            has no ONNX form.
    """
    if (format == "cuda") != (half is not None) or layout not in LAYOUTS:
        raise ValueError(f"format {format} with half {half} and layout {layout}")
    given = Levels(levels or {})
    given.check(weight_uses(program.module))
    copy = program.with_module(program.clone_module())
    found = _chosen(copy, format, layers, given)
    held, written = {}, []
    for fused in found:
        call = call_of(copy.module, fused, _pattern(copy, fused), given)
        written.append(Written(fused.name, fused.layer, packed(call, half)))
        held[fused.name] = attributes(call, written[-1].packed, half, layout)
    _rewrite(copy, found, layout, given)
    if half is not None:
        in_halves(copy.module, half)
    register_schema()
    write_onnx(
        _exported(copy, bool(given.named)), copy.interface, path,
        further=[LEVEL] if given.named else [],
        translations={nm_conv2d._opoverload: _translation(held)},
    )  # fmt: skip
    _tidy(path)
    return written


def _chosen(
    program: Program, format: str, layers: Collection[str] | None, levels: Levels
) -> list[Fused]:
    """What becomes NMConv, with what is fused into it."""
    found, lacking = find_convs(program, TAKES[format])
    able = {fused.layer for fused in found}
    wanted = able if layers is None else set(layers)
    for name in sorted(wanted | set(levels.named)):
        why = None if name in able else lacking.get(name, "this network has no such weight")
        if why is None and name not in wanted:
            why = "its weights differ from level to level, and it is not to be one"
        if why is not None:
            raise NmcompileError(
                f"layer {name} cannot be an NMConv node of format {format}: {why}; keep it out of "
                "layers and levels"
            )
    chosen = [fused for fused in found if fused.layer in wanted]
    fuse(chosen, TAKES[format])
    return chosen


def _pattern(program: Program, fused: Fused) -> Pattern:
    layers = program.plan.layers if program.plan else ()
    return next((layer.pattern for layer in layers if layer.name == fused.layer), DENSE)


def _rewrite(program: Program, found: list[Fused], layout: str, levels: Levels) -> None:
    """Puts nm_conv2d into the graph, with the level as its last input if there are levels."""
    module, least = program.module, {}
    level = None
    if levels.named:
        places = module.graph.find_nodes(op="placeholder")
        with module.graph.inserting_after(places[-1]):
            level = module.graph.placeholder(LEVEL)
    for index, (name, values) in enumerate(levels.named.items()):
        least[name] = f"{_LEAST}_{index}"
        module.register_buffer(least[name], torch.from_numpy(values))
    Rewriter(module, found, layout, least, level).run()


def _exported(program: Program, routed: bool) -> ExportedProgram:
    """As backends.onnx.export_program, with the level as a further input if there is one."""
    interface = program.interface
    size = interface.fixed_size or trace_size(interface)
    image = torch.rand(TRACE_BATCH, interface.channels, *size) * interface.value_range
    more = (torch.zeros(1, dtype=torch.int32),) if routed else ()
    fixed: tuple[dict[int, Any], ...] = ({},) if routed else ()
    with quiet(), torch.no_grad():
        return torch.export.export(
            program.module,
            (*interface.arguments(image), *more),
            dynamic_shapes=(*free_dimensions(interface), *fixed),
            strict=False,
        )


def _translation(held: Mapping[str, Mapping[str, Any]]) -> Callable[..., Any]:
    """What writes a call of nm_conv2d: its weights are in the attributes, by the call's name."""
    operator = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, VERSION), OPERATOR)

    def translate(*arguments: Any) -> Any:
        x, _, _, residual, level, *_, name = arguments
        more = [value for value in (residual, level) if value is not None]
        given = {**held[name], "weights": onnx_ir.tensor(held[name]["weights"])}
        return operator(x, *more, **given)

    return translate


def _tidy(path: Path) -> None:
    """Names NMConv nodes after their layers, and drops weights that only they had."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.domain == DOMAIN:
            node.name = next(item.s.decode() for item in node.attribute if item.name == "name")
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, path)
