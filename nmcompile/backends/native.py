"""A Program's graph -> the bytes of a native program, or the operation that prevents it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from nmcompile.backends.native_ops import HANDLERS
from nmcompile.backends.steps import Concat, Step, Steps, Tensor
from nmcompile.convs import Conv, get_tensor, read_conv
from nmcompile.pattern import DENSE
from nmcompile.program import Program
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Isa,
    Kind,
    Pointwise,
    Residual,
    conv_data,
    family_of,
)

aten = torch.ops.aten


class UnsupportedError(Exception):
    """An operation that the native backend does not have; str() names it."""


def lower(program: Program, isa: Isa = Isa.BEST, bf16: bool = False) -> bytes:
    """Packs the network; layers that the plan makes sparse take the sparse kernels.

    Args:
        program: the network.
        isa: the most modern kernels that it may use.
        bf16: allow kernels that round inputs and weights to bf16.

    Raises:
        UnsupportedError: the graph has an operation that the native backend lacks.
    """
    if program.interface.extra_inputs:
        raise UnsupportedError("a second input")
    return Lowering(program, bf16).run(isa)


def why_not(program: Program) -> str:
    """The operation that keeps the network from the native backend, or "" if there is none."""
    try:
        lower(program)
    except UnsupportedError as error:
        return str(error)
    return ""


class Lowering:
    """Walks the graph once; fuses what follows a step into it where it is the only user."""

    def __init__(self, program: Program, bf16: bool) -> None:
        self.bf16 = bf16
        self.module = program.module
        self.steps = Steps()
        self.tensors: dict[fx.Node, Tensor] = {}
        self.makers: dict[Tensor, Step] = {}
        plan = program.plan
        self.patterns = {x.name: x.pattern for x in plan.layers} if plan else {}

    def run(self, isa: Isa = Isa.BEST) -> bytes:
        """The packed program."""
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.tensors[node] = Tensor(int(node.meta["val"].shape[1]))
                self.steps.inputs.append(self.tensors[node])
            elif node.op == "output":
                result = node.args[0]
                result = result[0] if isinstance(result, (tuple, list)) else result
                self.steps.outputs.append(self.tensor(result))
            elif node.op == "call_function" and node.target is not aten.sym_size.int:
                self._call(node)
        return self.steps.to_bytes(isa)

    def _call(self, node: fx.Node) -> None:
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
        if conv.op != "conv2d":
            raise unsupported(node)
        weight = get_tensor(self.module, str(conv.weight.target))
        reach = [d * (k - 1) for d, k in zip(conv.dilation, weight.shape[2:], strict=True)]
        left, right, top, bottom = conv.padding
        if max(left, right) > reach[1] or max(top, bottom) > reach[0]:
            raise UnsupportedError(f"{node.target} padded beyond its kernel's reach")
        if weight.dtype != torch.float32:
            raise UnsupportedError(f"{node.target} with weights of {weight.dtype}")
        bias = None if conv.bias is None else get_tensor(self.module, str(conv.bias.target)).numpy()
        pattern = self.patterns.get(str(conv.weight.target), DENSE)
        family = family_of(pattern.v, dense=pattern.is_dense)
        kernel = (int(weight.shape[2]), int(weight.shape[3]))
        shape = ConvShape(kernel, conv.stride, conv.dilation, conv.padding, conv.groups)
        source = self.tensor(conv.source)
        step = Step(
            Kind.CONV2D, [source], Tensor(int(weight.shape[0])),
            shape.params(family=family, bf16=self.bf16),
            conv_data(weight.numpy(), bias, family is not Family.DENSE),
        )  # fmt: skip
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
        step = self.alone(source)
        if step is None or not _is_open(step):
            assert isinstance(source, fx.Node)
            self.pointwise(node, Pointwise.AFFINE, [source], beta=0.0)
            step = self.makers[self.tensors[node]]
        step.activation, step.limits = kind, limits
        if slopes is not None:
            step.data = (*(*step.data, None, None, None)[:3], slopes)
        self.tensors[node] = step.output

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


def _is_open(step: Step) -> bool:
    """Whether an activation may still be put at the end of it (a convolution scales after it)."""
    scales_last = step.kind is Kind.CONV2D and step.alpha != 1.0
    fits = step.kind in (Kind.CONV2D, Kind.POINTWISE) and not scales_last
    taken = step.activation is not Activation.NONE
    return fits and not taken and step.residual is not Residual.AFTER_ACTIVATION


def unsupported(node: fx.Node) -> UnsupportedError:
    """Names a node's operation."""
    return UnsupportedError(f"{str(node.target).removesuffix('.default')} ({node.name})")
