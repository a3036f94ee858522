"""SLS, SR-STE and re-assignment in the trainer: budgets met, masks exported, runs resumed."""

import dataclasses

import pytest
import torch

from nmcompile.budget import Budget
from nmcompile.errors import NmcompileError
from nmcompile.masks import FIXED, Masks
from nmcompile.passes import (
    analyze_cost,
    assign_patterns,
    measure_latency,
    measure_sensitivity,
)
from nmcompile.passes import prune as prune_pass
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.training.batches import Patches
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import train
from tests.networks import cleaned, context, plain, weights
from tests.training.test_trainer import KilledError, killed_after, source

RECIPE = Recipe(steps=12, batch=4, patch=16, lr=3e-3, validations=6, precision="fp32")
MASKS = {
    "sls": Masks(search=Pattern(1, 1, 8)),
    "sr-ste": Masks(sr_ste=True),
    "reassign": Masks(reassign=2),
}
__all__ = ["source"]


@pytest.fixture
def made(tmp_path, source):
    """What trains under masks of a kind."""
    patterns = tuple(Pattern(1, n, 8) for n in (1, 2, 4, 6))
    ctx = context(tmp_path, budget=Budget.parse("macs=0.5"), patterns=patterns)
    dense = cleaned(plain(), ctx)

    def prune():
        steps = (analyze_cost, measure_latency, measure_sensitivity, assign_patterns, prune_pass)
        return run_passes(dense, ctx, steps)

    def run(kind, recipe=RECIPE, data=Patches):
        masks = MASKS[kind]
        start = masks.start(dense, ctx, prune)
        policy = masks.policy(start, dense, ctx, recipe, World())
        patches = data(source, (), ctx.task, dense.interface, 16)
        done = train(start, policy, dense, patches, recipe, ctx)
        return dataclasses.replace(done, program=masks.finish(done.program, ctx)), policy

    return run


@pytest.mark.parametrize("kind", MASKS)
def test_what_comes_out_keeps_to_its_patterns_and_the_budget(made, kind):
    done, policy = made(kind)
    plan = done.program.the_plan
    assert plan.macs <= 0.5 * plan.dense_macs
    assert any(not layer.pattern.is_dense for layer in plan.layers)
    found = policy.patterns()
    for layer in plan.layers:
        kept = weights(done.program)[layer.name].numpy() != 0
        assert layer.pattern.allows(kept, layer.groups)
        assert layer.pattern == found.get(layer.name, Pattern.parse("dense"))


@pytest.mark.parametrize("kind", MASKS)
def test_the_mask_that_was_trained_is_the_mask_exported(made, kind, monkeypatch):
    """The best state's own network and the program that leaves training give the same output."""
    from nmcompile.training.network import Trainable

    seen = {}
    bake = Trainable.to_program

    def remember(self):
        x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            seen["x"], seen["trained"] = x, self(x)
        return bake(self)

    monkeypatch.setattr(Trainable, "to_program", remember)
    done, _ = made(kind)
    torch.testing.assert_close(done.program(seen["x"]), seen["trained"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MASKS)
def test_a_killed_run_resumes_to_the_same_losses(made, kind, tmp_path):
    whole, _ = made(kind)
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state", checkpoint_seconds=0.0)

    with pytest.raises(KilledError):
        made(kind, recipe, killed_after(8 * RECIPE.batch))
    resumed, _ = made(kind, dataclasses.replace(recipe, resume=True))
    assert resumed.curve == whole.curve
    assert weights(resumed.program).keys() == weights(whole.program).keys()
    for name, weight in weights(resumed.program).items():
        assert torch.equal(weight, weights(whole.program)[name])


def test_masks_as_they_are_asked_for():
    assert Masks.parse("sensitivity", "fixed", 0) == FIXED
    assert Masks.parse("sls", "fixed", 0) == Masks(search=Pattern(1, 1, 32))
    assert Masks.parse("sls:8x16k", "fixed", 0) == Masks(search=Pattern(8, 1, 16, True))
    assert Masks.parse("sensitivity", "sr-ste", 0) == Masks(sr_ste=True)
    assert Masks.parse("sensitivity", "fixed", 2) == Masks(reassign=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("genetic", "fixed", 0), "--search genetic: expected sensitivity"),
        (("sensitivity:4", "fixed", 0), "--search sensitivity:4: expected"),
        *(
            ((f"sls:{text}", "fixed", 0), f"sls:{text}: N is what is searched for; give sls:M")
            for text in ("x", "2:4c", "2:16", "16c", "8x2:16k")
        ),
        (("sensitivity", "ste", 0), "--train-masks ste: expected fixed or sr-ste"),
        (("sensitivity", "fixed", -1), "--reassign -1: expected 0 or more"),
        (("sls", "sr-ste", 0), "exclude each other"),
    ],
)
def test_what_cannot_be_asked_for(words, said):
    with pytest.raises(NmcompileError, match=said):
        Masks.parse(*words)


@pytest.mark.parametrize(
    ("masks", "budget", "recipe", "given", "said"),
    [
        ("sls", "macs=0.5", None, False, "--search sls is about training"),
        ("sr-ste", "macs=0.5", None, False, "--train-masks is about training"),
        ("sls", "macs=0.5", RECIPE, True, "leave out --plan and --uniform"),
        ("sls", "drop=0.1dB", RECIPE, False, "--budget macs=0.5 or latency=0.5x"),
        ("reassign", "drop=0.1dB", RECIPE, False, "--reassign needs a budget"),
        ("sls", "macs=0.5", Recipe(seconds=60.0), False, "--finetune 3000"),
    ],
)
def test_what_does_not_go_together(masks, budget, recipe, given, said):
    with pytest.raises(NmcompileError, match=said):
        MASKS[masks].check(Budget.parse(budget), recipe, given)


def test_other_masks_go_with_everything():
    FIXED.check(Budget.parse("drop=0.1dB"), None, True)
    MASKS["sr-ste"].check(Budget.parse("drop=0.1dB"), Recipe(seconds=60.0), True)
