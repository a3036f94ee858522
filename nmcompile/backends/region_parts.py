"""A Program -> regions.json and the parts that it names: native programs and ONNX models."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import helper
from torch import fx

from nmcompile.backends.native import Allowed, lower_nodes, survey
from nmcompile.backends.onnx import export_program, write_onnx
from nmcompile.backends.regions import Region, find_regions
from nmcompile.program import Program
from nmcompile.runtime.regions import REGIONS, RegionPart, RegionPlan


def write_regions(folder: Path, program: Program, allowed: Allowed) -> None:
    """Writes what a RegionExecutor runs.

    The network is exported to ONNX once, with what regions exchange as further outputs, and cut
    up. A region's model may compute more than its nodes: whatever they need, such as a size, that
    no region before it gives.
    """
    regions = find_regions(program)
    channels = survey(program).channels
    names = _names(program, regions)
    model = _export_with(program, [n for region in regions for n in region.outputs], names)
    known = {value.name for value in model.graph.input}
    parts = []
    for number, region in enumerate(regions):
        inputs, outputs = ([names[n] for n in ns] for ns in (region.inputs, region.outputs))
        if region.runner == "native":
            part = f"region-{number}.nmk"
            packed = lower_nodes(
                program, region.nodes, region.inputs, region.outputs, channels, allowed
            )
            (folder / part).write_bytes(packed)
        else:
            part = f"region-{number}.onnx"
            cut = _cut(model, known, outputs)
            onnx.save(cut, folder / part)
            inputs = [value.name for value in cut.graph.input]
        parts.append(
            RegionPart(region.runner, part, tuple(inputs), tuple(outputs), region.operations())
        )
        known |= set(outputs)
    placeholders = program.module.graph.find_nodes(op="placeholder")
    plan = RegionPlan(tuple(parts), tuple(names[n] for n in placeholders), names[_result(program)])
    (folder / REGIONS).write_text(plan.to_json())


def _names(program: Program, regions: Sequence[Region]) -> dict[fx.Node, str]:
    """What the engine calls the network's inputs and the regions' outputs."""
    interface = program.interface
    given = [interface.input_name, *(extra.name for extra in interface.extra_inputs)]
    placeholders = program.module.graph.find_nodes(op="placeholder")
    names = dict(zip(placeholders, given, strict=True))
    made = (node for region in regions for node in region.outputs)
    return names | {node: f"value_{number}" for number, node in enumerate(made)}


def _result(program: Program) -> fx.Node:
    output: fx.Node = next(node for node in program.module.graph.nodes if node.op == "output")
    return output.all_input_nodes[0]


def _export_with(
    program: Program, made: Sequence[fx.Node], names: Mapping[fx.Node, str]
) -> onnx.ModelProto:
    """The whole network as ONNX, its outputs the values given, under their names."""
    module = program.clone_module()
    found = {node.name: node for node in module.graph.nodes}
    found["output"].args = (tuple(found[node.name] for node in made),)
    module.recompile()
    exported = export_program(dataclasses.replace(program, module=module))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(exported, program.interface, path, [names[node] for node in made])
        return onnx.load(path)


def _cut(model: onnx.ModelProto, known: set[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that computes `outputs` from values that are known."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    needed, wanted = set(outputs), list(outputs)
    while wanted:
        maker = makers.get(wanted.pop())
        fresh = set(_reads(maker)) - needed if maker is not None else set()
        needed |= fresh
        wanted += fresh - known
    nodes = [n for n in graph.node if set(n.output) & needed - known]
    described = {value.name: value for value in [*graph.input, *graph.output, *graph.value_info]}
    inputs = sorted(name for name in needed & known if any(name in _reads(n) for n in nodes))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    part = helper.make_graph(
        nodes, graph.name, [described[name] for name in inputs],
        [described[name] for name in outputs], weights,
    )  # fmt: skip
    result = helper.make_model(
        part, opset_imports=model.opset_import, functions=model.functions,
        ir_version=model.ir_version,
    )  # fmt: skip
    onnx.checker.check_model(result)
    return result


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, in graphs of its own too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            yield from (name for inner in graph.node for name in _reads(inner))


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
