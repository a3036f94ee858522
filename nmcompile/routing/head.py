"""Channels and levels -> a difficulty head: a small network that scores each level for a window.

The head is strided from its first convolution on, as ClassSR's classifier is (Kong et al., CVPR
2021), and goes on striding, so that it takes 912 multiply-accumulates for each pixel of a colour
image where that one takes 3,711. Errors are means over pixels, and so are its scores.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmcompile.capture.tracing import quiet, trace
from nmcompile.errors import NmcompileError
from nmcompile.program import Program

if TYPE_CHECKING:
    from nmcompile.routing.nested import Nested

SHARE = 0.01  # of the dense network's multiply-accumulates, the most that a head may have
SIZE = 0.02  # of its weights, likewise
WIDTHS = (64, 48, 32, 24, 16, 12, 8, 4)
_CELL = 4  # pixels that the first convolution joins, and its stride
_SLOPE = 0.1
_TRACED = (3, 44, 60)  # N, H and W: numbers that a graph does not take for one dimension


class Head(nn.Module):
    """Scores of each level for a window, and how difficult it is.

    A score is higher where the level suits the window better, as a share of the window's own error;
    the difficulty is the logarithm of that error. So an image's windows can be compared with each
    other, see nmcompile.runtime.routing.image_scores.

    Attributes:
        value_range: of the images.
        width: channels between its convolutions.
    """

    def __init__(self, channels: int, levels: int, value_range: float, width: int) -> None:
        """Args: as of make_head; width: channels between its convolutions."""
        super().__init__()
        self.value_range, self.width = value_range, width
        self.first = nn.Conv2d(channels, width, _CELL, stride=_CELL)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv2d(width, levels + 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """[N, C, h, w] in the network's range, h and w at least 4 -> [N, K + 1, 1, 1].

        The difficulty is the last.
        """
        x = image if self.value_range == 1 else image / self.value_range
        x = F.leaky_relu(self.first(x), _SLOPE)
        x = F.leaky_relu(self.second(x), _SLOPE)
        x = F.leaky_relu(self.third(x), _SLOPE)
        said: Tensor = self.last(x.mean((2, 3), keepdim=True))
        return said

    def settle(self, images: Tensor) -> None:
        """Begins where training moves: outputs of each convolution vary by 1 on these images.

        The first convolution's weights have no mean, so that it sees texture and no brightness,
        which is many times larger and tells nothing. Scales as of Mishkin and Matas, "All you
        need is a good init", ICLR 2016.
        """
        with torch.no_grad():
            self.first.weight -= self.first.weight.mean((2, 3), keepdim=True)
            x = images / self.value_range
            for layer in (self.first, self.second, self.third):
                torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                layer.weight /= layer(x).std((0, 2, 3)).mean().clamp_min(1e-12)
                x = F.leaky_relu(layer(x), _SLOPE)

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates on one image of that size, counted as the plan counts a layer's."""
        total = 0
        for layer in (self.first, self.second, self.third, self.last):
            if layer is self.last:
                height = width = 1
            (k, _), (s, _), pad = layer.kernel_size, layer.stride, int(layer.padding[0])
            height, width = ((n + 2 * pad - k) // s + 1 for n in (height, width))
            total += layer.weight.numel() * height * width
        return total


def make_head(
    channels: int,
    levels: int,
    value_range: float,
    seed: int,
    allowance: float = math.inf,
    size: float = math.inf,
) -> Head:
    """The widest head within the allowance and the size, its weights drawn at random.

    On EDSR's levels a head of width 8 came within 0.05 dB of one of width 64, so that a network
    of few weights is not made much larger by its head: the size yields before the allowance does.

    Args:
        channels: of the image.
        levels: K.
        value_range: largest value of the image, 1.0 or 255.0.
        seed: of the weights.
        allowance: multiply-accumulates for each pixel of the image, at most; see `allowance_of`.
        size: weights, at most, if a head of the narrowest width has no more.

    Raises:
        NmcompileError: not even the narrowest head is within the allowance.
    """
    side = 1 << 8  # so large that borders do not count
    for width in WIDTHS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = Head(channels, levels, value_range, width)
        needed = head.macs(side, side) / side**2
        small = sum(weight.numel() for weight in head.parameters()) <= size
        if needed <= allowance and (small or width == WIDTHS[-1]):
            return head
    raise NmcompileError(
        f"the smallest difficulty head takes {needed:.0f} MACs a pixel, expected at most "
        f"{allowance:.0f}, {SHARE:.0%} of the network's: it is too small to gain by routing; "
        "compile it without --route"
    )


def head_for(nested: Nested, seed: int) -> Head:
    """A head within SHARE of the network's multiply-accumulates and SIZE of its weights."""
    interface, plan = nested.program.interface, nested.program.the_plan
    return make_head(
        interface.channels, nested.count, interface.value_range, seed,
        allowance_of(nested.program), SIZE * sum(layer.params for layer in plan.layers),
    )  # fmt: skip


def allowance_of(dense: Program) -> float:
    """Multiply-accumulates for each pixel that the head of a network with a plan may take."""
    plan = dense.the_plan
    return SHARE * plan.dense_macs / math.prod(plan.reference_size)


def cost_of(head: Head, dense: Program, window: int) -> float:
    """MACs of the head over those of the dense network, on a window of that side in pixels."""
    macs_a_pixel = allowance_of(dense) / SHARE
    return head.macs(window, window) / (macs_a_pixel * window**2)


def head_program(head: Head, nested: Nested, folded: bool = True) -> Program:
    """The head as a program: an image [N, C, h, w] in the network's range -> [N, K + 1, 1, 1].

    Args:
        head: the module, left as it is.
        nested: the levels it scores.
        folded: makes the range part of the first weights, so that no step of its own scales the
            image; weights that will be trained stay as they are.
    """
    deployed = copy.deepcopy(head).eval().requires_grad_(False)
    if folded:
        deployed.first.weight /= head.value_range
        deployed.value_range = 1.0
    image = torch.rand(_TRACED[0], head.first.in_channels, *_TRACED[1:])
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with quiet():
        module = trace(deployed, (image,), (free,))
    interface = dataclasses.replace(
        nested.program.interface, scale=1, multiple=1, minimum=_CELL, fixed_size=None,
        extra_inputs=(),
    )  # fmt: skip
    return Program(module, interface)
