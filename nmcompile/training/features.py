"""Two networks of one graph -> how far the values between their layers lie apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from nmcompile.convs import read_conv

TAPS = 4


class Taps:
    """What some convolutions of a module gave when it last ran.

    Attributes:
        values: one tensor a tapped convolution, in the graph's order, with its gradient.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        """Taps TAPS convolutions, evenly spaced; the last is left out: the output shows it."""
        self.values: list[Tensor] = []
        convs = [node for node in module.graph.nodes if read_conv(node) is not None][:-1]
        count = min(TAPS, len(convs))
        for number in range(count):
            node = convs[(number + 1) * len(convs) // count - 1]
            with module.graph.inserting_after(node):
                module.graph.call_function(self._keep, (number, node))
        module.recompile()

    def _keep(self, number: int, value: Tensor) -> None:
        if number == 0:
            self.values.clear()
        self.values.append(value)


def distance(given: Taps, wanted: Taps) -> Tensor | float:
    """Mean over the taps of the L1 distance, as a share of the wanted values' mean magnitude."""
    shares: list[Any] = [
        (ours.float() - theirs.float()).abs().mean() / theirs.float().abs().mean().clamp_min(1e-12)
        for ours, theirs in zip(given.values, wanted.values, strict=True)
    ]
    return torch.stack(shares).mean() if shares else 0.0
