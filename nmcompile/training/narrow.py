"""A network of nested levels -> the same, computing at each level only channels that count there.

Masks alone train a lower level at the cost of the last one. Where whole channels are masked, as by
patterns of channels, a convolution here reads those that its level keeps, and makes those that
somebody reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from nmcompile.convs import named_arguments, read_conv
from nmcompile.readers import Live

_WORTH = 0.8  # of a convolution's multiply-accumulates, choosing channels included


class Narrow(nn.Module):
    """A convolution of 2 dimensions, without groups, whose width depends on the level.

    Channels are chosen and put back by convolutions with a one in each row: exact, and on the CPU
    more than twice as fast as indexing images whose channels lie side by side (64 to 32, Zen 4).

    Attributes:
        level: the one that the network runs at.
    """

    def __init__(self, node: fx.Node, levels: Sequence[Live]) -> None:
        """Args: node: a call of a convolution; levels: what counts at each, the last level last."""
        super().__init__()
        self._call: Any = node.target
        given = named_arguments(node)
        self._settings = {k: v for k, v in given.items() if k not in ("input", "weight", "bias")}
        shape = given["weight"].meta["val"].shape
        for level, live in enumerate(levels):
            if _pays(live, shape):
                for name, kept in (("outputs", live.outputs), ("inputs", live.inputs)):
                    self.register_buffer(f"{name}{level}", kept.nonzero().flatten(), False)
        self.level = len(levels) - 1

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[N, C, H, W] -> [N, D, H', W'], zeros in channels that nobody reads at this level."""
        inputs = getattr(self, f"inputs{self.level}", None)
        if inputs is None:
            return self._convolved(x, weight, bias)
        outputs = getattr(self, f"outputs{self.level}")
        if not len(inputs):
            return self._skipped(x, weight, bias)
        few = F.conv2d(x, _choosing(inputs, weight.shape[1], x))
        bias = None if bias is None else bias[outputs]
        few = self._convolved(few, weight[outputs][:, inputs], bias)
        return F.conv2d(few, _choosing(outputs, len(weight), few).transpose(0, 1))

    def _skipped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What no input changes: the bias, in an image of the size that the convolution gives."""
        zeros = weight.new_zeros((1, 1, *weight.shape[2:]))
        nothing = self._convolved(x[:, :1].detach(), zeros, None)
        if bias is None or not len(getattr(self, f"outputs{self.level}")):
            return nothing.expand(-1, len(weight), -1, -1)
        return nothing + bias[:, None, None].to(nothing.dtype)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self._call(input=x, weight=weight, bias=bias, **self._settings)
        return result


def narrow(module: fx.GraphModule, levels: Sequence[Mapping[str, Live]]) -> list[Narrow]:
    """Replaces, in place, convolutions that a level has much less of.

    Args:
        module: whose weights are masked by level already.
        levels: what counts at each level, by the name of the convolution's node.

    Returns:
        What took their places; all are to be told the level.
    """
    found: list[Narrow] = []
    for node in list(module.graph.nodes):
        lives = [level[node.name] for level in levels if node.name in level]
        conv = read_conv(node) if lives else None
        if conv is None or not any(_pays(live, conv.weight.meta["val"].shape) for live in lives):
            continue
        found.append(Narrow(node, lives))
        name = f"narrow{len(found)}"
        module.add_submodule(name, found[-1])
        with module.graph.inserting_before(node):
            put = module.graph.call_module(name, (conv.source, conv.weight, conv.bias))
        put.meta.update(node.meta)
        node.replace_all_uses_with(put)
        module.graph.erase_node(node)
    module.recompile()
    return found


def _pays(live: Live, shape: torch.Size) -> bool:
    outputs, inputs, *kernel = shape
    area = kernel[0] * kernel[1]
    kept = (int(live.outputs.sum()), int(live.inputs.sum()))
    if 0 in kept:
        return True
    needed = kept[0] * kept[1] * area + kept[0] * outputs + kept[1] * inputs
    return needed < _WORTH * outputs * inputs * area


def _choosing(channels: Tensor, count: int, like: Tensor) -> Tensor:
    """The weight of a convolution that picks these of `count` channels."""
    return F.one_hot(channels, count)[:, :, None, None].to(like.dtype)
