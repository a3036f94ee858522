"""Levels and a head, trained together: both move, levels stay nested, the better pair is kept."""

import copy
import dataclasses

import pytest
import torch

from nmcompile.convs import get_tensor
from nmcompile.passes.insert_routing import insert_routing
from nmcompile.routing import finishing, learning
from nmcompile.routing.finishing import JOINT, RoutingPolicy, finish_jointly
from nmcompile.routing.head import head_program
from nmcompile.routing.heading import train_head
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches
from nmcompile.training.network import Trainable
from tests.networks import image
from tests.routing.nests import RECIPE


@pytest.fixture
def finish(case):
    """finish_jointly on the case, with or without other arguments."""
    headed = train_head(recipe=RECIPE, **case)
    names = ("nested", "times", "data", "ctx")
    nested = case["nested"]

    def run(recipe=RECIPE, **changes):
        arguments = {name: case[name] for name in names} | {"headed": headed, **changes}
        return finish_jointly(dense=nested.at(nested.count - 1), recipe=recipe, **arguments)

    run.nested, run.headed = nested, headed
    return run


class KilledError(Exception):
    """What stands for the end of the process."""


class Ending(Patches):
    """Patches that end the process after two steps."""

    def __getitem__(self, number):
        if number >= 2 * RECIPE.batch:
            raise KilledError
        return super().__getitem__(number)


def kept_anyway(monkeypatch):
    """Has the pair that was trained win."""
    monkeypatch.setattr(finishing, "_better", lambda _before, after, _trained: after)


def test_levels_and_head_move_and_levels_stay_nested(finish, monkeypatch):
    kept_anyway(monkeypatch)
    nested, headed = finish()
    before = finish.nested
    for name, least in nested.least.items():
        was, now = (get_tensor(levels.program.module, name) for levels in (before, nested))
        assert not torch.equal(was, now)
        assert not (now != 0)[least == 255].any()
    assert not torch.equal(headed.head.first.weight, finish.headed.head.first.weight)
    assert nested.least is before.least
    x = image(nested.program)
    for level in range(nested.count):
        assert not torch.equal(nested.at(level)(x), before.at(level)(x))


def test_what_got_worse_is_left_as_it_was(finish):
    recipe = dataclasses.replace(RECIPE, lr=10.0, warm_up=0.0, ema=0.0)
    headed = dataclasses.replace(
        finish.headed,
        facts={**finish.headed.facts, "held_out": {"psnr": 99.0, "shares": [0.5, 0.25, 0.25]}},
    )
    nested, kept = finish(recipe, headed=headed)
    assert nested is finish.nested
    assert kept.head is headed.head
    assert "they are as they were" in kept.notes[-1]
    assert kept.facts["joint"]["before"] == 99.0


def test_a_finish_resumes(finish, case, tmp_path, monkeypatch):
    kept_anyway(monkeypatch)
    whole = finish()
    folder = tmp_path / "state"
    recipe = dataclasses.replace(RECIPE, checkpoint=folder, checkpoint_seconds=0.0)
    short = copy.copy(case["data"])
    short.__class__ = Ending
    with pytest.raises(KilledError):
        finish(recipe, data=short)
    assert (folder / JOINT / checkpoint.STATE).is_file()
    nested, headed = finish(dataclasses.replace(recipe, resume=True))
    assert headed.bias == whole[1].bias
    for name in nested.least:
        weights = [get_tensor(levels.program.module, name) for levels in (whole[0], nested)]
        assert torch.equal(*weights)


def test_the_penalty_is_of_the_last_batch(finish):
    nested = finish.nested
    head = head_program(finish.headed.head, nested, folded=False)
    mixed = insert_routing(nested, head, (1e3, 0.0, 0.0), "mixture")
    collapsed, wanted = (RoutingPolicy(mixed.the_plan, t) for t in ((0, 0.5, 0.5), (1.0, 0, 0)))
    penalties = []
    for policy in (collapsed, wanted):
        Trainable(mixed, policy)(image(mixed))
        penalties.append(policy.penalty().item())
        assert policy.describe() == "levels 100%/0%/0%"
    assert penalties[0] == pytest.approx(finishing._SCALE * learning.AVERAGE)
    assert penalties[1] == pytest.approx(0.0, abs=1e-6)
