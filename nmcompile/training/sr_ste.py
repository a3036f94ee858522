"""Layers and their patterns -> masks drawn anew at every step while the dense weights train.

"Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch" (SR-STE), Zhou et al.,
ICLR 2021, with its decay decoupled from Adam's moments, and a gradual schedule.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.training.masking import Masking
from nmcompile.training.network import Trainable
from nmcompile.training.policy import OneLevel
from nmcompile.training.ranks import entry_levels

# What the decay would leave of a weight that is never kept. The paper's lambda of 2e-4 at a rate of
# 0.1, cosine, for its 120 epochs of ImageNet (5000 steps each) leaves e^-6; as an exponent of the
# whole run it depends neither on the rate nor on the number of steps.
DECAY = 6.0
_FALLING, _FIXED = 0.5, 0.75  # shares of the steps: N has reached its target; masks stay


class DrawnMask(Masking):
    """The n largest weights of each group at every application, until the mask is frozen."""

    n: Tensor
    kept: Tensor
    frozen: Tensor

    def __init__(self, weight: Tensor, layer: Layer) -> None:
        """Args: weight: as the network starts; layer: with the pattern to be reached."""
        super().__init__()
        self.layer = layer
        self.register_buffer("n", torch.tensor(layer.pattern.m))
        self.register_buffer("kept", torch.ones(weight.shape, dtype=torch.bool))
        self.register_buffer("frozen", torch.tensor(False))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the network applies it; the gradient reaches pruned weights too."""
        if not self.frozen:
            self.kept = entry_levels(weight, self.layer, self.layer.pattern) < self.n
        return weight - (weight * ~self.kept).detach()

    def mask(self) -> Tensor:
        """What was kept last."""
        return self.kept


class SrStePolicy(OneLevel):
    """SR-STE towards given patterns; N falls from M in the first half of the steps.

    Gradual schedule: N = n + (M - n) (1 - t)^3 (Zhu and Gupta, 2017, equation 1). In the last
    quarter masks stay as they are, so that averaged weights belong to one mask.
    """

    def __init__(self, patterns: Mapping[str, Pattern], decay: float = DECAY) -> None:
        """Starts with everything kept.

        Args:
            patterns: layer name -> what is to be reached; others stay dense.
            decay: see DECAY.
        """
        self._patterns = {name: p for name, p in patterns.items() if not p.is_dense}
        self._decay, self._decayed = decay, 0.0
        self._maskings: dict[str, DrawnMask] = {}
        self._network: Trainable | None = None

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """A mask for a layer that has a pattern."""
        if layer.name not in self._patterns:
            return None
        wanted = replace(layer, pattern=self._patterns[layer.name])
        made = DrawnMask(weight, wanted)
        self._maskings[layer.name] = made
        return made

    def begin(self, network: Trainable) -> None:
        """Takes the weights that decay."""
        self._network = network

    def penalty(self) -> Tensor | float:
        """None: the decay acts on the weights, not on the loss."""
        return 0.0

    def before_step(self, progress: float) -> None:
        """Shrinks the weights that are not kept, W -= rate * lambda * (1 - E) W (equation 9).

        The rate is a cosine's, whose share of the whole run is taken since the step before.
        """
        passed = progress + math.sin(math.pi * progress) / math.pi
        left = math.exp(-self._decay * (passed - self._decayed))
        self._decayed = passed
        with torch.no_grad():
            for name, masking in self._maskings.items():
                weight = self._raw(name)
                weight.copy_(torch.where(masking.kept, weight, left * weight))

    def after_step(self, progress: float) -> Collection[str]:
        """Lowers N as the schedule says; fixes the masks in the end."""
        left = max(0.0, 1 - progress / _FALLING)
        for name, masking in self._maskings.items():
            pattern = self._patterns[name]
            masking.n.fill_(round(pattern.n + (pattern.m - pattern.n) * left**3))
            if progress >= _FIXED and not masking.frozen:
                masking(self._raw(name))
                masking.frozen.fill_(True)
        return ()

    def _raw(self, name: str) -> nn.Parameter:
        assert self._network is not None
        return self._network.raw(name)

    def describe(self) -> str:
        """How far N has come."""
        kept = [int(masking.kept.sum()) for masking in self._maskings.values()]
        every = [masking.kept.numel() for masking in self._maskings.values()]
        return f"{sum(kept) / max(1, sum(every)):.3f} of the weights"

    def patterns(self) -> dict[str, Pattern]:
        """The patterns that the masks have now; in the end, those to be reached."""
        return {
            name: DENSE if int(m.n) == m.layer.pattern.m else replace(m.layer.pattern, n=int(m.n))
            for name, m in self._maskings.items()
        }

    def state(self) -> dict[str, Any]:
        """What the maskings do not hold."""
        return {"decayed": self._decayed}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what state() gave."""
        self._decayed = state["decayed"]
