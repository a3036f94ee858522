"""An ONNX model that is to run in fp16 -> an error that names every operation which would not."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from nmcompile.errors import NmcompileError

_WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_UNKNOWN = TensorProto.UNDEFINED
# Inputs that say how large something is, which ONNX wants in fp32: Resize's roi and scales.
_SIZES = {"Resize": (1, 2)}
# Their outputs depend on shapes alone, not on what is in the images.
_OF_SHAPES = ("Shape", "Size")
_NAMED = 4


def check_half(model: onnx.ModelProto) -> None:
    """Checks that all that is computed from images is computed in fp16 (or bf16).

    Casts may read and give fp32, at the borders; so may what is computed from shapes alone.
    TensorRT takes types as they are in a strongly typed network: an fp32 node would run in fp32,
    slowly, and nothing would tell.

    Args:
        model: with types that can be inferred.

    Raises:
        NmcompileError: nodes that read or give fp32, or types that nobody knows; both by name.
    """
    types = _types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    images = {value.name for value in model.graph.input} - constants
    found = []
    for node in model.graph.node:
        if node.op_type in _OF_SHAPES or not images & set(node.input):
            continue
        images |= set(node.output)
        if node.op_type == "Cast":
            continue
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            found.append(f"{_name(node)} (a subgraph)")
        kinds = [types.get(name, _UNKNOWN) for name in _values(node)]
        if wrong := [kind for kind in kinds if kind in (*_WIDE, _UNKNOWN)]:
            kind = "a type that nobody knows" if wrong[0] == _UNKNOWN else _type(wrong[0])
            found.append(f"{_name(node)} ({kind})")
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise NmcompileError(
            f"{len(found)} operations would not run in fp16: {', '.join(found[:_NAMED])}{more}; "
            "the network asks for that type, or torch.onnx takes it (var, norm); compute them "
            "otherwise there, or give another --target"
        )


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value that one is known of, inferred as TensorRT would."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    graph = typed.graph
    del graph.value_info[:]
    for node in graph.node:
        if node.domain == "nmcompile":  # an NMConv gives what it reads, which onnx does not know
            kind = onnx.helper.make_tensor_type_proto(TensorProto.FLOAT16, None)
            graph.value_info.append(onnx.helper.make_value_info(node.output[0], kind))
    graph = onnx.shape_inference.infer_shapes(typed).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _values(node: onnx.NodeProto) -> list[str]:
    """What it reads and gives, less what only says how large something is."""
    sizes = _SIZES.get(node.op_type, ())
    read = [name for index, name in enumerate(node.input) if index not in sizes]
    return [name for name in (*read, *node.output) if name]


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _type(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower().replace("float", "fp32", 1)
