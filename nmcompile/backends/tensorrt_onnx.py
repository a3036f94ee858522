"""A pruned Program -> fp16 ONNX for TensorRT, its nodes named after the plan's layers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nmcompile.backends.half_check import check_half
from nmcompile.backends.nmconv import DOMAIN, OPERATOR
from nmcompile.backends.nmconv_onnx import write_nmconv
from nmcompile.context import ConvSpec
from nmcompile.convs import get_tensor, read_conv, to_canonical, weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime.native import cuda_pack
from nmcompile.runtime.native.blob import ConvShape
from nmcompile.runtime.native.cuda_pack import Half

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_AGAIN = "@"  # layer@2 is the second use of a weight
_OPSET, _IR = 20, 10
_LARGEST_HALF = 65504.0
# Where the ONNX parser looks for our plugin; from 10.10 on it takes the domain by itself.
_NAMESPACE = helper.make_attribute("plugin_namespace", DOMAIN)
_Key = tuple[object, ...]


def half_model(program: Program, plugins: Collection[str]) -> onnx.ModelProto:
    """The network in fp16, images in fp32 at its borders, every convolution named as its layer.

    Args:
        program: the pruned network, in fp32.
        plugins: names of the weights whose convolutions become NMConv nodes.

    Raises:
        NmcompileError: an operation has no ONNX form or would not run in fp16, or a weight is
            beyond fp16.
    """
    for name in weight_uses(program.module):
        largest = float(get_tensor(program.module, name).abs().max())
        if not largest <= _LARGEST_HALF:
            raise NmcompileError(
                f"layer {name} has a weight of {largest:g}, fp16 holds up to {_LARGEST_HALF:g}; "
                "scale it down, or give another --target"
            )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_nmconv(program, path, format="cuda", half=Half.FP16, layers=plugins)
        model = onnx.load(path)
    _name_layers(model, _uses(program, plugins))
    check_half(model)
    return model


def layer_of(node: str) -> str:
    """The layer that a node is named after."""
    return node.partition(_AGAIN)[0]


def is_two_of_four(weight: NDArray[np.float32]) -> bool:
    """Whether TensorRT can take sparse tactics: at most 2 of 4 consecutive input channels.

    Args:
        weight: [out, in, kh, kw] of a convolution with one group.
    """
    outputs, inputs = weight.shape[:2]
    if inputs % 4:
        return False
    groups = (weight != 0).reshape(outputs, inputs // 4, 4, -1)
    return bool((groups.sum(2) <= 2).all())


def is_sparse_for_tensorrt(layer: Layer, program: Program) -> bool:
    """Whether a layer of the program is what TensorRT has sparse tactics for."""
    if layer.op == "conv_transpose2d" or layer.groups != 1:
        return False
    weight = to_canonical(get_tensor(program.module, layer.name), layer.op, layer.groups)
    return is_two_of_four(weight.numpy())


def one_layer(spec: ConvSpec, pattern: Pattern, plugin: bool) -> onnx.ModelProto:
    """A model of one call, random weights of that pattern, as `layer` between casts to fp16."""
    rng = np.random.default_rng(0)
    outputs, inputs, height, width = spec.shape
    weight = (rng.standard_normal(spec.shape) * 0.1).astype(np.float32)
    weight *= pattern.largest(weight)
    stored = weight
    if spec.op == "conv_transpose2d":
        shape = (inputs * spec.groups, outputs // spec.groups, height, width)
        stored = (rng.standard_normal(shape) * 0.1).astype(np.float32)
    elif spec.op == "linear":
        stored = np.ascontiguousarray(weight[:, :, 0, 0].T)
    values = {"w": stored.astype(np.float16), "b": np.zeros(outputs, np.float16)}
    node = _plugin(spec, pattern, weight) if plugin else _node(spec)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["x16"], "cast_in", to=TensorProto.FLOAT16),
            node,
            helper.make_node("Cast", ["y16"], ["y"], "cast_out", to=TensorProto.FLOAT),
        ],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, spec.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in values.items() if k in node.input],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)


def _node(spec: ConvSpec) -> onnx.NodeProto:
    if spec.op == "linear":
        return helper.make_node("MatMul", ["x16", "w"], ["y16"], "layer")
    left, right, top, bottom = spec.padding
    more: dict[str, Any] = (
        {"output_padding": spec.output_padding} if spec.op == "conv_transpose2d" else {}
    )
    kind = "ConvTranspose" if more else "Conv"
    return helper.make_node(
        kind, ["x16", "w", "b"], ["y16"], "layer", strides=spec.stride, dilations=spec.dilation,
        group=spec.groups, pads=[top, left, bottom, right], **more,
    )  # fmt: skip


def _plugin(spec: ConvSpec, pattern: Pattern, weight: NDArray[np.float32]) -> onnx.NodeProto:
    kernel = (spec.shape[2], spec.shape[3])
    shape = ConvShape(kernel, spec.stride, spec.dilation, spec.padding, spec.groups)
    packed = cuda_pack.pack(weight, np.zeros(len(weight), np.float32), shape, name="layer")
    words = np.frombuffer(packed + bytes(-len(packed) % 4), np.int32)
    node = helper.make_node(
        OPERATOR, ["x16"], ["y16"], "layer", domain=DOMAIN, weights=numpy_helper.from_array(words),
        bytes=len(packed), format="cuda", residual=0, routed=0, layout="NCHW", pattern=str(pattern),
    )  # fmt: skip
    node.attribute.extend([helper.make_attribute("name", "layer"), _NAMESPACE])
    return node


def _name_layers(model: onnx.ModelProto, uses: Mapping[_Key, list[str]]) -> None:
    """Names every node, those that apply a weight after it, and says where plugins are found.

    A weight is found by its values, in the order of its uses: the exporter transposes weights of
    linear layers, and keeps one of several that are equal.
    """
    waiting = {
        tensor.name: uses.get(_key(numpy_helper.to_array(tensor)), [])
        for tensor in model.graph.initializer
    }
    for index, node in enumerate(model.graph.node):
        names = waiting.get(node.input[1], []) if node.op_type in WEIGHTED else []
        if names:
            node.name = names.pop(0)
        elif node.domain == DOMAIN:
            node.attribute.append(_NAMESPACE)
        else:
            node.name = f"{node.op_type}_{index}"


def _uses(program: Program, plugins: Collection[str]) -> dict[_Key, list[str]]:
    """A weight's values, as they are or transposed -> the names of the nodes that apply them."""
    found: dict[_Key, list[str]] = {}
    counts: dict[str, int] = {}
    for node in program.module.graph.nodes:
        conv = read_conv(node)
        name = "" if conv is None else str(conv.weight.target)
        if not name or name in plugins:
            continue
        counts[name] = counts.get(name, 0) + 1
        value = get_tensor(program.module, name).to(torch.float16).numpy()
        names = found.setdefault(_key(value), [])
        names.append(name if counts[name] == 1 else f"{name}{_AGAIN}{counts[name]}")
        if value.ndim == 2:
            found[_key(np.ascontiguousarray(value.T))] = names
    return found


def _key(values: NDArray[np.generic]) -> _Key:
    return str(values.dtype), values.shape, values.tobytes()
