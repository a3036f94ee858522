"""Plan -> weights pruned to their patterns, layer by layer, on already pruned inputs."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from nmcompile.context import Context
from nmcompile.convs import (
    from_canonical,
    get_tensor,
    read_conv,
    set_tensor,
    to_canonical,
    weight_uses,
)
from nmcompile.pattern import Pattern
from nmcompile.pipeline import compiler_pass
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.second_order import Hessian, prune_magnitude, prune_second_order
from nmcompile.walking import Walk

# Input positions drawn for a layer's Hessian: over 100 a column for 64 channels and 3x3.
POSITIONS = 1 << 16


@compiler_pass(needs={"patterns"}, gives={"pruned"}, changes="values")
def prune(program: Program, ctx: Context) -> Program:
    """Prunes every layer that has a pattern, in execution order.

    A layer's Hessian is taken from the inputs that the layers before it give once they are
    pruned; a weight used several times gathers the inputs of all its uses.
    """
    return prune_layers(program, {layer.name for layer in program.the_plan.layers}, ctx)


def prune_layers(program: Program, names: Collection[str], ctx: Context) -> Program:
    """Prunes those of the named layers that have a pattern; the others stay as they are."""
    result = program.with_module(program.clone_module())
    walk = Walk(result, ctx.calibration.crops)
    uses = weight_uses(result.module)
    layers = [(program.the_plan.layer(name), uses[name]) for name in uses if name in names]
    sparse = [(layer, nodes) for layer, nodes in layers if not layer.pattern.is_dense]
    with ctx.reporter.stage("pruning", len(sparse)) as step:
        for layer, nodes in sparse:
            hessian = None
            if ctx.prune_method == "obs":
                hessian = collect_hessian(walk, nodes, layer, POSITIONS)
            _prune_layer(result, layer, nodes[0], hessian)
            step()
    return result


def collect_hessian(walk: Walk, nodes: list[fx.Node], layer: Layer, positions: int) -> Hessian:
    """The Hessian over all uses of a weight; leaves the walk just before the first."""
    first = read_conv(nodes[0])
    assert first is not None
    hessian = Hessian(first, layer.shape, max(1, positions // len(nodes)))
    walk.advance(nodes[0])
    for node, inputs in walk.ahead(nodes).items():
        conv = read_conv(node)
        assert conv is not None
        hessian.add(inputs[conv.source], conv)
    return hessian


def pruned_weight(weight: Tensor, groups: int, pattern: Pattern, hessian: Hessian | None) -> Tensor:
    """A canonical weight under a pattern: second order with a Hessian, magnitude without."""
    if hessian is None:
        return prune_magnitude(weight, groups, pattern)
    return prune_second_order(weight, hessian, pattern)


def _prune_layer(program: Program, layer: Layer, node: fx.Node, hessian: Hessian | None) -> None:
    conv = read_conv(node)
    assert conv is not None
    weight = to_canonical(get_tensor(program.module, layer.name), conv.op, conv.groups)
    pruned = pruned_weight(weight, conv.groups, layer.pattern, hessian)
    mask = (pruned != 0).numpy()
    if not layer.pattern.allows(mask, conv.groups):
        raise RuntimeError(f"layer {layer.name} was pruned outside its pattern {layer.pattern}")
    restored = from_canonical(pruned, conv.op, conv.groups)
    set_tensor(program.module, layer.name, torch.clone(restored))
