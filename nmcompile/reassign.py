"""A pruned and trained network -> other patterns, where what training could mend says so."""

from __future__ import annotations

import dataclasses

from nmcompile.context import Context
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.passes.assign_patterns import assign_patterns
from nmcompile.passes.measure_sensitivity import with_losses
from nmcompile.passes.prune import prune_layers
from nmcompile.program import Program


def reassign(trained: Program, dense: Program, ctx: Context) -> Program | None:
    """Measures every layer's sensitivity again, among trained neighbours, and assigns anew.

    A layer's loss under a pattern is what its own dense weights, pruned to it, add to the output's
    error in the trained network, above what they do unpruned. A layer whose pattern changes is
    pruned from its dense weights on the inputs that it has now; the others keep what they learned.

    Args:
        trained: with its plan, whose choices are what a layer may take.
        dense: the network before pruning.
        ctx: with a budget in MACs or milliseconds.

    Returns:
        The changed network, or None where the patterns stay.
    """
    assigned = assign_patterns(with_losses(trained, dense, ctx), ctx)
    before = {layer.name: layer.pattern for layer in trained.the_plan.layers}
    changed = {x.name for x in assigned.the_plan.layers if x.pattern != before[x.name]}
    if not changed:
        return None
    started = assigned.with_module(assigned.clone_module())
    for name in changed:
        set_tensor(started.module, name, get_tensor(dense.module, name))
    result = prune_layers(started, changed, ctx)
    return dataclasses.replace(result, facts=trained.facts)
