"""Two networks of one graph -> how far the values between their layers lie apart."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from nmcompile.convs import read_conv
from nmcompile.training.narrow import Narrow

TAPS = 4
_LEAST = 1e-12  # a layer may give zeros


class Taps:
    """What some convolutions of a module gave when it last ran.

    Attributes:
        values: one tensor a tapped convolution, in the graph's order, with its gradient.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        """Taps TAPS convolutions, evenly spaced; the last is left out: the output shows it."""
        self.values: list[Tensor] = []
        convs = [node for node in module.graph.nodes if _is_conv(module, node)][:-1]
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
    """The L1 distance as a share of an image's mean magnitude; mean over images and taps.

    A share of each image's own, so that a batch shared out to processes gives the same.
    """
    shares = [
        (_magnitude(ours - theirs) / _magnitude(theirs).clamp_min(_LEAST)).mean()
        for ours, theirs in zip(given.values, wanted.values, strict=True)
    ]
    return torch.stack(shares).mean() if shares else 0.0


def _is_conv(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), Narrow)
    return read_conv(node) is not None


def _magnitude(values: Tensor) -> Tensor:
    return values.float().abs().mean(dim=(1, 2, 3))
