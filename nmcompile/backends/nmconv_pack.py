"""A convolution with what is fused into it -> an NMConv node's attributes, its weights packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import fx

from nmcompile.backends.as_conv import LARGEST_FACTOR
from nmcompile.backends.levels import Levels
from nmcompile.backends.nmconv import DOMAIN, OPERATOR, VERSION, register_schema
from nmcompile.backends.nmconv_fuse import Fused, Takes
from nmcompile.convs import get_tensor
from nmcompile.pattern import DENSE, Pattern
from nmcompile.runtime.native import cuda_pack
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Residual,
    Value,
    conv_data,
    family_of,
    level_data,
    pack,
)
from nmcompile.runtime.native.cuda_pack import Half

_Weights = NDArray[np.float32]
OPSET, IR_VERSION = 20, 10


@dataclass(frozen=True)
class Call:
    """One call of the operator.

    Attributes:
        name: what errors call the layer.
        weight: [out, in / groups, kh, kw], zeros where the pattern keeps nothing.
        bias: [out], or None.
        shape: kernel, stride, dilation, padding, groups.
        pattern: of the weights.
        activation, slope, residual, shuffle: see nmconv.nm_conv2d.
        least: uint8 of the weight's shape, the least level that keeps each; None without levels.
        levels: how many there are.
    """

    name: str
    weight: _Weights
    bias: _Weights | None
    shape: ConvShape
    pattern: Pattern = DENSE
    activation: Activation = Activation.NONE
    slope: float = 0.0
    residual: Residual = Residual.NONE
    shuffle: int = 1
    least: NDArray[np.uint8] | None = None
    levels: int = 1

    @property
    def inputs(self) -> int:
        """Channels of the image."""
        return int(self.weight.shape[1]) * self.shape.groups

    @property
    def outputs(self) -> int:
        """Channels of the result."""
        return len(self.weight) // self.shuffle**2


# Those of sparse tensor cores, and those whose channels are gathered.
CUDA_PATTERNS = tuple(map(Pattern.parse, ("2:4", "1:4", "2:8", "64x1:4", "64x2:8")))


def _cpu_obstacle(fused: Fused) -> str | None:
    shape = fused.conv_shape
    reach = [d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True)]
    left, right, top, bottom = shape.padding
    if max(left, right) > reach[1] or max(top, bottom) > reach[0]:
        return "padding beyond its kernel's reach; supported is up to that"
    return None


def _cuda_obstacle(fused: Fused) -> str | None:
    shape, (outputs, inputs, *_) = fused.conv_shape, fused.shape
    return cuda_pack.obstacle(shape, Activation.NONE, inputs * shape.groups, outputs)


TAKES = {
    "cpu": Takes(_cpu_obstacle, LARGEST_FACTOR, shuffled_residual=False),
    "cuda": Takes(_cuda_obstacle, cuda_pack.LARGEST_SHUFFLE, shuffled_residual=True),
}


def call_of(module: fx.GraphModule, fused: Fused, pattern: Pattern, levels: Levels) -> Call:
    """The call that a part of a graph becomes; NmcompileError if levels do not fit its weights."""

    def read(node: fx.Node) -> _Weights:
        return get_tensor(module, str(node.target)).to(torch.float32).numpy()

    bias, weight = fused.conv.bias, read(fused.conv.weight)
    return Call(
        fused.name, weight, None if bias is None else read(bias), fused.conv_shape, pattern,
        fused.activation, fused.slope, fused.place, fused.shuffle,
        levels.of(fused.layer, weight), levels.count,
    )  # fmt: skip


def packed(call: Call, half: Half | None) -> bytes:
    """The bytes that the node holds: format cuda where `half` says what images are, else cpu.

    Raises:
        NmcompileError: a weight is too large for fp16.
    """
    if half is None:
        return _program(call)
    return cuda_pack.pack(
        call.weight, call.bias, call.shape, half, activation=call.activation, slope=call.slope,
        residual=call.residual, shuffle=call.shuffle, least=call.least,
        levels=1 if call.least is None else call.levels, name=call.name,
    )  # fmt: skip


def _program(call: Call) -> bytes:
    """A libnmk program of that one convolution, in fp32."""
    family = family_of(call.pattern.v, dense=call.pattern.is_dense)
    data = conv_data(call.weight, call.bias, family is not Family.DENSE)
    if call.least is not None:
        data = (*data, level_data(call.weight, call.least, call.levels))
    channels = [call.inputs, *[call.outputs] * (1 if call.residual is Residual.NONE else 2)]
    values = [Value(index, 0, count) for index, count in enumerate(channels)]
    last = len(channels) - 1
    step = Operation(
        Kind.CONV2D, tuple(range(last)), last, call.shape.params(call.residual, family),
        (call.slope, 0.0, 1.0, 1.0), data, call.activation, call.shuffle,
    )  # fmt: skip
    levels = 1 if call.least is None else call.levels
    return pack(channels, values, [step], last, [last], levels=levels)


def attributes(call: Call, held: bytes, half: Half | None, layout: str) -> dict[str, Any]:
    """The node's attributes; `weights` as an array."""
    shape = call.shape
    left, right, top, bottom = shape.padding
    tall, wide = (d * (k - 1) + 1 for d, k in zip(shape.dilation, shape.kernel, strict=True))
    return {
        "weights": np.frombuffer(held + bytes(-len(held) % 4), "<i4"),
        "bytes": len(held),
        "format": "cpu" if half is None else "cuda",
        "residual": int(call.residual),
        "routed": int(call.least is not None),
        "layout": layout,
        "sizes": [
            call.outputs, call.shuffle, *shape.stride, tall - top - bottom, wide - left - right,
        ],
        "name": call.name,
        "pattern": str(call.pattern),
    }  # fmt: skip


def single(call: Call, half: Half | None = None, layout: str = "NCHW") -> onnx.ModelProto:
    """A model of that one call, of free batch, height and width: x[, residual][, level] -> y."""
    held = attributes(call, packed(call, half), half, layout)
    held["weights"] = numpy_helper.from_array(held["weights"])
    names = ["x", *["residual"] * bool(held["residual"]), *["level"] * held["routed"]]
    node = helper.make_node(OPERATOR, names, ["y"], domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in held.items())
    types = {Half.FP16: TensorProto.FLOAT16, Half.BF16: TensorProto.BFLOAT16}
    kind = TensorProto.FLOAT if half is None else types[half]

    def image(name: str, channels: int, size: str) -> onnx.ValueInfoProto:
        sides: list[str | int | None] = [f"height{size}", f"width{size}"]
        axes = [*sides, channels] if layout == "NHWC" else [channels, *sides]
        return helper.make_tensor_value_info(name, kind, ["batch", *axes])

    values = {
        "x": image("x", call.inputs, ""),
        "residual": image("residual", call.outputs, "_out"),
        "level": helper.make_tensor_value_info("level", TensorProto.INT32, [1]),
    }
    graph = helper.make_graph(
        [node], "call", [values[name] for name in names], [image("y", call.outputs, "_out")]
    )
    register_schema()
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
