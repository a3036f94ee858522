"""A pruned and trained network -> other patterns, where what training could mend says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from nmcompile.context import Context
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.errors import NmcompileError
from nmcompile.passes.assign_patterns import assign_patterns
from nmcompile.passes.measure_sensitivity import with_losses
from nmcompile.passes.prune import prune_layers
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer, Plan
from nmcompile.program import Program
from nmcompile.training.masking import FixedMask, Masking
from nmcompile.training.network import Trainable
from nmcompile.training.policy import FixedPolicy

# The share of a training in which patterns may change; the rest is for what changed to recover.
_CHANGING = 0.75


class ReassignPolicy(FixedPolicy):
    """Masks stay what pruning made them, but a few times patterns are assigned anew."""

    def __init__(self, plan: Plan, dense: Program, ctx: Context, times: int) -> None:
        """Args: see reassign; times: at most, evenly over the first three quarters."""
        super().__init__(plan)
        if ctx.budget.quantity == "drop":
            raise NmcompileError(
                "--reassign needs a budget that patterns can be weighed by: --budget macs=0.5 or "
                "latency=0.5x"
            )
        self._dense, self._ctx, self._times = dense, ctx, times
        self._looked = 0
        self._network: Trainable | None = None

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """A mask for every layer that has a choice."""
        return FixedMask(weight != 0) if len(layer.choices) > 1 else None

    def begin(self, network: Trainable) -> None:
        """Takes the network whose layers may change."""
        self._network = network

    def after_step(self, progress: float) -> None:
        """Assigns anew when it is time."""
        if self._looked == self._times:
            return
        if progress < _CHANGING * (self._looked + 1) / self._times:
            return
        self._looked += 1
        assert self._network is not None
        changed = reassign(self._network.to_program(), self._dense, self._ctx)
        if changed is not None:
            self._take(changed)

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

    def _take(self, changed: Program) -> None:
        before, network = self.patterns(), self._network
        assert network is not None
        self._plan = changed.the_plan
        names = [layer.name for layer in self._plan.layers if layer.pattern != before[layer.name]]
        for name in names:
            masking, raw = network.maskings[name], network.raw(name)
            assert isinstance(masking, FixedMask)
            weight = get_tensor(changed.module, name).to(raw.device)
            dense = self._plan.layer(name).pattern.is_dense
            with torch.no_grad():
                raw.copy_(weight)
                masking.kept.copy_(torch.ones_like(masking.kept) if dense else weight != 0)
        self._ctx.reporter.note(f"note: {len(names)} layers took other patterns")


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
