"""Nested masks -> weights that serve all levels: least squares, against a plain reference."""

import pytest
import torch
from torch import nn

from nmcompile.convs import read_conv, to_canonical, weight_uses
from nmcompile.routing.fitting import fit, fit_levels
from nmcompile.routing.nested import NEVER
from nmcompile.second_order import Hessian
from tests.networks import Around, Shared, captured, context, conv, weights
from tests.routing.nests import nest

NETWORKS = {
    "plain": (None, ("1:4", "2:4", "dense")),
    "last level sparse": (None, ("1:4", "2:4")),
    "grouped and transposed": (
        lambda: Around(conv(8, 8), nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2), conv(8, 8)),
        ("1:4", "2:4", "dense"),
    ),
    "shared weight": (Shared, ("1:4", "2:4", "dense")),
}


def errors(nested, dense, crops):
    wanted = dense(crops)
    return [
        float((nested.at(level)(crops) - wanted).square().mean()) for level in range(nested.count)
    ]


@pytest.mark.parametrize("kind", NETWORKS)
def test_levels_that_were_fitted_err_less_in_sum_and_keep_their_masks(tmp_path, kind):
    module, ladder = NETWORKS[kind]
    dense, nested = nest(tmp_path, module and module(), ladder)
    ctx = context(tmp_path)
    given = {name: value.clone() for name, value in weights(nested.program).items()}
    found = fit_levels(nested, dense, ctx)
    crops = ctx.calibration.crops
    before, after = errors(nested, dense, crops), errors(found, dense, crops)
    assert sum(after) < 0.8 * sum(before)
    assert after[0] < before[0]
    assert found.least is nested.least
    assert found.plans == nested.plans
    for name, least in nested.least.items():
        value = weights(found.program)[name]
        assert torch.equal(value != 0, least != NEVER)
    assert all(torch.equal(weights(nested.program)[name], value) for name, value in given.items())


def test_where_levels_do_not_differ_yet_nothing_changes(tmp_path):
    dense, nested = nest(tmp_path)
    found = fit_levels(nested, dense, context(tmp_path))
    first = next(iter(weight_uses(dense.module)))
    assert first not in nested.least
    assert torch.equal(weights(found.program)[first], weights(dense)[first])


@pytest.mark.parametrize("groups", [1, 2])
def test_the_fit_is_the_least_squares_of_all_levels_outputs(groups):
    """Rows one at a time, in float64, from the outputs themselves and not their products."""
    program = captured(Around(conv(8, 8, groups=groups)))
    (node,) = weight_uses(program.module)["body.0.weight"]
    call = read_conv(node)
    weight = to_canonical(weights(program)["body.0.weight"], call.op, groups)
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, 4, weight.shape, generator=generator)
    least = torch.where(draw == 3, NEVER, draw).to(torch.uint8)
    original = torch.randn(1, 8, 12, 12, generator=generator)
    inputs = [original + s * torch.randn(1, 8, 12, 12, generator=generator) for s in (0.6, 0.3, 0)]
    hessians = [Hessian(call, tuple(weight.shape), 1 << 20) for _ in inputs]
    for hessian, x in zip(hessians, inputs, strict=True):
        hessian.add(x, original=original)
    found = fit(weight, least, hessians)
    assert (found[least == NEVER] == 0).all()
    unfolded = [
        nn.functional.unfold(x.double(), 3, padding=1)[0].reshape(groups, -1, 144)
        for x in (*inputs, original)
    ]
    size = 8 // groups
    for row in range(8):
        group = row // size
        own, levels = weight[row].flatten().double(), least[row].flatten()
        left, right = [], []
        for level, x in enumerate(unfolded[:-1]):
            damping = (0.01 * x[group].square().sum(1).mean()).sqrt() * torch.eye(len(own))
            mask = (levels <= level).double()[:, None]
            # What damps a level holds the weights that it keeps to those of the dense network.
            left += [(mask * x[group]).T, (mask * damping).T]
            right += [own @ unfolded[-1][group], own @ (mask * damping)]
        kept = levels != NEVER
        expected = torch.linalg.lstsq(torch.cat(left)[:, kept], torch.cat(right)).solution
        torch.testing.assert_close(
            found[row].flatten()[kept].double(), expected, rtol=1e-3, atol=1e-5
        )
