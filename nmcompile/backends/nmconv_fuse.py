"""A Program's graph -> the same with nm_conv2d in place of convolutions and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from nmcompile.backends.nmconv import nm_conv2d
from nmcompile.convs import Conv, get_tensor, named_arguments, read_conv
from nmcompile.program import Program
from nmcompile.runtime.native.blob import Activation, ConvShape, Residual

aten = torch.ops.aten
# What works on each pixel alone, wherever its channels stand.
_POINTWISE = {
    aten.relu.default, aten.leaky_relu.default, aten.silu.default, aten.sigmoid.default,
    aten.tanh.default, aten.gelu.default, aten.clamp.default, aten.add.Tensor, aten.sub.Tensor,
    aten.mul.Tensor, aten.div.Tensor, aten.neg.default,
}  # fmt: skip


@dataclass(eq=False)
class Fused:
    """A convolution and the operations that become a part of it.

    Attributes:
        conv: what is convolved by what.
        last: the node whose value the operator gives.
        shape: of the weights, [out, in / groups, kh, kw].
        residual: the node that is added; None where nothing is.
        place: whether that comes before or after the activation.
        activation, slope, shuffle: see nm_conv2d.
        name: the layer's own, with a number if its weight is used again.
    """

    conv: Conv
    last: fx.Node
    shape: tuple[int, int, int, int]
    name: str = ""
    residual: fx.Node | None = None
    place: Residual = Residual.NONE
    activation: Activation = Activation.NONE
    slope: float = 0.0
    shuffle: int = 1

    @property
    def layer(self) -> str:
        """The weight's name in the plan."""
        return str(self.conv.weight.target)

    @property
    def conv_shape(self) -> ConvShape:
        """Its sizes, for packing."""
        conv, (_, _, *kernel) = self.conv, self.shape
        return ConvShape(
            (kernel[0], kernel[1]), conv.stride, conv.dilation, conv.padding, conv.groups
        )


@dataclass(frozen=True)
class Takes:
    """What a format can express, besides plain convolutions.

    Attributes:
        obstacle: why it lacks a convolution; None if it does not.
        largest_shuffle: of pixel shuffles.
        shuffled_residual: whether it adds to a shuffled image.
    """

    obstacle: Callable[[Fused], str | None]
    largest_shuffle: int
    shuffled_residual: bool


def find_convs(program: Program, takes: Takes) -> tuple[list[Fused], dict[str, str]]:
    """What could be an operator, nothing fused yet, and why other layers could not.

    A layer whose weight is used in several places is taken in all of them or nowhere.
    """
    found: list[Fused] = []
    obstacles: dict[str, str] = {}
    for node in program.module.graph.nodes:
        conv = read_conv(node)
        if conv is None:
            continue
        outputs, inputs, *kernel = get_tensor(program.module, str(conv.weight.target)).shape[:4]
        height, width = kernel or (1, 1)
        fused = Fused(conv, node, (int(outputs), int(inputs), int(height), int(width)))
        why = takes.obstacle(fused) if conv.op == "conv2d" else f"{conv.op}; supported is conv2d"
        if conv.bias is not None and conv.bias.op != "get_attr":
            why = "a bias that the network computes; supported are constant ones"
        if why is not None:
            obstacles.setdefault(fused.layer, why)
            continue
        uses = sum(other.layer == fused.layer for other in found)
        fused.name = fused.layer if not uses else f"{fused.layer}@{uses + 1}"
        found.append(fused)
    return [fused for fused in found if fused.layer not in obstacles], obstacles


def fuse(found: list[Fused], takes: Takes) -> None:
    """Makes what follows a convolution, and nothing else reads, a part of it."""
    taken: set[fx.Node] = set()
    for fused in found:
        while _take_next(fused, takes, taken):
            taken.add(fused.last)


def _take_next(fused: Fused, takes: Takes, taken: Collection[fx.Node]) -> bool:
    node = fused.last
    if len(node.users) != 1:
        return False
    (user,) = node.users
    if user in taken or user.op != "call_function":
        return False
    open_ = fused.activation is Activation.NONE and fused.place is not Residual.AFTER_ACTIVATION
    if user.target in (aten.relu.default, aten.leaky_relu.default) and open_:
        leaky = user.target is aten.leaky_relu.default
        fused.activation = Activation.LEAKY_RELU if leaky else Activation.RELU
        fused.slope = float(named_arguments(user)["negative_slope"]) if leaky else 0.0
    elif user.target is aten.pixel_shuffle.default:
        factor = int(named_arguments(user)["upscale_factor"])
        if fused.shuffle != 1 or fused.residual or factor > takes.largest_shuffle:
            return False
        fused.shuffle = factor
    elif user.target is aten.add.Tensor and _adds(fused, user, takes):
        after = fused.activation is not Activation.NONE
        fused.place = Residual.AFTER_ACTIVATION if after else Residual.BEFORE_ACTIVATION
    else:
        return False
    fused.last = user
    return True


def _adds(fused: Fused, user: fx.Node, takes: Takes) -> bool:
    """Whether a sum can be the residual's; notes which image that is."""
    arguments = named_arguments(user)
    pair = arguments["self"], arguments["other"]
    others = [item for item in pair if isinstance(item, fx.Node) and item is not fused.last]
    if fused.residual or arguments["alpha"] != 1 or len(others) != 1:
        return False
    if fused.shuffle != 1 and not takes.shuffled_residual:
        return False
    if others[0].op == "get_attr" or _sizes(others[0]) != _sizes(fused.last):
        return False
    fused.residual = others[0]
    return True


def _sizes(node: fx.Node) -> list[int | None] | None:
    """Sizes that are known, None for free ones, which are equal where the others are."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() != 4:
        return None
    sizes: tuple[Any, ...] = tuple(value.shape)
    return [size if isinstance(size, int) else None for size in sizes]


def after_inputs(node: fx.Node) -> fx.Node:
    """The node, or where it is an input the last of the inputs: they stay together."""
    inputs = node.graph.find_nodes(op="placeholder")
    return inputs[-1] if node in inputs else node


@dataclass
class Rewriter:
    """Puts the operator into a graph, in place.

    Attributes:
        module: the graph, whose nodes `found` names.
        found: what becomes an operator.
        layout: of the operator's images; what is NHWC stays so from one to the next.
        least: weight name -> name in the module of the least level that keeps each weight.
        level: the node that holds the level; None where there are no levels.
    """

    module: fx.GraphModule
    found: list[Fused]
    layout: str
    least: dict[str, str] = field(default_factory=dict)
    level: fx.Node | None = None

    def run(self) -> None:
        """Does it."""
        self._last: dict[fx.Node, fx.Node] = {}  # image -> the same with its channels last
        self._now: dict[fx.Node, fx.Node] = {}  # a node of `found` -> what has taken its place
        ends = {fused.last: fused for fused in self.found}
        for node in list(self.module.graph.nodes):
            if node in ends:
                self._replace(node, self._call(ends[node]))
            elif self._stays_last(node):
                with self.module.graph.inserting_before(node):
                    made = self.module.graph.node_copy(node, lambda x: self._last.get(x, x))
                if node.target is aten.cat.default:
                    made.args = (made.args[0], 3)
                self._replace(node, made)
        self.module.graph.eliminate_dead_code()
        self.module.graph.lint()
        self.module.recompile()

    def _call(self, fused: Fused) -> fx.Node:
        conv, graph = fused.conv, self.module.graph
        with graph.inserting_before(fused.last):
            x = self._image(conv.source)
            residual = None if fused.residual is None else self._image(fused.residual)
            least = self.least.get(fused.layer)
            held = None if least is None else graph.get_attr(least)
            bias = None if conv.bias is None else graph.get_attr(str(conv.bias.target))
            weight = graph.get_attr(str(conv.weight.target))
            return graph.call_function(
                nm_conv2d._opoverload,
                (
                    x, weight, bias, residual, None if held is None else self.level, held,
                    conv.stride, conv.padding, conv.dilation, conv.groups, int(fused.activation),
                    fused.slope, int(fused.place), fused.shuffle, self.layout, fused.name,
                ),
            )  # fmt: skip

    def _image(self, node: fx.Node) -> fx.Node:
        """The image in the operator's layout; transposed once for all who read it so."""
        node = self._now.get(node, node)
        if self.layout == "NCHW":
            return node
        if node not in self._last:
            self._last[node] = self._permuted(node, [0, 2, 3, 1])
        return self._last[node]

    def _permuted(self, node: fx.Node, axes: list[int]) -> fx.Node:
        with self.module.graph.inserting_after(after_inputs(node)):
            return self.module.graph.call_function(aten.permute.default, (node, axes))

    def _replace(self, node: fx.Node, made: fx.Node) -> None:
        """Gives those who read `node` what `made` computes, in the layout that they expect."""
        seen = made
        if self.layout == "NHWC":
            seen = self._permuted(made, [0, 3, 1, 2])
            self._last[seen] = made
        seen.meta = dict(node.meta)
        node.replace_all_uses_with(seen)
        self._now[node] = seen

    def _stays_last(self, node: fx.Node) -> bool:
        """Whether it takes pixels one by one, and reads nothing but images with channels last."""
        images = node.all_input_nodes
        if self.layout == "NCHW":
            return False
        if node.target is aten.cat.default:
            same = named_arguments(node)["dim"] in (1, -3) and _sizes(node) is not None
        else:
            same = all(_sizes(image) == _sizes(node) for image in images)
            same &= node.target in _POINTWISE
        return bool(images) and same and all(image in self._last for image in images)
