"""Nested levels as they were pruned -> one set of weights that serves all of them well.

Each step trains the largest level, the smallest and one between (the sandwich rule of Universally
Slimmable Networks, ICCV 2019), all towards the dense network; that levels are N:M patterns inside
one network is ClassPruning's idea (arXiv 2211.05488).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from nmcompile.context import Context
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.routing.nested import NEVER, Nested
from nmcompile.training.batches import Patches
from nmcompile.training.masking import Masking
from nmcompile.training.narrow import Narrow, narrow
from nmcompile.training.network import Trainable
from nmcompile.training.parallel import World
from nmcompile.training.policy import FixedPolicy
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import Trained, train


def train_levels(
    nested: Nested,
    dense: Program,
    data: Patches,
    recipe: Recipe,
    ctx: Context,
    world: World | None = None,
) -> tuple[Nested, Trained]:
    """Trains all levels jointly; keeps the state whose mean PSNR over the levels is best.

    Args:
        nested: as pruned.
        dense: the program whose output every level distils.
        data: patches by number.
        recipe: how; its losses are summed over a step's levels.
        ctx: task, validation images and reporter.
        world: processes that train together, all of which make this call.

    Returns:
        The levels with the weights found, and how training went.

    Raises:
        NmcompileError: as `train`.
    """
    policy = NestedPolicy(nested, recipe.seed)
    trained = train(nested.program, policy, dense, data, recipe, ctx, world)
    return dataclasses.replace(nested, program=trained.program), trained


class NestedMask(Masking):
    """Keeps, at each level, the weights whose least level is not above it.

    Attributes:
        level: the one that the network runs at.
    """

    least: Tensor

    def __init__(self, least: Tensor, level: int) -> None:
        """Args: least: uint8, the weight's shape, 255 for weights that no level keeps."""
        super().__init__()
        self.register_buffer("least", least.clone())
        self.level = level

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, zero where the level does not keep it."""
        return weight * (self.least <= self.level)

    def mask(self) -> Tensor:
        """What the last level keeps."""
        return self.least != NEVER


class NestedPolicy(FixedPolicy):
    """Masks stay; each step runs some of the levels."""

    def __init__(self, nested: Nested, seed: int) -> None:
        """Args: nested: the levels; seed: draws the level between of each step."""
        super().__init__(nested.program.the_plan)
        self._nested, self._seed = nested, seed
        self._masks: list[NestedMask] = []
        self._narrowed: list[Narrow] = []

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """One for every layer that differs between levels; a fixed one for other patterns."""
        if layer.name not in self._nested.least:
            return super().masking(layer, weight)
        mask = NestedMask(self._nested.least[layer.name], self._nested.count - 1)
        self._masks.append(mask)
        return mask

    def begin(self, network: Trainable) -> None:
        """Has lower levels cost what they keep."""
        levels = [self._nested.live(level) for level in range(self._nested.count)]
        self._narrowed = narrow(network.module, levels)

    def levels(self, step: int | None) -> Sequence[int]:
        """The last, the first and one between, which the seed and the step alone decide."""
        count = self._nested.count
        if step is None:
            return range(count)
        if count == 2:
            return (1, 0)
        # A generator for each step has no state that a resumed run would need.
        between = np.random.default_rng((self._seed, step, count)).integers(1, count - 1)
        return (count - 1, 0, int(between))

    def set_level(self, level: int) -> None:
        """Switches every mask and width; no weight is touched."""
        for mask in self._masks:
            mask.level = level
        for narrowed in self._narrowed:
            narrowed.level = level
