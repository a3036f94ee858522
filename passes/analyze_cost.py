"""Graph -> a Plan that lists every layer with its MACs, parameters and activation bytes."""

from __future__ import annotations

import math

from torch import fx

from nmcompile.context import Context
from nmcompile.convs import get_tensor, read_conv, to_canonical, weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE
from nmcompile.pipeline import compiler_pass
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.program import Program
from nmcompile.shapes import Shapes, formula, shapes_at


@compiler_pass(needs={"batch norm folded"}, gives={"costs"}, changes="nothing")
def analyze_cost(program: Program, ctx: Context) -> Program:
    """Counts every convolution and linear layer at the reference size and in N, H, W.

    A multiply-accumulate (MAC) is one weight times one input value; groups, strides, transposed
    convolutions and weights used several times are counted as they are executed. Bias and
    activations are not counted.
    """
    shapes = shapes_at(program, ctx.reference_size)
    uses = weight_uses(program.module)
    if not uses:
        raise NmcompileError(
            "the network has no 2-D convolution or linear layer with constant weights; "
            "there is nothing that nmcompile could make sparse"
        )
    layers = tuple(_layer(program, name, nodes, shapes) for name, nodes in uses.items())
    notes = _not_considered(program)
    plan = Plan(ctx.reference_size, ctx.target.name, layers, notes=notes)
    return program.with_plan(plan)


def _layer(program: Program, name: str, nodes: list[fx.Node], shapes: Shapes) -> Layer:
    conv = read_conv(nodes[0])
    assert conv is not None
    weight = to_canonical(get_tensor(program.module, name), conv.op, conv.groups)
    outputs, inputs, height, width = weight.shape
    macs = sum(_positions(node, shapes) for node in nodes) * weight.numel()
    formulas = [formula(program, _counted(node)[1], weight.numel()) for node in nodes]
    return Layer(
        name=name,
        op=conv.op,
        shape=(outputs, inputs, height, width),
        groups=conv.groups,
        uses=len(nodes),
        params=weight.numel(),
        macs=macs,
        macs_formula=" + ".join(formulas) if len(set(formulas)) > 1 else _times(formulas),
        activation_bytes=sum(4 * math.prod(shapes[node]) for node in nodes),
        choices=(Choice(DENSE, macs),),
        reason="not decided yet",
    )


def _positions(node: fx.Node, shapes: Shapes) -> int:
    """How often each weight is used: output pixels (input pixels of a transposed convolution)."""
    op, counted = _counted(node)
    shape = shapes[counted]
    return math.prod(shape[:-1]) if op == "linear" else shape[0] * math.prod(shape[2:])


def _counted(node: fx.Node) -> tuple[str, fx.Node]:
    """What kind of layer a node is, and the value each of whose pixels uses every weight once."""
    conv = read_conv(node)
    assert conv is not None
    return conv.op, conv.source if conv.op == "conv_transpose2d" else node


def _times(formulas: list[str]) -> str:
    return formulas[0] if len(formulas) == 1 else f"{len(formulas)}*({formulas[0]})"


def _not_considered(program: Program) -> tuple[str, ...]:
    """Operations with large weights of their own that are no convolution nmcompile handles."""
    notes = []
    for node in program.module.graph.nodes:
        if node.op != "call_function" or read_conv(node) is not None:
            continue
        weights = [n for n in node.all_input_nodes if n.op == "get_attr"]
        sizes = [get_tensor(program.module, str(n.target)) for n in weights]
        if any(tensor.dim() >= 2 and tensor.numel() >= 256 for tensor in sizes):
            notes.append(
                f"{node.target} ({weights[0].target}) stays dense: not a layer kind I know"
            )
    return tuple(notes)
