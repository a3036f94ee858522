"""A plan -> which weights are trained under a mask, and what becomes of the masks meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from nmcompile.pattern import Pattern
from nmcompile.plan import Layer, Plan
from nmcompile.training.masking import FixedMask, Masking

if TYPE_CHECKING:
    from nmcompile.training.network import Trainable


class Policy(Protocol):
    """What happens to masks while a network is trained; called by the trainer in this order."""

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """The masking of a layer's weight (operator's layout); None: dense, trained unmasked.

        `weight` has the values only; the parameter itself is what the masking's forward is given.
        """

    def begin(self, network: Trainable) -> None:
        """Once all maskings are in place: whose weights the policy may look at, and change."""

    def penalty(self) -> Tensor | float:
        """What is added to the loss of a step, such as the cost of the weights kept; 0.0 if not."""

    def levels(self, step: int | None) -> Sequence[int]:
        """Levels of the network whose losses are summed in that step; all of them for None."""

    def set_level(self, level: int) -> None:
        """From now on the network runs at that level."""

    def before_step(self, progress: float) -> None:
        """After the gradients of a step are there and before the optimiser takes it.

        Args:
            progress: the share of the run that is over, 0..1.
        """

    def after_step(self, progress: float) -> Collection[str]:
        """After the optimiser's step: ranks, schedules.

        Returns:
            Layers whose weights were replaced by others: what the trainer remembers of the old ones
            (moving average, Adam's moments) is forgotten.
        """

    def describe(self) -> str:
        """Where the masks stand, in a few words for the progress line; "" if nothing moves."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the module's own state: tensors and plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""

    def patterns(self) -> dict[str, Pattern]:
        """Layer name -> its pattern as the masks are now."""


class OneLevel:
    """The part of a policy whose network has no levels."""

    def levels(self, step: int | None) -> Sequence[int]:
        """The only one."""
        return (0,)

    def set_level(self, level: int) -> None:
        """Nothing."""


class FixedPolicy(OneLevel):
    """Masks stay what pruning made them."""

    def __init__(self, plan: Plan) -> None:
        """Args: plan: whose patterns the weights keep already."""
        self._plan = plan

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """What is not zero is kept, in layers that have a pattern."""
        return None if layer.pattern.is_dense else FixedMask(weight != 0)

    def penalty(self) -> Tensor | float:
        """Nothing."""
        return 0.0

    def begin(self, network: Trainable) -> None:
        """Nothing."""

    def before_step(self, progress: float) -> None:
        """Nothing."""

    def after_step(self, progress: float) -> Collection[str]:
        """Nothing."""
        return ()

    def describe(self) -> str:
        """Nothing moves."""
        return ""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def patterns(self) -> dict[str, Pattern]:
        """The plan's."""
        return {layer.name: layer.pattern for layer in self._plan.layers}
