"""Nested levels + a difficulty head -> one graph that scores the image and routes it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import fx, nn

from nmcompile.convs import get_tensor, set_tensor
from nmcompile.program import Program
from nmcompile.routing.nested import Nested

aten = torch.ops.aten

HEAD, LEAST, OFFSETS = "routing.head.", "routing.least.", "routing.offsets"
SHARES = "routing.shares"  # a module that the soft shares [N, K, 1, 1] pass through, to be seen
Nodes = dict[fx.Node, fx.Node]


def insert_routing(
    nested: Nested,
    head: Program,
    offsets: Sequence[float],
    mode: Literal["mixture", "argmax"],
    sharpness: float = 1.0,
) -> Program:
    """Puts the head and the routing nodes into the graph of the levels.

    This is a pass in all but what it needs: a head and levels, which no Context has. All levels
    read one copy of the weights, each multiplied by what that level keeps.

    Args:
        nested: the levels; left as it is.
        head: image [N, C, h, w] -> K scores and the difficulty, [N, K + 1, 1, 1]; its weights
            become routing.head.*. Each image is one window: its difficulty decides nothing.
        offsets: [K], added to the scores: -bias(effort) * cost.
        mode: `mixture`: sum_i softmax(sharpness * (scores + offsets))_i * level_i(image), which
            trains (as in ClassSR, Kong et al., CVPR 2021); all levels are computed, what they
            share once. `argmax`: the level of the largest sum alone, of one image (N = 1), by
            torch.cond.
        sharpness: of the mixture's softmax.

    Returns:
        A program of the same interface, with the last level's plan.
    """
    module = nested.program.clone_module()
    _hold(module, nested, head, offsets)
    graph = fx.Graph()
    inputs = [graph.node_copy(node) for node in _placeholders(module)]
    said = _add_head(graph, head, inputs[0])
    scores = graph.call_function(aten.slice.Tensor, (said, 1, 0, nested.count))
    sums = graph.call_function(aten.add.Tensor, (scores, graph.get_attr(OFFSETS)))
    if mode == "mixture":
        sharp = graph.call_function(aten.mul.Tensor, (sums, sharpness))
        graph.output(_mix(graph, module, nested, inputs, sharp))
    else:
        graph.output(_choose(graph, module, nested, inputs, sums))
    return nested.program.with_module(fx.GraphModule(module, graph))


def _hold(module: fx.GraphModule, nested: Nested, head: Program, offsets: Sequence[float]) -> None:
    """Gives the module what the new nodes read: buffers, and the head's weights."""
    for node in head.module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            set_tensor(module, HEAD + name, get_tensor(head.module, name))
    routing = module.get_submodule("routing")
    routing.register_module("least", nn.Module())
    for place, least in enumerate(nested.least.values()):
        module.get_submodule("routing.least").register_buffer(str(place), least.clone())
    values = torch.tensor(offsets, dtype=torch.float32).reshape(1, -1, 1, 1)
    routing.register_buffer("offsets", values)
    routing.register_module("shares", nn.Identity())


def _least(nested: Nested) -> dict[str, str]:
    """A weight's name -> that of the buffer which has the least level of each of its weights."""
    return {name: f"{LEAST}{place}" for place, name in enumerate(nested.least)}


def _add_head(graph: fx.Graph, head: Program, image: fx.Node) -> fx.Node:
    """Copies the head's nodes; gives that of its output."""
    copies: Nodes = {}
    for node in head.module.graph.nodes:
        if node.op == "placeholder":
            copies[node] = image
        elif node.op == "get_attr":
            copies[node] = graph.get_attr(HEAD + str(node.target))
        elif node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    result: fx.Node = copies[_returned(head.module)]
    return result


def _returned(module: fx.GraphModule) -> fx.Node:
    """The node whose value a graph returns."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    value = output.args[0]
    assert isinstance(value, fx.Node)
    return value


def _mix(
    graph: fx.Graph, module: fx.GraphModule, nested: Nested, inputs: list[fx.Node], sums: fx.Node
) -> fx.Node:
    """All levels, weighted by their soft shares; what is the same at all is computed once."""
    soft = graph.call_function(aten.softmax.int, (sums, 1))
    shares = graph.call_module(SHARES, (soft,))
    weights = [node for node in module.graph.nodes if node.op == "get_attr"]
    least = {name: graph.get_attr(held) for name, held in _least(nested).items()}
    same = dict(zip(_placeholders(module), inputs, strict=True))
    same |= {node: graph.get_attr(str(node.target)) for node in weights}
    varying, parts = _varying(module, nested), []
    for level in range(nested.count):
        made = _copy_level(graph, module, least, level, same, varying)
        share = graph.call_function(aten.slice.Tensor, (shares, 1, level, level + 1))
        parts.append(graph.call_function(aten.mul.Tensor, (made, share)))
    return functools.reduce(lambda a, b: graph.call_function(aten.add.Tensor, (a, b)), parts)


def _choose(
    graph: fx.Graph, module: fx.GraphModule, nested: Nested, inputs: list[fx.Node], sums: fx.Node
) -> fx.Node:
    """One level: a chain of conditions, each with a level's graph and the rest of the chain."""
    names = {str(node.target): None for node in module.graph.nodes if node.op == "get_attr"}
    tensors = [*names, *_least(nested).values()]
    level = graph.call_function(aten.argmax.default, (sums,))
    operands = [level, *inputs, *(graph.get_attr(name) for name in tensors)]
    rest: fx.GraphModule | None = None
    for number in reversed(range(1, nested.count)):
        last = _branch(module, nested, tensors, number)
        rest = last if rest is None else _condition(number, last, rest, len(operands))
    assert rest is not None
    first = _branch(module, nested, tensors, 0)
    return _ask(graph, module, 0, (first, rest), operands)


def _condition(
    number: int, branch: fx.GraphModule, rest: fx.GraphModule, operands: int
) -> fx.GraphModule:
    """Operands, the level first -> the branch's output if the level is that number, else rest's."""
    graph, owner = fx.Graph(), nn.Module()
    places = [graph.placeholder(f"operand_{index}") for index in range(operands)]
    graph.output((_ask(graph, owner, number, (branch, rest), places),))
    return fx.GraphModule(owner, graph)


def _ask(
    graph: fx.Graph,
    owner: nn.Module,
    number: int,
    branches: tuple[fx.GraphModule, fx.GraphModule],
    operands: list[fx.Node],
) -> fx.Node:
    """Appends the condition that the level, the first operand, is that number."""
    names = ("routing_this", "routing_rest")
    for name, branch in zip(names, branches, strict=True):
        owner.add_module(name, branch)
    wanted = graph.call_function(aten.eq.Scalar, (operands[0], number))
    taken = graph.call_function(
        torch.ops.higher_order.cond, (wanted, *map(graph.get_attr, names), tuple(operands))
    )
    return graph.call_function(operator.getitem, (taken, 0))


def _branch(
    module: fx.GraphModule, nested: Nested, tensors: Sequence[str], level: int
) -> fx.GraphModule:
    """The network at a level, all that it reads given as operands: the level, images, tensors."""
    graph = fx.Graph()
    graph.placeholder("level")
    images = [graph.placeholder(f"image_{index}") for index in range(len(_placeholders(module)))]
    given = {name: graph.placeholder(f"tensor_{at}") for at, name in enumerate(tensors)}
    same = dict(zip(_placeholders(module), images, strict=True))
    for node in module.graph.nodes:
        if node.op == "get_attr":
            same[node] = given[str(node.target)]
    least = {name: given[held] for name, held in _least(nested).items()}
    varying = _varying(module, nested)
    graph.output((_copy_level(graph, module, least, level, same, varying),))
    return fx.GraphModule(nn.Module(), graph)


def _copy_level(
    graph: fx.Graph,
    module: fx.GraphModule,
    least: Mapping[str, fx.Node],
    level: int,
    same: Nodes,
    varying: set[fx.Node],
) -> fx.Node:
    """Copies the network at a level; gives the node of its output.

    Args:
        graph: where to.
        module: the network.
        least: weight name -> the node that has the least level of each of its weights.
        level: which.
        same: copies of inputs, weights and of what is the same at all levels, which it adds to.
        varying: the nodes that are not.
    """
    copies: Nodes = {}

    def copy_of(node: fx.Node) -> fx.Node:
        return copies[node] if node in copies else same[node]

    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target in least:
            kept = graph.call_function(aten.le.Scalar, (least[str(node.target)], level))
            copies[node] = graph.call_function(aten.mul.Tensor, (same[node], kept))
        elif node in varying and node.op != "output":
            copies[node] = graph.node_copy(node, copy_of)
        elif node not in same and node.op != "output":
            same[node] = graph.node_copy(node, copy_of)
    return copy_of(_returned(module))


def _placeholders(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _varying(module: fx.GraphModule, nested: Nested) -> set[fx.Node]:
    """The nodes whose values differ from level to level."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        levelled = node.op == "get_attr" and node.target in nested.least
        if levelled or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
