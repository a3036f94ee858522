"""Weights of the largest level + the least level that keeps each -> the network at any level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmcompile.convs import get_tensor, set_tensor, to_canonical
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.readers import Live, live_channels

NEVER = 255


@dataclass(frozen=True)
class Nested:
    """Nested levels of one set of weights (ours; ClassPruning, arXiv 2211.05488, names the idea).

    Attributes:
        program: pruned for the last level, which keeps the most; its plan is that level's.
        least: weight name -> uint8 of the weight's shape as stored, the least level that keeps each
            weight, 255 for zeros. Weights that are not named are the same at all levels.
        plans: one a level, the last of them the program's own.
    """

    program: Program
    least: Mapping[str, Tensor]
    plans: tuple[Plan, ...]

    @property
    def count(self) -> int:
        """How many levels there are."""
        return len(self.plans)

    @property
    def costs(self) -> tuple[float, ...]:
        """MACs of each level over the dense network's."""
        return tuple(plan.macs / plan.dense_macs for plan in self.plans)

    def places(self) -> Mapping[str, NDArray[np.uint8]]:
        """By weight name the least level that keeps each, [out, in/groups, kh, kw]."""
        layers = {layer.name: layer for layer in self.program.the_plan.layers}
        return {
            name: to_canonical(least, layers[name].op, layers[name].groups).numpy()
            for name, least in self.least.items()
        }

    def least_of(self, name: str) -> Tensor:
        """The least level that keeps each weight of any layer, of the weight's shape as stored."""
        if name in self.least:
            return self.least[name]
        weight = get_tensor(self.program.module, name)
        dense = self.program.the_plan.layer(name).pattern.is_dense
        return torch.where((weight == 0) & (not dense), NEVER, 0).to(torch.uint8)

    def live(self, level: int) -> dict[str, Live]:
        """What counts of each convolution at a level, by its node's name; see readers.Live."""
        module = self.program.clone_module()
        for layer in self.program.the_plan.layers:
            set_tensor(module, layer.name, (self.least_of(layer.name) <= level).float())
        return {node.name: live for node, live in live_channels(module).items()}

    def at(self, level: int) -> Program:
        """The network as a level runs it, zeros where the level keeps nothing, with its plan."""
        module = self.program.clone_module()
        for name, least in self.least.items():
            weight = get_tensor(module, name)
            set_tensor(module, name, torch.where(least <= level, weight, 0.0))
        return dataclasses.replace(self.program, module=module, plan=self.plans[level])
