"""ATen operators other than convolutions -> steps of a native program; one function for each."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from nmcompile.backends.as_conv import mixed
from nmcompile.backends.steps import Step, Tensor
from nmcompile.convs import get_tensor
from nmcompile.runtime.native.blob import Activation, Kind, Pointwise

if TYPE_CHECKING:
    from nmcompile.backends.native import Lowering

aten = torch.ops.aten
_INFINITY = float("inf")

# ATen operator -> what lowers it; False means that it cannot, in this form.
Handler = Callable[["Lowering", fx.Node], bool | None]
HANDLERS: dict[Any, Handler] = {}


def handles(*targets: Any) -> Callable[[Handler], Handler]:
    """Registers a function for ATen operators."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(targets, handler))
        return handler

    return register


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """An operator's argument, however it is given."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _plain(kind: Activation) -> Handler:
    return lambda low, node: low.activate(node, kind)


for _target, _kind in {
    aten.relu.default: Activation.RELU,
    aten.silu.default: Activation.SILU,
    aten.sigmoid.default: Activation.SIGMOID,
    aten.tanh.default: Activation.TANH,
    aten.mish.default: Activation.MISH,
    aten.hardswish.default: Activation.HARD_SWISH,
    aten.sqrt.default: Activation.SQUARE_ROOT,
}.items():
    HANDLERS[_target] = _plain(_kind)


@handles(aten.leaky_relu.default)
def _leaky_relu(low: Lowering, node: fx.Node) -> None:
    slope = float(argument(node, 1, "negative_slope", 0.01))
    low.activate(node, Activation.LEAKY_RELU, (slope, 0.0))


@handles(aten.elu.default)
def _elu(low: Lowering, node: fx.Node) -> bool | None:
    if argument(node, 2, "scale", 1) != 1 or argument(node, 3, "input_scale", 1) != 1:
        return False
    low.activate(node, Activation.ELU, (float(argument(node, 1, "alpha", 1.0)), 0.0))
    return None


@handles(aten.gelu.default)
def _gelu(low: Lowering, node: fx.Node) -> None:
    exact = argument(node, 1, "approximate", "none") == "none"
    low.activate(node, Activation.GELU if exact else Activation.GELU_TANH)


@handles(aten.prelu.default)
def _prelu(low: Lowering, node: fx.Node) -> bool | None:
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    channels = low.tensor(node.args[0]).channels
    slopes = get_tensor(low.module, str(weight.target)).expand(channels).contiguous()
    low.activate(node, Activation.PRELU, slopes=slopes.numpy())
    return None


@handles(aten.clamp.default, aten.hardtanh.default, aten.clamp_min.default, aten.relu6.default)
def _clamp(low: Lowering, node: fx.Node) -> bool | None:
    known: dict[Any, tuple[float, float]] = {
        aten.hardtanh.default: (-1.0, 1.0),
        aten.relu6.default: (0.0, 6.0),
    }
    defaults = known.get(node.target, (None, None))
    least, most = (argument(node, i + 1, ("min", "max")[i], defaults[i]) for i in range(2))
    if isinstance(least, fx.Node) or isinstance(most, fx.Node):
        return False
    limits = (-_INFINITY if least is None else least, _INFINITY if most is None else most)
    low.activate(node, Activation.CLAMP, (float(limits[0]), float(limits[1])))
    return None


@handles(aten.add.Tensor, aten.sub.Tensor)
def _add(low: Lowering, node: fx.Node) -> bool | None:
    x, y = node.args[:2]
    sign = _number(node.kwargs.get("alpha", 1)) * (-1.0 if node.target is aten.sub.Tensor else 1.0)
    if not isinstance(y, fx.Node):
        low.pointwise(node, Pointwise.AFFINE, [_node(x)], beta=sign * float(_number(y)))
        return None
    if x not in low.tensors or y not in low.tensors:
        return _affine(low, node, sign)
    if _same_size(x, y):
        fused = low.take_residual(node, y, x, sign) or (
            sign == 1.0 and low.take_residual(node, x, y, 1.0)
        )
        if not fused:
            low.pointwise(node, Pointwise.SUM, [_node(x), y], beta=sign)
        return None
    if _is_gate(x, y):
        low.pointwise(node, Pointwise.GATE_SUM, [_node(x), y], beta=sign)
    elif _is_map(x, y):
        low.pointwise(node, Pointwise.SUM, [_node(x), y], beta=sign)
    elif _is_map(y, x):
        low.pointwise(node, Pointwise.SUM, [y, _node(x)], alpha=sign)
    else:
        return False
    return None


@handles(aten.mul.Tensor, aten.div.Tensor)
def _multiply(low: Lowering, node: fx.Node) -> bool | None:
    x, y = node.args[:2]
    if not isinstance(y, fx.Node):
        factor = float(_number(y))
        factor = 1.0 / factor if node.target is aten.div.Tensor else factor
        low.pointwise(node, Pointwise.AFFINE, [_node(x)], alpha=factor, beta=0.0)
        return None
    if node.target is aten.div.Tensor:
        return _divide(low, node)
    if x not in low.tensors or y not in low.tensors:
        return _affine(low, node, None)
    if _same_size(x, y) or _is_map(x, y):
        low.pointwise(node, Pointwise.PRODUCT, [_node(x), y])
    elif _is_map(y, x):
        low.pointwise(node, Pointwise.PRODUCT, [y, _node(x)])
    elif _is_gate(x, y):
        low.pointwise(node, Pointwise.GATE, [_node(x), y])
    elif _is_gate(y, x):
        low.pointwise(node, Pointwise.GATE, [y, _node(x)])
    else:
        return False
    return None


def _divide(low: Lowering, node: fx.Node) -> bool | None:
    x, y = (_node(item) for item in node.args[:2])
    if y not in low.tensors or not (_same_size(x, y) or _is_map(x, y)):
        return False
    low.pointwise(node, Pointwise.QUOTIENT, [x, y])
    return None


@handles(aten.pow.Tensor_Scalar)
def _square(low: Lowering, node: fx.Node) -> bool | None:
    x = _node(node.args[0])
    if node.args[1] != 2:
        return False
    low.pointwise(node, Pointwise.PRODUCT, [x, x])
    return None


@handles(aten.rsub.Scalar)
def _reversed_sub(low: Lowering, node: fx.Node) -> None:
    factor = -float(argument(node, 2, "alpha", 1))
    shift = float(_number(node.args[1]))
    low.pointwise(node, Pointwise.AFFINE, [_node(node.args[0])], alpha=factor, beta=shift)


def _affine(low: Lowering, node: fx.Node, sign: float | None) -> bool | None:
    """Image and constant, either way round: x * c where sign is None, else x + sign * c."""
    x, y = node.args[:2]
    image, constant = (x, y) if x in low.tensors else (y, x)
    swapped = image is y and sign is not None and sign != 1.0
    if swapped or not isinstance(constant, fx.Node) or constant.op != "get_attr":
        return False
    value = get_tensor(low.module, str(constant.target))
    channels = low.tensor(image).channels
    shape = [1] * (4 - value.dim()) + list(value.shape) if value.dim() <= 4 else []
    if shape not in ([1, 1, 1, 1], [1, channels, 1, 1]) or value.dtype != torch.float32:
        return False
    each = value.reshape(-1).expand(channels).contiguous().numpy()
    if sign is None:
        low.pointwise(node, Pointwise.AFFINE, [_node(image)], data=(each,), beta=0.0)
    else:
        low.pointwise(node, Pointwise.AFFINE, [_node(image)], data=(None, sign * each))
    return None


@handles(aten.neg.default)
def _negate(low: Lowering, node: fx.Node) -> None:
    low.pointwise(node, Pointwise.AFFINE, [_node(node.args[0])], alpha=-1.0, beta=0.0)


@handles(aten.cat.default)
def _cat(low: Lowering, node: fx.Node) -> bool | None:
    pieces = node.args[0]
    if argument(node, 1, "dim", 0) not in (1, -3) or not isinstance(pieces, (list, tuple)):
        return False
    low.concatenate(node, [low.tensor(piece) for piece in pieces])
    return None


@handles(aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default)
def _split(low: Lowering, node: fx.Node) -> bool | None:
    """Nothing happens here: getitem finds the part."""
    low.tensor(node.args[0])
    return None if argument(node, 2, "dim", 0) in (1, -3) else False


@handles(operator.getitem)
def _part(low: Lowering, node: fx.Node) -> bool | None:
    source, number = node.args
    if not isinstance(source, fx.Node) or HANDLERS.get(source.target) is not _split:
        return False
    assert isinstance(number, int)
    sizes = [int(part.shape[1]) for part in source.meta["val"]]
    _slice(low, node, source.args[0], sum(sizes[:number]), sizes[number])
    return None


@handles(aten.slice.Tensor)
def _slice_tensor(low: Lowering, node: fx.Node) -> bool | None:
    start, stop = argument(node, 2, "start", 0) or 0, argument(node, 3, "end")
    axis = argument(node, 1, "dim", 0) % 4
    if argument(node, 4, "step", 1) != 1 or not isinstance(start, int):
        return False
    channels = low.tensor(node.args[0]).channels
    whole = stop is None or stop == sys.maxsize
    if axis != 1 and start == 0 and whole:
        return _same(low, node)
    if axis in (2, 3):
        off = 0 if whole else stop
        if not isinstance(off, int) or start < 0 or off > 0 or (off == 0 and not whole):
            return False
        low.frame(node, (0, 0, -start, off) if axis == 2 else (-start, off, 0, 0))
        return None
    if axis != 1:
        return False
    first = start + channels if start < 0 else start
    _slice(low, node, node.args[0], first, int(node.meta["val"].shape[1]))
    return None


def _slice(low: Lowering, node: fx.Node, source: Any, first: int, channels: int) -> None:
    low.tensors[node] = Tensor(channels, low.tensor(source), first)


@handles(aten.mean.dim)
def _mean(low: Lowering, node: fx.Node) -> bool | None:
    if not argument(node, 2, "keepdim", False):
        return False
    if [axis % 4 for axis in argument(node, 1, "dim") or ()] == [1]:
        low.convolve(node, *mixed(low.tensor(node.args[0]).channels))
        return None
    return _moments(low, node, (0, 0))


@handles(aten.adaptive_avg_pool2d.default)
def _average(low: Lowering, node: fx.Node) -> bool | None:
    return _moments(low, node, (0, 0), [2, 3]) if pair(node.args[1]) == (1, 1) else False


@handles(aten.std.correction)
def _deviation(low: Lowering, node: fx.Node) -> bool | None:
    correction = argument(node, 2, "correction", 1)
    if not node.kwargs.get("keepdim", False) or correction not in (0, 1):
        return False
    return _moments(low, node, (1, int(correction)))


def _moments(
    low: Lowering, node: fx.Node, params: tuple[int, int], axes: Any = None
) -> bool | None:
    axes = axes or argument(node, 1, "dim")
    if sorted(axis % 4 for axis in axes or ()) != [2, 3]:
        return False
    source = low.tensor(node.args[0])
    low.add(node, Step(Kind.MOMENTS, [source], Tensor(source.channels), params))
    return None


@handles(aten.clone.default, aten.contiguous.default, aten.alias.default)
def _same(low: Lowering, node: fx.Node) -> None:
    low.tensors[node] = low.tensor(node.args[0])


def pair(value: Any) -> tuple[int, int]:
    """An operator's argument for y and x."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _node(value: Any) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value


def _number(value: Any) -> float:
    assert isinstance(value, (int, float))
    return value


def _ones(node: Any) -> list[bool]:
    """Which of a value's sizes are 1, so that they broadcast; free sizes are not."""
    return [isinstance(size, int) and size == 1 for size in node.meta["val"].shape]


def _same_size(x: Any, y: Any) -> bool:
    """Whether nothing is broadcast: sizes that are not 1 must be equal, however written."""
    return _ones(x) == _ones(y)


def _is_map(x: Any, y: Any) -> bool:
    """Whether y has one value for each pixel of x."""
    first, _, *sides = _ones(x)
    return _ones(y) == [first, True, *sides]


def _is_gate(x: Any, y: Any) -> bool:
    """Whether y has one value for each channel of x."""
    return _ones(y) == [*_ones(x)[:2], True, True]
