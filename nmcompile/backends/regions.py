"""A Program -> the regions of its graph, in the order in which they run, and what runs each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from nmcompile.backends.native import is_size, survey
from nmcompile.convs import read_conv
from nmcompile.program import Program


@dataclass(frozen=True)
class Region:
    """Nodes that run together.

    Attributes:
        runner: native or onnxruntime.
        nodes: in the order of the graph; sizes and weights, which every region has of its own,
            are not among them.
        inputs: values of other regions, or inputs of the network, that the nodes read.
        outputs: values that other regions read, or the network's result.
    """

    runner: str
    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    def operations(self) -> dict[str, int]:
        """Names of operators -> how often each runs; the most frequent first."""
        counts = Counter(name_of(node) for node in self.nodes)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def find_regions(program: Program) -> list[Region]:
    """Cuts the graph so that the native backend runs what it can and what is worth it.

    torch.fx's partitioner joins the nodes that libnmk knows into as few groups as can be without
    a cycle between them. A group without a convolution goes to ONNX Runtime with the rest: it
    would cost two copies and save nothing.
    """
    lacking = survey(program).missing
    partitioner = CapabilityBasedPartitioner(
        program.module, _Support(lacking), allows_single_node_partition=True
    )
    groups = []
    for partition in partitioner.propose_partitions():
        nodes = {node for node in partition.nodes if not is_size(node)}
        if any(read_conv(node) is not None for node in nodes):
            groups.append(nodes)
    return list(_described(_in_order(program.module.graph, groups)))


def name_of(node: fx.Node) -> str:
    """An operator as messages name it, such as aten.permute."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket)
    return str(getattr(node.target, "__name__", node.target))


class _Support(OperatorSupportBase):
    """What the native backend has; sizes belong wherever they are needed."""

    def __init__(self, lacking: Mapping[fx.Node, str]) -> None:
        self._lacking = lacking

    def is_node_supported(self, submodules: Mapping[str, torch.nn.Module], node: fx.Node) -> bool:
        """Whether the node may stand in a native region."""
        return node.op == "call_function" and node not in self._lacking


def _computed(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function" and not is_size(node)]


def _read(node: fx.Node) -> Iterator[fx.Node]:
    """The values that a node reads, also those of which it needs the size alone."""
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            continue
        if is_size(source):
            yield from _read(source)
        else:
            yield source


def _in_order(graph: fx.Graph, groups: list[set[fx.Node]]) -> Iterator[tuple[str, list[fx.Node]]]:
    """Groups, and between them all other nodes that can run by then, as one region each time."""
    done = set(graph.find_nodes(op="placeholder"))
    left = _computed(graph)
    grouped = {node: number for number, group in enumerate(groups) for node in group}
    while left:
        others = []
        for node in left:
            if node not in grouped and all(source in done for source in _read(node)):
                others.append(node)
                done.add(node)
        if others:
            yield "onnxruntime", others
        for group in groups:
            outside = {source for node in group for source in _read(node)} - group
            if not group <= done and outside <= done:
                yield "native", [node for node in left if node in group]
                done |= group
                break
        left = [node for node in left if node not in done]


def _described(parts: Iterable[tuple[str, list[fx.Node]]]) -> Iterator[Region]:
    for runner, nodes in parts:
        inside = set(nodes)
        inputs = dict.fromkeys(s for node in nodes for s in _read(node) if s not in inside)
        outputs = [node for node in nodes if any(user not in inside for user in _users(node))]
        yield Region(runner, tuple(nodes), tuple(inputs), tuple(outputs))


def _users(node: fx.Node) -> Iterator[fx.Node]:
    """Who reads a value, or a size that is computed from it."""
    for user in node.users:
        if user.op == "call_function" and is_size(user):
            yield from _users(user)
        else:
            yield user
