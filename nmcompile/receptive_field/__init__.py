"""Graph -> how far, in input pixels, an output pixel looks; None where it sees the whole image."""

from __future__ import annotations

import math
import operator
from fractions import Fraction

from torch import fx

from nmcompile.program import Program
from nmcompile.receptive_field.fields import Field, NotLocalError, Surroundings
from nmcompile.receptive_field.rules import field_of


def receptive_halo(program: Program) -> tuple[int | None, str]:
    """The halo in input pixels and "", or None and the operation that sees the whole image.

    A tile that starts at a multiple of the interface's `multiple` and has that halo on either
    side gives the same inner pixels as the whole image.
    """
    around = Surroundings.of(program)
    fields: dict[fx.Node, Field | None] = {}
    inputs = iter((True, *("H" in extra.shape for extra in program.interface.extra_inputs)))
    for node in program.module.graph.nodes:
        if node.op == "output":
            return _halo(fields, node.all_input_nodes[0], program)
        if node.op == "placeholder":
            fields[node] = Field.own() if next(inputs) else None
        elif node.op == "get_attr":
            fields[node] = None
        elif node.target is operator.getitem:
            fields[node] = fields[node.all_input_nodes[0]]
        else:
            try:
                fields[node] = field_of(node, fields, around)
            except NotLocalError as why:
                name = str(node.target).removeprefix("aten.")
                return None, f"{name} ({node.name}) {why}"
    raise RuntimeError("a graph without output")


def _halo(
    fields: dict[fx.Node, Field | None], output: fx.Node, program: Program
) -> tuple[int | None, str]:
    interface, field = program.interface, fields[output]
    if field is None or field.axes != (2, 3) or field.stride * interface.scale != 1:
        return None, "the output's pixels do not lie as the image's do"
    for node, other in fields.items():
        if other and (interface.multiple / other.stride).denominator > 1:
            return None, (
                f"{node.name} has one pixel for {other.stride} of the image's, whose size is any "
                f"multiple of {interface.multiple}: tiles would be out of step"
            )
    whole = field.window((0, 0), [1 / field.stride - 1] * 2)  # all that lies in an input pixel
    return math.ceil(max(whole.reach, Fraction(0))), ""
