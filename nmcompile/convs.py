"""Graph nodes that apply a weight -> one description of a convolution, whatever ATen calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

aten = torch.ops.aten


@dataclass(frozen=True)
class Conv:
    """One application of a weight.

    Attributes:
        op: conv2d, conv_transpose2d or linear.
        source: the node whose value is convolved.
        weight, bias: get_attr nodes (bias may be None).
        stride, dilation: as ATen has them, pairs.
        padding: (left, right, top, bottom) zeros around the input.
        output_padding: transposed convolutions only.
        groups: convolution groups.
    """

    op: str
    source: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1


def read_conv(node: fx.Node, constant: bool = True) -> Conv | None:
    """Describes `node` if it is a 2-D convolution or linear layer.

    Args:
        node: any node.
        constant: whether the weight must be one of the network's own, not computed by it.
    """
    if node.op != "call_function":
        return None
    reader = _READERS.get(node.target)
    if reader is None:
        return None
    arguments = named_arguments(node)
    weight = arguments.get("weight")
    if not isinstance(weight, fx.Node) or (constant and weight.op != "get_attr"):
        return None
    conv: Conv | None = reader(arguments)
    return conv


def weight_uses(module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Parameter name -> the nodes that apply it, in execution order."""
    uses: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        conv = read_conv(node)
        if conv is not None:
            uses.setdefault(str(conv.weight.target), []).append(node)
    return uses


def get_tensor(module: fx.GraphModule, name: str) -> Tensor:
    """The tensor that a get_attr node of that target yields."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    tensor: Tensor = value.detach()
    return tensor


def set_tensor(module: fx.GraphModule, name: str, value: Tensor) -> None:
    """Replaces (or adds) that tensor; it becomes a parameter that needs no gradient."""
    path, _, leaf = name.rpartition(".")
    owner: Any = module
    for part in filter(None, path.split(".")):
        if not hasattr(owner, part):
            setattr(owner, part, torch.nn.Module())
        owner = getattr(owner, part)
    owner._buffers.pop(leaf, None)
    setattr(owner, leaf, torch.nn.Parameter(value.detach().clone(), requires_grad=False))


def to_canonical(weight: Tensor, op: str, groups: int) -> Tensor:
    """The operator's weight -> [out, in/groups, kh, kw]."""
    if op == "linear":
        return weight[:, :, None, None]
    if op == "conv2d":
        return weight
    inputs, outputs, height, width = weight.shape
    split = weight.reshape(groups, inputs // groups, outputs, height, width)
    return split.transpose(1, 2).reshape(groups * outputs, inputs // groups, height, width)


def from_canonical(weight: Tensor, op: str, groups: int) -> Tensor:
    """[out, in/groups, kh, kw] -> the operator's weight."""
    if op == "linear":
        return weight[:, :, 0, 0]
    if op == "conv2d":
        return weight
    outputs, inputs, height, width = weight.shape
    split = weight.reshape(groups, outputs // groups, inputs, height, width)
    return split.transpose(1, 2).reshape(groups * inputs, outputs // groups, height, width)


def columns(x: Tensor, conv: Conv, kernel: tuple[int, int]) -> Tensor:
    """The input [N, C, H, W] as im2col rows [N, groups, in/groups * kh * kw, positions].

    A transposed convolution is unfolded as the convolution it equals: its input spread out by
    the stride, padded, and met by the (flipped) kernel.
    """
    if conv.op == "linear":
        return x.reshape(1, 1, -1, x.shape[-1]).transpose(2, 3)
    if conv.op == "conv_transpose2d":
        unfolded = F.unfold(_spread(x, conv, kernel), kernel, dilation=conv.dilation)
        unfolded = unfolded.reshape(*unfolded.shape[:1], x.shape[1], kernel[0] * kernel[1], -1)
        unfolded = unfolded.flip(2).flatten(1, 2)
    else:
        padded = F.pad(x, conv.padding)
        unfolded = F.unfold(padded, kernel, dilation=conv.dilation, stride=conv.stride)
    return unfolded.reshape(x.shape[0], conv.groups, -1, unfolded.shape[-1])


def _spread(x: Tensor, conv: Conv, kernel: tuple[int, int]) -> Tensor:
    batch, channels, height, width = x.shape
    (sy, sx), (dy, dx) = conv.stride, conv.dilation
    spread = x.new_zeros(batch, channels, (height - 1) * sy + 1, (width - 1) * sx + 1)
    spread[:, :, ::sy, ::sx] = x
    left, right, top, bottom = conv.padding
    reach_y, reach_x = dy * (kernel[0] - 1), dx * (kernel[1] - 1)
    out_y, out_x = conv.output_padding
    around = (reach_x - left, reach_x - right + out_x, reach_y - top, reach_y - bottom + out_y)
    return F.pad(spread, around)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    first, last = value[0], value[-1]
    return (int(first), int(last))


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Name -> argument of a call of an ATen operator, defaults filled in."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    defaults = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def _symmetric(padding: Any) -> tuple[int, int, int, int]:
    y, x = _pair(padding)
    return (x, x, y, y)


def _read_conv2d(a: dict[str, Any]) -> Conv:
    return Conv(
        "conv2d", a["input"], a["weight"], a["bias"], _pair(a["stride"]),
        _symmetric(a["padding"]), _pair(a["dilation"]), (0, 0), int(a["groups"]),
    )  # fmt: skip


def _read_conv2d_same(a: dict[str, Any]) -> Conv | None:
    weight = a["weight"].meta["val"]
    dilation = _pair(a["dilation"])
    if a["padding"] == "valid":
        padding = (0, 0, 0, 0)
    else:
        total_y, total_x = (d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
        padding = (total_x // 2, total_x - total_x // 2, total_y // 2, total_y - total_y // 2)
    return Conv(
        "conv2d", a["input"], a["weight"], a["bias"], _pair(a["stride"]), padding, dilation,
        (0, 0), int(a["groups"]),
    )  # fmt: skip


def _read_transpose(a: dict[str, Any]) -> Conv:
    return Conv(
        "conv_transpose2d", a["input"], a["weight"], a["bias"], _pair(a["stride"]),
        _symmetric(a["padding"]), _pair(a["dilation"]), _pair(a["output_padding"]),
        int(a["groups"]),
    )  # fmt: skip


def _read_convolution(a: dict[str, Any]) -> Conv | None:
    if len(a["weight"].meta["val"].shape) != 4:
        return None
    return _read_transpose(a) if a["transposed"] else _read_conv2d(a)


def _read_linear(a: dict[str, Any]) -> Conv:
    return Conv("linear", a["input"], a["weight"], a["bias"])


_READERS: dict[Any, Any] = {
    aten.conv2d.default: _read_conv2d,
    aten.conv2d.padding: _read_conv2d_same,
    aten.conv_transpose2d.input: _read_transpose,
    aten.convolution.default: _read_convolution,
    aten.linear.default: _read_linear,
}
