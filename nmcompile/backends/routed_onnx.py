"""Nested levels + a difficulty head -> one portable ONNX file that routes an image by itself.

    image [1, C, H, W], offsets [K] -> output [1, C, sH, sW], level [1] int64, scores [1, K],
                                       difficulty [1, 1]

The level is argmax(scores + offsets); offsets have a default, and 1e9 at one level forces it. The
levels are branches of a chain of `If`. The weights are there once, outside of the branches, beside
the bits of the least level that keeps each; a branch zeroes what its level does not keep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from nmcompile.backends.onnx import TOLERANCE, export_program, write_onnx
from nmcompile.capture.tracing import TRACE_BATCH, free_dimensions, quiet, trace_size
from nmcompile.convs import get_tensor
from nmcompile.errors import NmcompileError
from nmcompile.program import Program
from nmcompile.routing.nested import NEVER, Nested
from nmcompile.runtime.executor import OrtExecutor
from nmcompile.runtime.routing import forced

OFFSETS, LEVEL, OUTPUT = "offsets", "level", "output"
SCORES, DIFFICULTY = "scores", "difficulty"
_SAID = "said"
_LEVELLED = "levelled_"
_BITS = 8  # of a byte of the levels' bit planes
Rename = Callable[[str], str]


def export_routed(nested: Nested, head: Program, offsets: Sequence[float], path: Path) -> None:
    """Writes the routed network.

    Args:
        nested: the levels.
        head: image [N, C, h, w] -> K scores and the difficulty, [N, K + 1, 1, 1].
        offsets: [K], the default ones: -bias(effort) * cost.
        path: of the file.

    Raises:
        NmcompileError: an operation has no ONNX form.
    """
    with tempfile.TemporaryDirectory() as folder:
        body = _level_model(nested, Path(folder) / "level.onnx")
        scoring = _head_model(head, Path(folder) / "head.onnx")
    onnx.save(_routed(nested, body, scoring, offsets), path)
    onnx.checker.check_model(str(path))


def check_routed(nested: Nested, head: Program, offsets: Sequence[float], path: Path) -> None:
    """Runs every level of the file, forced, and the one that it chooses, and compares.

    Raises:
        NmcompileError: ONNX Runtime gives something else than the levels or the head do.
    """
    interface = nested.program.interface
    least, step = interface.minimum, interface.multiple
    size = interface.fixed_size or (least + 4 * step, least + 5 * step)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, interface.channels, *size, generator=generator) * interface.value_range
    names = [interface.input_name, *(extra.name for extra in interface.extra_inputs)]
    given: dict[str, NDArray[Any]] = dict(
        zip(names, (value.numpy() for value in interface.arguments(image)), strict=True)
    )
    executor, told = OrtExecutor(path, 1), head(image).flatten().numpy()
    free = int(np.argmax(told[:-1] + np.asarray(offsets, np.float32)))
    for own, level in ((True, free), *((False, level) for level in range(nested.count))):
        if not own:
            given[OFFSETS] = forced(level, nested.count).astype(np.float32)
        found, chosen, *rest = executor.run(given, [OUTPUT, LEVEL, SCORES, DIFFICULTY])
        expected = nested.at(level)(image).numpy()
        apart = float(np.abs(found - expected).max()) / interface.value_range
        if int(chosen[0]) != level or not apart <= TOLERANCE:
            raise NmcompileError(
                f"the ONNX form of this network takes level {int(chosen[0])} where the head takes "
                f"{level}, and differs by {apart:.2g} of its range; please report the network"
            )
        said = np.concatenate(rest, axis=1)[0]
        if not np.allclose(said, told, rtol=1e-3, atol=1e-3):
            raise NmcompileError(
                f"the ONNX form of the difficulty head gives {said} instead of {told}; please "
                "report the network"
            )


def _head_model(head: Program, path: Path) -> ModelProto:
    write_onnx(export_program(head), head.interface, path, [_SAID])
    return _loaded(path)


def _level_model(nested: Nested, path: Path) -> ModelProto:
    """The network with the weights that differ from level to level as further inputs."""
    program, names = nested.program, list(nested.least)
    module = program.clone_module()
    places = module.graph.find_nodes(op="placeholder")
    for name in reversed(names):
        with module.graph.inserting_after(places[-1]):
            given = module.graph.placeholder(_given(names.index(name)))
        for node in list(module.graph.nodes):
            if node.op == "get_attr" and node.target == name:
                node.replace_all_uses_with(given)
                module.graph.erase_node(node)
    module.recompile()
    interface = program.interface
    size = interface.fixed_size or trace_size(interface)
    image = torch.rand(TRACE_BATCH, interface.channels, *size) * interface.value_range
    weights = [get_tensor(program.module, name) for name in names]
    fixed: list[dict[int, Any]] = [{} for _ in names]
    with quiet(), torch.no_grad():
        exported = torch.export.export(
            module,
            (*interface.arguments(image), *weights),
            dynamic_shapes=(*free_dimensions(interface), *fixed),
            strict=False,
        )
    write_onnx(exported, interface, path, further=[_given(place) for place in range(len(names))])
    return _loaded(path)


def _given(place: int) -> str:
    """What a levelled weight, or any value that belongs to it, is called."""
    return f"{_LEVELLED}{place}"


def _loaded(path: Path) -> ModelProto:
    model = onnx.load(path)
    del model.graph.value_info[:]
    return model


class _Parts:
    """Nodes and initializers of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def hold(self, name: str, values: NDArray[Any]) -> str:
        """Adds an initializer; gives its name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node of one output; gives that."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], output, **attributes))
        return output


def _routed(
    nested: Nested, body: ModelProto, scoring: ModelProto, offsets: Sequence[float]
) -> ModelProto:
    """The head, its choice, the levels' bits, and the chain of branches."""
    parts, count = _Parts(), nested.count
    image = nested.program.interface.input_name
    _add_head(parts, scoring, image, offsets)
    parts.hold("route/nothing", np.array(0, np.float32))
    parts.hold("route/shifts", np.arange(_BITS, dtype=np.uint8))
    parts.hold("route/one_bit", np.array(1, np.uint8))
    for place, (name, least) in enumerate(nested.least.items()):
        parts.hold(_given(place), get_tensor(nested.program.module, name).numpy())
        _add_least(parts, place, least.numpy(), count)
    for level in range(count):
        parts.hold(f"route/level_{level}", np.array([level], np.int64))
        parts.hold(f"route/least_{level}", np.array(level, np.int32))
        parts.add("Equal", [LEVEL, f"route/level_{level}"], f"route/is_{level}")
    chain = _branch(body, len(nested.least), count - 1)
    for level in reversed(range(count - 1)):
        branches = {"then_branch": _branch(body, len(nested.least), level), "else_branch": chain}
        name = OUTPUT if level == 0 else f"route/rest_{level}"
        node = helper.make_node("If", [f"route/is_{level}"], [name], name, **branches)
        chain = helper.make_graph([node], name, [], [_untyped(name)])
    parts.nodes += chain.node
    parts.initializers += body.graph.initializer
    return _model(parts, body, scoring, image, count)


def _model(
    parts: _Parts, body: ModelProto, scoring: ModelProto, image: str, count: int
) -> ModelProto:
    """The whole of it, for one image at a time."""
    inputs = [value for value in body.graph.input if not value.name.startswith(_LEVELLED)]
    outputs = list(body.graph.output)
    first = next(value for value in inputs if value.name == image)
    batch = first.type.tensor_type.shape.dim[0].dim_param
    for value in (*inputs, *outputs):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == batch:
                size.dim_value = 1
    graph = helper.make_graph(
        parts.nodes,
        "routed",
        [*inputs, helper.make_tensor_value_info(OFFSETS, TensorProto.FLOAT, [count])],
        [
            *outputs,
            helper.make_tensor_value_info(LEVEL, TensorProto.INT64, [1]),
            helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [1, count]),
            helper.make_tensor_value_info(DIFFICULTY, TensorProto.FLOAT, [1, 1]),
        ],
        parts.initializers,
    )
    versions = {(item.domain, item.version): item for item in body.opset_import}
    versions |= {(item.domain, item.version): item for item in scoring.opset_import}
    functions = {(item.domain, item.name): item for item in (*body.functions, *scoring.functions)}
    return helper.make_model(
        graph,
        opset_imports=list(versions.values()),
        functions=list(functions.values()),
        ir_version=body.ir_version,
    )


def _add_head(parts: _Parts, scoring: ModelProto, image: str, offsets: Sequence[float]) -> None:
    """The head, and the level that it chooses."""
    prefix = "head/"
    (given,), (made,) = scoring.graph.input, scoring.graph.output
    rename = _kept_empty(lambda name: image if name == given.name else prefix + name)
    parts.nodes += _renamed(scoring.graph.node, rename)
    for tensor in scoring.graph.initializer:
        tensor.name = prefix + tensor.name
        parts.initializers.append(tensor)
    parts.hold(OFFSETS, np.asarray(offsets, np.float32))
    parts.hold("route/said_shape", np.array([1, -1], np.int64))
    parts.hold("route/said_sizes", np.array([len(offsets), 1], np.int64))
    parts.add("Reshape", [rename(made.name), "route/said_shape"], "route/said")
    halves = ["route/said", "route/said_sizes"], [SCORES, DIFFICULTY]
    parts.nodes.append(helper.make_node("Split", *halves, "route/split", axis=1))
    parts.add("Add", [SCORES, OFFSETS], "route/sums")
    parts.add("ArgMax", ["route/sums"], LEVEL, axis=1, keepdims=0)


def _add_least(parts: _Parts, place: int, least: NDArray[np.uint8], count: int) -> None:
    """A weight's least levels, packed into planes of bits and spread out again when it runs.

    Zeros, which no level keeps, count as level 0: they stay zeros. Where a kernel has one level
    throughout, it is stored once.
    """
    levels, name = np.where(least == NEVER, 0, least), _given(place)
    if levels.ndim == 4 and (levels == levels[:, :, :1, :1]).all():
        levels = levels[:, :, :1, :1]
    depth = max(1, (count - 1).bit_length())
    bits = [(levels.ravel() >> plane) & 1 for plane in range(depth)]
    packed = np.stack([np.packbits(plane, bitorder="little") for plane in bits])
    held: dict[str, NDArray[Any]] = {
        "bits": packed[:, :, None],
        "places": 2 ** np.arange(depth, dtype=np.int32)[:, None, None],
        "axis": np.array([0], np.int64),
        "flat": np.array([-1], np.int64),
        "length": np.array([levels.size], np.int64),
        "shape": np.array(levels.shape, np.int64),
    }
    at = {key: parts.hold(f"{name}/{key}", values) for key, values in held.items()}
    shifted = parts.add(
        "BitShift", [at["bits"], "route/shifts"], f"{name}/shifted", direction="RIGHT"
    )
    single = parts.add("BitwiseAnd", [shifted, "route/one_bit"], f"{name}/single")
    number = parts.add("Cast", [single], f"{name}/number", to=TensorProto.INT32)
    worth = parts.add("Mul", [number, at["places"]], f"{name}/worth")
    summed = parts.add("ReduceSum", [worth, at["axis"]], f"{name}/summed", keepdims=0)
    flat = parts.add("Reshape", [summed, at["flat"]], f"{name}/all")
    cut = parts.add("Slice", [flat, at["axis"], at["length"]], f"{name}/cut")
    parts.add("Reshape", [cut, at["shape"]], f"{name}/least")


def _branch(body: ModelProto, weights: int, level: int) -> GraphProto:
    """The network at a level; it reads images, weights and bits from outside."""
    parts = _Parts()
    for place in range(weights):
        name = _given(place)
        kept = parts.add(
            "LessOrEqual", [f"{name}/least", f"route/least_{level}"], f"{name}/kept@{level}"
        )
        parts.add("Where", [kept, name, "route/nothing"], f"{name}@{level}")
    outer = {value.name for value in body.graph.input if not value.name.startswith(_LEVELLED)}
    outer |= {tensor.name for tensor in body.graph.initializer}
    rename = _kept_empty(lambda name: name if name in outer else f"{name}@{level}")
    parts.nodes += _renamed(body.graph.node, rename)
    made = rename(body.graph.output[0].name)
    return helper.make_graph(parts.nodes, f"level_{level}", [], [_untyped(made)])


def _untyped(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _kept_empty(rename: Rename) -> Rename:
    """An input that is left out has no name, and keeps none."""
    return lambda name: rename(name) if name else name


def _renamed(nodes: Iterable[NodeProto], rename: Rename) -> list[NodeProto]:
    """Copies of nodes, what they read and make renamed, in graphs inside of them too."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = map(rename, node.input)
        copy.output[:] = map(rename, node.output)
        copy.name = rename(node.name)
        del copy.metadata_props[:]  # where the exporter found it, in more words than the node has
        for attribute in copy.attribute:
            if attribute.HasField("g"):
                _rename_graph(attribute.g, rename)
        copies.append(copy)
    return copies


def _rename_graph(graph: GraphProto, rename: Rename) -> None:
    nodes = _renamed(graph.node, rename)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = rename(value.name)
