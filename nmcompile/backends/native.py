"""A Program's graph, or some nodes of it -> the bytes of a native program, or what prevents it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

import nmcompile.backends.native_spatial  # noqa: F401  (registers its handlers)
from nmcompile.backends.as_conv import LARGEST_FACTOR, phases, transposed
from nmcompile.backends.levels import NO_LEVELS, Levels
from nmcompile.backends.native_ops import HANDLERS
from nmcompile.backends.steps import Concat, Step, Steps, Tensor
from nmcompile.convs import Conv, get_tensor, read_conv, to_canonical, weight_uses
from nmcompile.pattern import DENSE
from nmcompile.program import Program
from nmcompile.runtime.native.blob import (
    Activation,
    Border,
    ConvShape,
    Family,
    Isa,
    Kind,
    Pointwise,
    Precision,
    Residual,
    conv_data,
    family_of,
)

aten = torch.ops.aten


class UnsupportedError(Exception):
    """An operation that the native backend does not have; str() names it."""


@dataclass(frozen=True)
class Allowed:
    """The kernels that a program may take.

    Attributes:
        isa: the most modern ones.
        precision: what they may round inputs and weights to.
    """

    isa: Isa = Isa.BEST
    precision: Precision = Precision.FP32


def lower(
    program: Program,
    allowed: Allowed = Allowed(),
    levels: Mapping[str, NDArray[np.uint8]] | None = None,
) -> bytes:
    """Packs the network; layers that the plan makes sparse take the sparse kernels.

    Args:
        program: the network.
        allowed: the kernels that it may take.
        levels: by weight name, the least level that keeps each weight, as `Levels` has it.

    Raises:
        UnsupportedError: the graph has an operation that the native backend lacks.
        NmcompileError: levels that do not fit the network's weights.
    """
    nodes = list(program.module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    output = nodes[-1].args[0]
    outputs = output if isinstance(output, tuple) else (output,)
    found = Levels(levels or {})
    found.check(weight_uses(program.module))
    return lower_nodes(program, nodes, inputs, outputs, {}, allowed, found)


def lower_nodes(
    program: Program,
    nodes: Sequence[fx.Node],
    inputs: Sequence[fx.Node],
    outputs: Sequence[Any],
    channels: Mapping[fx.Node, int],
    allowed: Allowed,
    levels: Levels = NO_LEVELS,
) -> bytes:
    """Packs a part of the network.

    Args:
        program: the network.
        nodes: what is to run, in the order of the graph.
        inputs: images that nodes read and do not make, in the order in which a call gives them.
        outputs: images that a call returns.
        channels: of inputs, where a survey found out more than their own nodes say.
        allowed: the kernels that it may take.
        levels: of the network's weights.

    Raises:
        UnsupportedError: one of the nodes is an operation that the native backend lacks.
    """
    lowering = Lowering(program, allowed, levels)
    for node in inputs:
        lowering.give(node, channels.get(node))
    lowering.steps.inputs = [lowering.tensors[node] for node in inputs]
    for node in nodes:
        lowering.visit(node)
    lowering.steps.outputs = [lowering.tensor(node) for node in outputs]
    return lowering.steps.to_bytes(allowed.isa)


@dataclass(frozen=True)
class Survey:
    """What the native backend could do with a network.

    Attributes:
        missing: nodes that it cannot run -> what it lacks.
        channels: of every image.
    """

    missing: dict[fx.Node, str]
    channels: dict[fx.Node, int]


def survey(program: Program) -> Survey:
    """Tries every node, with what the nodes before it give, whoever runs them."""
    lowering, found = Lowering(program, Allowed()), {}
    for node in program.module.graph.nodes:
        try:
            lowering.visit(node)
        except UnsupportedError as error:
            found[node] = str(error)
        if node.op == "placeholder" or node in found:
            with contextlib.suppress(UnsupportedError):
                lowering.give(node)
    return Survey(found, {node: tensor.channels for node, tensor in lowering.tensors.items()})


class Lowering:
    """Walks the graph once; fuses what follows a step into it where it is the only user."""

    def __init__(self, program: Program, allowed: Allowed, levels: Levels = NO_LEVELS) -> None:
        self.program = program
        self.allowed = allowed
        self.module = program.module
        self.batch = batch_of(program.module)
        self.levels = levels
        self.steps = Steps(levels=levels.count)
        self.tensors: dict[fx.Node, Tensor] = {}
        self.makers: dict[Tensor, Step] = {}
        plan = program.plan
        self.patterns = {x.name: x.pattern for x in plan.layers} if plan else {}

    def give(self, node: fx.Node, channels: int | None = None) -> None:
        """Takes a value as it comes from outside; UnsupportedError where it is no image."""
        if channels is None and not is_image(node, self.batch):
            raise UnsupportedError(f"an input that is no batch of images ({node.name})")
        self.tensors[node] = Tensor(channels or int(node.meta["val"].shape[1]))

    def visit(self, node: fx.Node) -> None:
        """Appends what computes a node; sizes and weights are found by the nodes that use them."""
        if node.op != "call_function" or is_size(node):
            return
        conv = read_conv(node)
        if conv is not None:
            self._conv(node, conv)
            return
        handler = HANDLERS.get(node.target)
        if handler is None or handler(self, node) is False:
            raise unsupported(node)

    def tensor(self, node: Any) -> Tensor:
        """The tensor of a node; UnsupportedError where it is no image."""
        if not isinstance(node, fx.Node) or node not in self.tensors:
            raise UnsupportedError(f"an operand that is no image ({node})")
        return self.tensors[node]

    def add(self, node: fx.Node, step: Step) -> None:
        """Appends a step that makes the node's value."""
        self.steps.items.append(step)
        self.makers[step.output] = step
        self.tensors[node] = step.output

    def pointwise(self, node: fx.Node, form: Pointwise, inputs: list[fx.Node], **more: Any) -> None:
        """Appends a pointwise step."""
        tensors = [self.tensor(item) for item in inputs]
        output = Tensor(tensors[0].channels)
        self.add(node, Step(Kind.POINTWISE, tensors, output, (int(form),), **more))

    def alone(self, node: Any) -> Step | None:
        """The step that makes a value that nothing but one node uses."""
        if not isinstance(node, fx.Node) or len(node.users) != 1 or node not in self.tensors:
            return None
        return self.makers.get(self.tensors[node])

    def _conv(self, node: fx.Node, conv: Conv) -> None:
        if conv.op == "linear":
            raise unsupported(node)
        weight = get_tensor(self.module, str(conv.weight.target))
        if weight.dtype != torch.float32:
            raise UnsupportedError(f"{node.target} with weights of {weight.dtype}")
        if conv.bias is not None and conv.bias.op != "get_attr":
            raise UnsupportedError(f"{node.target} with a bias that the network computes")
        bias = None if conv.bias is None else get_tensor(self.module, str(conv.bias.target)).numpy()
        source = self.tensor(conv.source)
        pattern = self.patterns.get(str(conv.weight.target), DENSE)
        family = family_of(pattern.v, dense=pattern.is_dense)
        if conv.op == "conv_transpose2d":
            self._transposed(node, conv, source, bias, family)
            return
        reach = [d * (k - 1) for d, k in zip(conv.dilation, weight.shape[2:], strict=True)]
        left, right, top, bottom = conv.padding
        if max(left, right) > reach[1] or max(top, bottom) > reach[0]:
            raise UnsupportedError(f"{node.target} padded beyond its kernel's reach")
        kernel = (int(weight.shape[2]), int(weight.shape[3]))
        shape = ConvShape(kernel, conv.stride, conv.dilation, conv.padding, conv.groups)
        data = conv_data(weight.numpy(), bias, family is not Family.DENSE)
        least = self.levels.of(str(conv.weight.target), weight.numpy())
        step = Step(
            Kind.CONV2D, [source], Tensor(int(weight.shape[0])),
            shape.params(family=family, precision=self.allowed.precision),
            self.levels.packed(data, weight.numpy(), least),
        )  # fmt: skip
        self.add(node, step)

    def _transposed(
        self,
        node: fx.Node,
        conv: Conv,
        source: Tensor,
        bias: np.ndarray[Any, Any] | None,
        family: Family,
    ) -> None:
        weight = get_tensor(self.module, str(conv.weight.target))
        canonical = to_canonical(weight, conv.op, conv.groups).numpy()
        how = (conv.stride, conv.dilation, conv.padding, conv.output_padding, conv.groups)
        found = transposed(canonical, *how)
        if found is None or found.factor > LARGEST_FACTOR:
            raise unsupported(node)
        params, data = phases(found, bias, family, self.allowed.precision)
        least = self.levels.of(str(conv.weight.target), canonical)
        spread = None if least is None else transposed(least.astype(np.float32), *how)
        if spread is not None:
            data = self.levels.packed(data, found.weight, spread.weight.astype(np.uint8))
        step = Step(Kind.CONV2D, [source], Tensor(len(found.weight)), params, data)
        self.steps.items.append(step)
        self.makers[step.output] = step
        output = Tensor(len(canonical))
        self.add(node, Step(Kind.PIXEL_SHUFFLE, [step.output], output, (found.factor,)))
        if found.crop != (0, 0):
            pads = (0, -found.crop[1], 0, -found.crop[0], int(Border.ZEROS))
            self.add(node, Step(Kind.PAD, [output], Tensor(output.channels), pads))

    def convolve(self, node: fx.Node, weight: np.ndarray[Any, Any], shape: ConvShape) -> None:
        """Appends a convolution of the node's first argument by constants.

        Its zeros are left out, so that they meet no infinity.
        """
        source, data = self.tensor(node.args[0]), conv_data(weight, None, sparse=True)
        params = shape.params(family=Family.SPARSE)
        self.add(node, Step(Kind.CONV2D, [source], Tensor(len(weight)), params, data))

    def frame(
        self, node: fx.Node, pads: tuple[int, int, int, int], border: Border = Border.ZEROS
    ) -> None:
        """Pads the node's first argument left, right, top, bottom; cuts where that is negative."""
        source = self.tensor(node.args[0])
        step = Step(Kind.PAD, [source], Tensor(source.channels), (*pads, int(border)))
        self.add(node, step)

    def activate(
        self,
        node: fx.Node,
        kind: Activation,
        limits: tuple[float, float] = (0.0, 0.0),
        slopes: np.ndarray[Any, Any] | None = None,
    ) -> None:
        """Activates the node's first argument, in the step that makes it if that is possible."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        last = self.alone(source)
        step = self._before_shuffle(source, last)
        if step is None or not _is_open(step):
            self.pointwise(node, Pointwise.AFFINE, [source], beta=0.0)
            step = last = self.makers[self.tensors[node]]
        step.activation, step.limits = kind, limits
        if slopes is not None:
            each = np.repeat(slopes, step.output.channels // len(slopes))
            weight, mask, bias, _, least = (*step.data, *[None] * 5)[:5]
            step.data = (weight, mask, bias, each, least)
        assert last is not None
        self.tensors[node] = last.output

    def _before_shuffle(self, node: fx.Node, step: Step | None) -> Step | None:
        """What is shuffled, rather than the shuffle, if nothing else needs it."""
        if step is None or step.kind is not Kind.PIXEL_SHUFFLE:
            return step
        if node.target is aten.pixel_shuffle.default:
            return self.alone(node.args[0])
        return self.makers[step.inputs[0]]

    def take_residual(self, node: fx.Node, conv: Any, other: Any, sign: float) -> bool:
        """Makes `other + sign * conv` part of the convolution, if nothing else needs its result."""
        step = self.alone(conv)
        if step is None or step.kind is not Kind.CONV2D or step.residual or conv is other:
            return False
        before = sign == 1.0 and step.activation is Activation.NONE and step.alpha == 1.0
        step.residual = Residual.BEFORE_ACTIVATION if before else Residual.AFTER_ACTIVATION
        step.alpha *= sign
        step.params = (*step.params[:11], int(step.residual), *step.params[12:])
        step.inputs.append(self.tensor(other))
        # The other operand may be computed after the convolution, so that it has to wait.
        self.steps.items.remove(step)
        self.steps.items.append(step)
        self.tensors[node] = step.output
        return True

    def concatenate(self, node: fx.Node, pieces: list[Tensor]) -> None:
        """Reads tensors as one."""
        output = Tensor(sum(piece.channels for piece in pieces))
        self.steps.items.append(Concat(pieces, output))
        self.tensors[node] = output


def is_size(node: fx.Node) -> bool:
    """Whether a value is a number, such as a height, that whoever needs it computes again."""
    return isinstance(
        node.meta.get("val"), (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
    )


def is_image(node: fx.Node, batch: str) -> bool:
    """Whether a value is float32 of N x C x H x W: the network's own N, and a C that is known."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32 or value.dim() != 4:
        return False
    sizes: tuple[Any, ...] = tuple(value.shape)
    return isinstance(sizes[1], int) and str(sizes[0]) == batch


def batch_of(module: fx.GraphModule) -> str:
    """The network's N as its graph writes it."""
    image = module.graph.find_nodes(op="placeholder")[0]
    return str(image.meta["val"].shape[0])


def _is_open(step: Step) -> bool:
    """Whether an activation may still be put at the end of it (a convolution scales after it)."""
    scales_last = step.kind is Kind.CONV2D and step.alpha != 1.0
    fits = step.kind in (Kind.CONV2D, Kind.POINTWISE) and not scales_last
    taken = step.activation is not Activation.NONE
    return fits and not taken and step.residual is not Residual.AFTER_ACTIVATION


def unsupported(node: fx.Node) -> UnsupportedError:
    """Names a node's operation."""
    return UnsupportedError(f"{str(node.target).removesuffix('.default')} ({node.name})")
