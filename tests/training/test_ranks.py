"""Weights and families of patterns -> nested masks, against a plain reference."""

import dataclasses

import numpy as np
import pytest
import torch

from nmcompile.convs import from_canonical, to_canonical
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.training.ranks import entry_levels


def a_layer(shape, op="conv2d", groups=1):
    return Layer("w", op, shape, groups, 1, 1, 1, "", 1)


CASES = [
    ("1:4", (6, 8, 3, 3), "conv2d", 1),
    ("1:8", (4, 13, 3, 3), "conv2d", 1),  # a ragged group of 5
    ("4x1:4", (10, 8, 1, 3), "conv2d", 1),  # a ragged block of 2
    ("4x1:4", (12, 8, 3, 3), "conv2d", 2),
    ("1:4", (8, 8, 4, 4), "conv_transpose2d", 2),
    ("2x1:8", (6, 16, 1, 1), "linear", 1),
    ("2x1:4k", (6, 8, 3, 3), "conv2d", 1),
]


@pytest.mark.parametrize(("text", "shape", "op", "groups"), CASES)
def test_every_level_keeps_the_largest_that_its_pattern_allows(text, shape, op, groups):
    family = Pattern.parse(text)
    canonical = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = from_canonical(canonical, op, groups)
    levels = entry_levels(weight, a_layer(shape, op, groups), family)
    assert levels.shape == weight.shape
    found = to_canonical(levels, op, groups).numpy()
    for n in range(1, family.m):
        pattern = dataclasses.replace(family, n=n)
        mask = found < n
        assert pattern.allows(mask, groups)
        np.testing.assert_array_equal(mask, plain_mask(canonical.numpy(), pattern, groups))
    assert (found < family.m).all()


def plain_mask(weight, pattern, groups):
    """The largest of every group, one group after the other."""
    mask = np.zeros(weight.shape, bool)
    per_group = weight.shape[0] // groups
    for base in range(0, len(weight), per_group):
        for first in range(base, base + per_group, pattern.v):
            rows = slice(first, min(first + pattern.v, base + per_group))
            for start, size, kept in pattern.group_sizes(weight.shape[1]):
                part = np.square(weight[rows, start : start + size]).sum(axis=0)
                if pattern.whole:
                    part = np.broadcast_to(part.sum(axis=(1, 2), keepdims=True), part.shape)
                best = np.argsort(-part, axis=0, kind="stable")[:kept]
                chosen = np.zeros(part.shape, bool)
                np.put_along_axis(chosen, best, True, axis=0)
                mask[rows, start : start + size] = chosen
    return mask
