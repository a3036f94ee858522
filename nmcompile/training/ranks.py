"""A layer's weight and a family of N:M patterns -> which N each weight is kept from on."""

from __future__ import annotations

import torch
from torch import Tensor

from nmcompile.convs import from_canonical, to_canonical
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer


def entry_levels(weight: Tensor, layer: Layer, family: Pattern) -> Tensor:
    """For every weight the least N, less one, of the family's N:M patterns that keep it.

    In every group the weights are ranked by magnitude (for v > 1, or whole kernels: by the sum of
    squares of those that share a choice), so that the masks of all N are nested: SLS, CVPR 2022,
    section 3.2. A ragged last group of r < m channels keeps ceil(N r / m) of them.

    Args:
        weight: in the operator's layout.
        layer: what the weight belongs to.
        family: its v, m and whole count, its n does not.

    Returns:
        int32, the weight's shape, 0 .. m - 1.
    """
    canonical = to_canonical(weight.detach(), layer.op, layer.groups)
    score = _shared(canonical.square(), layer.groups, family.v)
    if family.whole:
        score = score.sum(dim=(2, 3), keepdim=True).expand_as(score)
    levels = torch.empty(score.shape, dtype=torch.int32, device=score.device)
    for start, size, _ in family.group_sizes(score.shape[1]):
        group = score[:, start : start + size]
        ranks = group.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        levels[:, start : start + size] = ranks * family.m // size
    return from_canonical(levels, layer.op, layer.groups)


def _shared(score: Tensor, groups: int, v: int) -> Tensor:
    """The sum of the scores of each v consecutive output channels, at each of them."""
    if v == 1:
        return score
    by_group = score.reshape(groups, -1, *score.shape[1:])
    blocks = torch.arange(by_group.shape[1], device=score.device) // v
    sums = by_group.new_zeros(groups, int(blocks[-1]) + 1, *score.shape[1:])
    return sums.index_add(1, blocks, by_group)[:, blocks].reshape(score.shape)
