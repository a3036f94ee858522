"""A pruned and trained network -> other patterns, where what training could mend says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from nmcompile.context import Context
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.passes.assign_patterns import assign_patterns
from nmcompile.passes.measure_sensitivity import with_losses
from nmcompile.passes.prune import prune_layers
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer, Plan
from nmcompile.program import Program
from nmcompile.training.masking import FixedMask, Masking
from nmcompile.training.network import Trainable
from nmcompile.training.parallel import World
from nmcompile.training.policy import FixedPolicy

# The share of a training in which patterns may change; the rest is for what changed to recover.
_CHANGING = 0.75


class ReassignPolicy(FixedPolicy):
    """Masks stay what pruning made them, but a few times patterns are assigned anew."""

    def __init__(
        self, plan: Plan, dense: Program, ctx: Context, times: int, world: World | None = None
    ) -> None:
        """Starts from a plan.

        Args:
            plan: of the pruned program, with the choices that layers have.
            dense: see reassign.
            ctx: see reassign.
            times: at most, evenly over the first three quarters.
            world: the processes that train together.
        """
        super().__init__(plan)
        self._dense, self._ctx, self._times = dense, ctx, times
        self._world = world or World()
        self._looked = 0
        self._network: Trainable | None = None

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """A mask for every layer that has a choice."""
        if len(layer.choices) == 1:
            return None
        return FixedMask(_kept(weight, layer.pattern))

    def begin(self, network: Trainable) -> None:
        """Takes the network whose layers may change."""
        self._network = network

    def after_step(self, progress: float) -> Collection[str]:
        """Assigns anew when it is time; gives the layers that took other patterns."""
        if self._looked == self._times:
            return ()
        if progress < _CHANGING * (self._looked + 1) / self._times:
            return ()
        self._looked += 1
        # One process decides: losses measured in another may differ in their last bits.
        changed = self._world.made(self._changed)
        return self._take(changed) if changed else ()

    def describe(self) -> str:
        """How often it has looked."""
        return f"patterns assigned anew {self._looked} of {self._times} times"

    def state(self) -> dict[str, Any]:
        """The patterns, and how often it has looked."""
        patterns = {name: str(pattern) for name, pattern in self.patterns().items()}
        return {"looked": self._looked, "patterns": patterns}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what state() gave."""
        self._looked = state["looked"]
        found = {name: Pattern.parse(text) for name, text in state["patterns"].items()}
        self._plan = self._plan.assign(found, {})

    def _changed(self) -> dict[str, tuple[str, Tensor]]:
        """Layers that are to take other patterns -> the pattern, and the weight pruned to it."""
        assert self._network is not None
        before = self.patterns()
        changed = reassign(self._network.to_program(), self._dense, self._ctx)
        if changed is None:
            return {}
        return {
            layer.name: (str(layer.pattern), get_tensor(changed.module, layer.name))
            for layer in changed.the_plan.layers
            if layer.pattern != before[layer.name]
        }

    def _take(self, changed: dict[str, tuple[str, Tensor]]) -> Collection[str]:
        network = self._network
        assert network is not None
        patterns = {name: Pattern.parse(text) for name, (text, _) in changed.items()}
        self._plan = self._plan.assign(patterns, {})
        for name, (_, weight) in changed.items():
            masking, raw = network.maskings[name], network.raw(name)
            assert isinstance(masking, FixedMask)
            with torch.no_grad():
                raw.copy_(weight)
                masking.kept.copy_(_kept(weight, patterns[name]))
        self._ctx.reporter.note(f"note: {len(changed)} layers took other patterns")
        return changed.keys()


def _kept(weight: Tensor, pattern: Pattern) -> Tensor:
    return torch.ones_like(weight, dtype=torch.bool) if pattern.is_dense else weight != 0


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
    measured = with_losses(trained, dense, ctx)
    known = dataclasses.replace(measured, facts=measured.facts | {"sensitivity"})
    assigned = assign_patterns(known, ctx)
    before = {layer.name: layer.pattern for layer in trained.the_plan.layers}
    changed = {x.name for x in assigned.the_plan.layers if x.pattern != before[x.name]}
    if not changed:
        return None
    started = assigned.with_module(assigned.clone_module())
    for name in changed:
        set_tensor(started.module, name, get_tensor(dense.module, name))
    result = prune_layers(started, changed, ctx)
    return dataclasses.replace(result, facts=trained.facts)
