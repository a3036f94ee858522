"""A graph and a batch -> its values, node by node, so that work can be done at any layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from nmcompile.program import Program


class Walk:
    """Runs a Program's graph forward in pieces, keeping only the values still needed.

    `advance(node)` runs all nodes before `node`; `finish()` runs the rest from where the walk
    stands and gives the output, leaving the walk where it is, so that the rest can be run again
    with other weights.
    """

    def __init__(self, program: Program, image: Tensor) -> None:
        """Args: program: what to run; image: [N, C, H, W] in the network's own range."""
        self._interpreter = fx.Interpreter(program.module, garbage_collect_values=False)
        self._nodes = list(program.module.graph.nodes)
        self._place = {node: index for index, node in enumerate(self._nodes)}
        self._last_use = {
            node: max((self._place[user] for user in node.users), default=-1)
            for node in self._nodes
        }
        self._values: dict[fx.Node, Any] = {}
        self._position = 0
        self._arguments = program.interface.arguments(image)

    def advance(self, node: fx.Node) -> None:
        """Runs every node before `node`."""
        self._position = self._run(self._values, self._position, self._place[node])

    def value(self, node: fx.Node) -> Tensor:
        """The value of a node that was run and is still needed."""
        value: Tensor = self._values[node]
        return value

    def finish(self) -> Tensor:
        """The network's output, run from here with the weights as they are now."""
        values = dict(self._values)
        self._run(values, self._position, len(self._nodes))
        output = values[self._nodes[-1]]
        result: Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return result

    def ahead(self, nodes: list[fx.Node]) -> dict[fx.Node, dict[fx.Node, Tensor]]:
        """For each of `nodes` (in order), the inputs it will see, without moving the walk."""
        values, position, seen = dict(self._values), self._position, {}
        for node in nodes:
            position = self._run(values, position, self._place[node])
            seen[node] = {source: values[source] for source in node.all_input_nodes}
        return seen

    def _run(self, values: dict[fx.Node, Any], start: int, stop: int) -> int:
        inputs = sum(node.op == "placeholder" for node in self._nodes[:start])
        self._interpreter.args_iter = iter(self._arguments[inputs:])
        self._interpreter.env = values
        with torch.no_grad():
            for held in [node for node in values if node.op == "get_attr"]:
                values[held] = self._interpreter.run_node(held)  # weights change between runs
            for index in range(start, stop):
                node = self._nodes[index]
                values[node] = self._interpreter.run_node(node)
                if node.op != "output":
                    for used in node.all_input_nodes:
                        if self._last_use[used] <= index:
                            values.pop(used, None)
        return max(start, stop)
