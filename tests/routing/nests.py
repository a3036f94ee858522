"""A few layers -> nested levels by magnitude, as small as tests need them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from nmcompile.convs import (
    from_canonical,
    get_tensor,
    read_conv,
    set_tensor,
    to_canonical,
    weight_uses,
)
from nmcompile.passes import analyze_cost, measure_latency
from nmcompile.pattern import DENSE, SKIP, Pattern
from nmcompile.pipeline import run_passes
from nmcompile.program import Program
from nmcompile.routing.nested import NEVER, Nested
from nmcompile.second_order import prune_magnitude
from nmcompile.training.recipe import Recipe
from tests.networks import cleaned, context, plain

LADDER = ("1:4", "2:4", "dense")
SIDE = 16  # of a window
RECIPE = Recipe(steps=4, batch=4, patch=SIDE, lr=1e-3, validations=2, precision="fp32")


def nest(folder: Path, module: nn.Module | None = None, ladder: tuple[str, ...] = LADDER):
    """(dense program, its levels): a pattern of the ladder a level, but in head and tail."""
    patterns = [*map(Pattern.parse, ladder)]
    ctx = context(folder, patterns=tuple(p for p in patterns if p not in (DENSE, SKIP)))
    clean = cleaned(plain() if module is None else module, ctx)
    dense = run_passes(clean, ctx, [analyze_cost, measure_latency])
    return dense, nested_by_magnitude(dense, patterns)


def nested_by_magnitude(dense: Program, patterns: list[Pattern]) -> Nested:
    """Each level prunes what the one above it left."""
    result = dense.with_module(dense.clone_module())
    uses, least = weight_uses(result.module), {}
    for layer in dense.the_plan.layers[1:-1]:
        conv = read_conv(uses[layer.name][0])
        weight = to_canonical(get_tensor(result.module, layer.name), conv.op, conv.groups)
        levels = torch.full(weight.shape, NEVER, dtype=torch.uint8)
        for level in reversed(range(len(patterns))):
            if patterns[level] != DENSE:
                weight = prune_magnitude(weight, layer.groups, patterns[level])
            levels[weight != 0] = level
            if level == len(patterns) - 1:
                top = from_canonical(weight, conv.op, conv.groups)
        set_tensor(result.module, layer.name, top)
        least[layer.name] = from_canonical(levels, conv.op, conv.groups).contiguous()
    names = list(least)
    plans = tuple(dense.the_plan.assign(dict.fromkeys(names, p), {}) for p in patterns)
    facts = result.facts | {"patterns", "pruned"}
    return Nested(dataclasses.replace(result, plan=plans[-1], facts=facts), least, plans)
