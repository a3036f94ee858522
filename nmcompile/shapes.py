"""A Program and an input size -> the shape of every value, without computing any."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from nmcompile.program import Program

Shapes = dict[fx.Node, tuple[int, ...]]


def shapes_at(program: Program, size: tuple[int, int]) -> Shapes:
    """Shapes at batch 1 and that input height and width; nodes that are no tensor are left out."""
    shapes: Shapes = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                shapes[n] = tuple(int(item) for item in result.shape)
            return result

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        image = torch.empty(1, program.interface.channels, *size)
        Recorder(program.module).run(*program.interface.arguments(image))
    return shapes


def formula(program: Program, node: fx.Node, factor: int) -> str:
    """`factor` times the elements of a node's value but its channels, in N, H and W."""
    value = node.meta.get("val")
    image = program.module.graph.find_nodes(op="placeholder")[0].meta.get("val")
    if value is None or image is None:
        return ""
    known = _symbols(image)
    shape = [_expression(item) for item in value.shape]
    positions = [shape[0], *shape[2:]] if len(shape) == 4 else shape[:-1]
    product = sympy.Integer(factor)
    for item in positions:
        product *= item.subs(known)
    batch = _expression(image.shape[0])
    if batch.is_number:  # traced for that many, good for any
        product *= sympy.Symbol("N") / batch
    return str(_in_multiples(product, program.interface.multiple))


def divides(program: Program, factor: int, node: fx.Node) -> bool:
    """Whether height and width of a value are multiples of `factor` whatever the network takes."""
    image = program.module.graph.find_nodes(op="placeholder")[0].meta["val"]
    multiple, known = program.interface.multiple, _symbols(image)
    sides = {name: multiple * sympy.Symbol(name, integer=True) for name in "HW"}
    sizes = (_expression(size).subs(known).subs(sides) for size in node.meta["val"].shape[2:])
    return all(sympy.Mod(size, factor) == 0 for size in sizes)


def _in_multiples(product: Any, multiple: int) -> Any:
    """Without the roundings that vanish where H and W are what the network takes."""
    sizes = sympy.symbols("H W")
    counts = sympy.symbols("h w", integer=True, positive=True)
    whole = product.subs({size: multiple * n for size, n in zip(sizes, counts, strict=True)})
    return whole.subs({n: size / multiple for size, n in zip(sizes, counts, strict=True)})


def peak_bytes(program: Program, shapes: Shapes) -> int:
    """Bytes (fp32) of the values alive together at the worst moment, weights left out."""
    nodes = list(program.module.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    alive: dict[fx.Node, int] = {}
    peak = 0
    for index, node in enumerate(nodes):
        if node.op == "get_attr":
            continue
        alive[node] = _elements(shapes.get(node, ())) * 4
        peak = max(peak, sum(alive.values()))
        for used in list(alive):
            if max((place[user] for user in used.users), default=-1) <= index:
                del alive[used]
    return peak


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for item in shape:
        total *= item
    return total if shape else 0


def _symbols(image: torch.Tensor) -> dict[Any, Any]:
    """Export's own symbols -> N, H, W; a dimension like 8*s gives s = H/8."""
    known = {}
    for name, item in zip("NHW", (image.shape[0], image.shape[2], image.shape[3]), strict=True):
        expression = _expression(item)
        symbols = list(expression.free_symbols)
        if len(symbols) == 1:
            known[symbols[0]] = sympy.solve(expression - sympy.Symbol(name), symbols[0])[0]
    return known


def _expression(item: Any) -> Any:
    return sympy.Integer(item) if isinstance(item, int) else item.node.expr
