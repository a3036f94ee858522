"""Frozen levels and windows -> heads that see what is hard, resumed, and refused."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError
from nmcompile.progress import SILENT
from nmcompile.routing import heading, learning, windows
from nmcompile.routing.calibrating import judge
from nmcompile.routing.head import make_head
from nmcompile.routing.heading import by_image, scores_of, train_head
from nmcompile.routing.learning import learn
from nmcompile.routing.windows import Windows, measure
from nmcompile.runtime.routing import levels_of
from tests.networks import Around, conv
from tests.routing.nests import LADDER, RECIPE, SIDE, nest

LEARNT, HELD = slice(256), slice(256, None)


def test_a_head_learns_what_is_hard(monkeypatch):
    """Flat windows lose nothing at the first level; textured ones much, of more error."""
    monkeypatch.setattr(learning, "STEPS", 200)
    generator, count = torch.Generator().manual_seed(0), 384
    strength = (torch.arange(count) % 2).float()
    noise = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    images = 0.5 + 0.02 * noise * (1 + 10 * strength[:, None, None, None])
    errors = 1e-3 + strength[:, None] * torch.tensor([3e-3, 1.6e-3, 1e-3])
    sources = torch.arange(count) // 2
    seen, held = (
        Windows(images[part], errors[part].double(), sources[part]) for part in (LEARNT, HELD)
    )
    head = make_head(1, 3, 1.0, seed=0, allowance=200.0)
    costs = np.array([0.2, 0.5, 1.0])
    before = scores_of(head, held)
    learn(head, seen, seen.errors, costs, 0, SILENT)
    after = scores_of(head, held)
    with torch.no_grad():
        said = head(held.images).flatten(1)[:, -1]
    assert said[strength[HELD] == 1].min() > said[strength[HELD] == 0].max()
    untaught, taught = (judge(scores, held.errors.numpy(), costs) for scores in (before, after))
    assert taught["over_random"] > max(0.3, untaught["over_random"] + 0.1)
    assert taught["under_oracle"] < 0.05


def test_measured_errors_are_those_of_each_level(case):
    found = measure(case["nested"], case["data"], SIDE, 20, case["ctx"])
    pairs = [case["data"][number] for number in range(20)]
    assert torch.equal(found.images, torch.stack([low for low, _ in pairs]))
    for level in range(len(LADDER)):
        made = case["nested"].at(level)(found.images).clamp(0, 1)
        expected = [float((a - b).square().mean()) for a, (_, b) in zip(made, pairs, strict=True)]
        np.testing.assert_allclose(found.errors[:, level], expected, rtol=1e-3)


def test_levels_that_libnmk_lacks_are_measured_by_torch(case, tmp_path):
    _, nested = nest(tmp_path, Around(conv(8, 8), nn.Softplus(), conv(8, 8)))
    image = torch.rand(2, 3, SIDE, SIDE)
    run = windows.runner(nested)
    for level in range(nested.count):
        assert torch.equal(run(image, level), nested.at(level)(image))


def test_a_head_is_trained_calibrated_and_judged(case):
    done = train_head(recipe=RECIPE, **case)
    routing = Routing("tile", SIDE, 4, *[case["times"]] * 2, done.cost, done.bias, 0.5)
    every = measure(case["nested"], case["data"], SIDE, 128, case["ctx"])
    chosen = levels_of(scores_of(done.head, every)[85 : 85 + 21], routing, done.effort)
    shares = np.bincount(chosen, minlength=3) / 21
    np.testing.assert_allclose(done.shares, shares)
    assert 0 < done.cost <= 0.01
    assert done.facts["windows"] == 128
    assert set(done.facts["held_out"]) >= {"over_static", "over_random", "under_oracle", "cost"}
    again = train_head(recipe=RECIPE, **case)
    assert again.bias == done.bias


def test_errors_of_rough_and_of_smooth_images_count_alike():
    """What a level adds to an image's error is weighed by that; its windows keep their order."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 4, (4000,), generator=generator)
    scale = 10.0 ** -images.double()
    errors = scale[:, None] * (1 + torch.rand(4000, 2, generator=generator).double())
    found = by_image(Windows(torch.empty(4000), errors, images))
    means = torch.stack([found[images == i].mean(0) for i in range(4)])
    last = errors[:, 1].mean()
    assert (means[:3, 1] / last).sub(1).abs().max() < 0.15
    assert means[3, 1] > 0.4 * last  # at a thousandth, one window of the average weighs
    for i in range(4):
        ratio = found[images == i] / errors[images == i]
        torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


def test_a_resumed_run_does_not_measure_again(case, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state")
    done = train_head(recipe=recipe, **case)
    monkeypatch.setattr(heading, "measure", None)
    resumed = train_head(recipe=dataclasses.replace(recipe, resume=True), **case)
    assert (resumed.bias, resumed.facts) == (done.bias, done.facts)
    other = dataclasses.replace(recipe, resume=True, seed=5)
    with pytest.raises(NmcompileError, match="checkpoint of another model"):
        train_head(recipe=other, **case)


def test_windows_of_another_size_are_refused(case):
    with pytest.raises(NmcompileError, match="patches of 16x16 pixels, expected windows of 24x24"):
        train_head(recipe=RECIPE, **{**case, "window": 24})


def test_a_network_too_small_for_a_head_is_refused(case, tmp_path):
    _, nested = nest(tmp_path, Around(conv(8, 8, 1)))
    with pytest.raises(NmcompileError, match="too small to gain by routing"):
        train_head(recipe=RECIPE, **{**case, "nested": nested})
