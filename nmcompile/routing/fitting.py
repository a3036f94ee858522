"""Nested masks + the dense network -> one set of weights by least squares over all levels.

What a level keeps cannot make up for what it leaves out without harm to the levels above, which
keep both. The weights here are the best compromise, layer by layer, and where training begins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from nmcompile.context import Context
from nmcompile.convs import (
    from_canonical,
    get_tensor,
    read_conv,
    set_tensor,
    to_canonical,
    weight_uses,
)
from nmcompile.passes.prune import POSITIONS, collect_hessian
from nmcompile.program import Program
from nmcompile.routing.nested import NEVER, Nested
from nmcompile.second_order import Hessian, damped, from_rows, to_rows
from nmcompile.walking import Walk


def fit_levels(nested: Nested, dense: Program, ctx: Context) -> Nested:
    """Fits every layer, from the first that levels differ in, to what the dense network gives.

    Args:
        nested: the levels.
        dense: the network before pruning.
        ctx: calibration crops.

    Returns:
        The same masks with other weights.
    """
    crops, count = ctx.calibration.crops, nested.count
    fitted = nested.program.with_module(nested.program.clone_module())
    original, uses = Walk(dense, crops), weight_uses(dense.module)
    levels = [nested.at(level) for level in range(count)]
    walks, places = [Walk(x, crops) for x in levels], [weight_uses(x.module) for x in levels]
    least = {name: nested.least_of(name) for name in uses}
    changed = [name for name in uses if (least[name] > 0).any()]
    names = list(uses)[list(uses).index(changed[0]) :] if changed else []
    with ctx.reporter.stage("fitting levels", len(names)) as step:
        for name in names:
            layer, nodes = fitted.the_plan.layer(name), uses[name]
            hessians = [
                collect_hessian(walk, own[name], layer, POSITIONS // count, (original, nodes))
                for walk, own in zip(walks, places, strict=True)
            ]
            conv = read_conv(nodes[0])
            assert conv is not None
            weight, kept = (
                to_canonical(given, conv.op, conv.groups)
                for given in (get_tensor(dense.module, name), least[name])
            )
            weight = from_canonical(fit(weight, kept, hessians), conv.op, conv.groups)
            set_tensor(fitted.module, name, weight.contiguous())
            for level, program in enumerate(levels):
                own_weight = torch.where(least[name] <= level, weight, 0.0)
                set_tensor(program.module, name, own_weight.contiguous())
            step()
    return dataclasses.replace(nested, program=fitted)


def fit(weight: Tensor, least: Tensor, hessians: Sequence[Hessian]) -> Tensor:
    """The V whose part M_l V at each level l gives most nearly what W gives in the dense network.

    Least squares of M_l V X_l - W X' summed over the levels; rows with the same masks share the
    matrix of their normal equations, the sum of M_l H_l M_l.

    Args:
        weight: W, [out, in/groups, kh, kw].
        least: uint8, the same shape, the least level that keeps each weight, NEVER for none.
        hessians: of the layer's inputs X_l at each level, with those of the dense network, X'.

    Returns:
        V, the same shape, zero where no level keeps a weight.
    """
    groups = len(hessians[0].matrix)
    rows, order = to_rows(weight, groups).double(), to_rows(least, groups)
    matrices = [damped(hessian.matrix.double()) for hessian in hessians]
    wanted = [
        rows @ (matrix if hessian.shift is None else matrix + hessian.shift.double())
        for matrix, hessian in zip(matrices, hessians, strict=True)
    ]
    result = torch.zeros_like(rows)
    for group, levels in enumerate(order):
        kinds, kind_of = torch.unique(levels, dim=0, return_inverse=True)
        for number, kind in enumerate(kinds):
            alike = (kind_of == number).nonzero().flatten()
            masks = [(kind <= level).double() for level in range(len(hessians))]
            pairs = list(zip(masks, matrices, wanted, strict=True))
            normal = torch.stack([m[:, None] * h[group] * m for m, h, _ in pairs]).sum(0)
            aim = torch.stack([m * w[group, alike] for m, _, w in pairs]).sum(0)
            kept = (kind != NEVER).nonzero().flatten()
            solved = torch.linalg.solve(normal[kept[:, None], kept], aim[:, kept].T).T
            result[group, alike[:, None], kept] = solved
    return from_rows(result.to(weight.dtype), weight)
