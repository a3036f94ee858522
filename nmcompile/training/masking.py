"""A weight that is trained -> the weight as the network applies it: with zeros where it is pruned.

A masking is a parametrization (torch.nn.utils.parametrize) of one weight, so that the graph reads
the masked weight wherever it read the weight, and its gradient flows as `forward` lets it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Masking(nn.Module, ABC):
    """What stands between one weight and the network; all in the operator's own layout."""

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The weight, shape as stored, as the network applies it."""

    @abstractmethod
    def mask(self) -> Tensor:
        """What is kept now (bool, the weight's shape)."""


class FixedMask(Masking):
    """A mask that training never moves: what is pruned stays zero and gets no gradient."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        """Args: kept: bool, the weight's shape."""
        super().__init__()
        self.register_buffer("kept", kept.clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, zero where it is not kept."""
        return weight * self.kept

    def mask(self) -> Tensor:
        """The mask that was given."""
        return self.kept
