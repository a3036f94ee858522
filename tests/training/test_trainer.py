"""Small pruned networks, trained: masks hold, the best state is kept, runs can be resumed."""

import dataclasses
import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from nmcompile.data import Source
from nmcompile.errors import NmcompileError
from nmcompile.images import write_image
from nmcompile.pattern import Pattern
from nmcompile.training import checkpoint, trainer
from nmcompile.training.batches import Patches, batches
from nmcompile.training.parallel import World
from nmcompile.training.policy import FixedPolicy
from nmcompile.training.recipe import Recipe, read_length
from nmcompile.training.trainer import train
from tests.networks import cleaned, context, plain, weights
from tests.training.test_network import pruned

RECIPE = Recipe(steps=6, batch=4, patch=16, lr=1e-3, validations=3, precision="fp32")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(4):
        picture = generator.integers(0, 256, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
        write_image(folder / f"{index}.png", picture.astype(np.uint8))
    return Source.folder(folder)


@pytest.fixture
def case(tmp_path, source):
    """Arguments of `train` but for the recipe, by name."""
    ctx = context(tmp_path)
    dense = cleaned(plain(), ctx)
    program = pruned(plain(), ctx, {"body.0.weight": "2:4", "body.2.weight": "1:4"})
    data = Patches(source, (), ctx.task, program.interface, 16)
    return {"program": program, "teacher": dense, "data": data, "ctx": ctx}


def trained(case, recipe=RECIPE, **changes):
    case = {**case, **changes}
    case.setdefault("policy", FixedPolicy(case["program"].the_plan))
    return train(recipe=recipe, **case)


class KilledError(Exception):
    """What stands for the end of the process."""


def killed_after(patches):
    """Patches that end the process at that number."""

    class Ending(Patches):
        def __getitem__(self, number):
            if number >= patches:
                raise KilledError
            return super().__getitem__(number)

    return Ending


def same(first, second):
    a, b = weights(first), weights(second)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_comes_nearer_to_the_dense_network_within_the_patterns(case):
    recipe = dataclasses.replace(RECIPE, steps=60, lr=3e-3, reconstruction=0.0)
    # Second order leaves little to be learned on a network as small as this one.
    ctx = dataclasses.replace(case["ctx"], prune_method="magnitude")
    case["program"] = pruned(plain(), ctx, {"body.0.weight": "2:4", "body.2.weight": "1:4"})
    done = trained(case, recipe)
    losses = [point.loss for point in done.curve if point.loss is not None]
    assert fmean(losses[-20:]) < 0.9 * fmean(losses[:20])
    assert done.best_psnr >= done.start_psnr
    for layer in done.program.the_plan.layers:
        mask = weights(done.program)[layer.name].numpy() != 0
        assert layer.pattern.allows(mask, layer.groups)
    assert done.program.plan == case["program"].plan


def test_a_run_that_only_harms_gives_the_start_back(case):
    done = trained(case, dataclasses.replace(RECIPE, lr=10.0, warm_up=0.0, ema=0.0))
    assert (done.best_step, done.steps) == (0, 6)
    assert done.best_psnr == done.start_psnr
    assert same(done.program, case["program"])


def test_the_same_seed_gives_the_same_weights_and_another_others(case):
    first, second = trained(case), trained(case)
    assert same(first.program, second.program)
    assert first.curve == second.curve
    interface, task = case["program"].interface, case["ctx"].task
    data = Patches(case["data"]._source, (), task, interface, 16, seed=1)
    assert trained(case, data=data).curve != first.curve


def test_a_killed_run_resumes_to_the_same_losses(case, tmp_path, monkeypatch):
    whole = trained(case)
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state", checkpoint_seconds=0.0)

    args = (case["data"]._source, (), case["ctx"].task, case["program"].interface, 16)
    with pytest.raises(KilledError):
        trained(case, recipe, data=killed_after(4 * RECIPE.batch)(*args))
    resumed = trained(case, dataclasses.replace(recipe, resume=True))
    assert resumed.curve == whole.curve
    assert same(resumed.program, whole.program)
    assert (resumed.best_step, resumed.start_psnr) == (whole.best_step, whole.start_psnr)


def test_a_checkpoint_of_another_run_is_refused(case, tmp_path):
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state")
    trained(case, recipe)
    again = dataclasses.replace(recipe, resume=True)
    with pytest.raises(NmcompileError, match="another model, data, plan or recipe"):
        trained(case, dataclasses.replace(again, batch=2))
    other = pruned(plain(), case["ctx"], {"body.0.weight": "1:4", "body.2.weight": "1:4"})
    with pytest.raises(NmcompileError, match="another model, data, plan or recipe"):
        trained(case, again, program=other)
    path = tmp_path / "state" / checkpoint.STATE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NmcompileError, match="damaged"):
        trained(case, again)
    path.unlink()
    with pytest.raises(NmcompileError, match="no checkpoint to resume"):
        trained(case, again)


def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_the_best(case, tmp_path):
    class Broken(Patches):
        def __getitem__(self, number):
            low, clean = super().__getitem__(number)
            return (low, clean * math.nan) if number >= 3 * RECIPE.batch else (low, clean)

    args = (case["data"]._source, (), case["ctx"].task, case["program"].interface, 16)
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state")
    with pytest.raises(NmcompileError, match=r"step 3 has loss nan.*--resume and a lower --lr"):
        trained(case, recipe, data=Broken(*args))
    done = trained(case, dataclasses.replace(recipe, resume=True, lr=1e-4))
    assert done.steps == 6
    with pytest.raises(NmcompileError, match="train again with a lower --lr"):
        trained(case, data=Broken(*args))


def test_a_full_disk_stops_nothing(case, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(case["ctx"].reporter, "note", notes.append)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    recipe = dataclasses.replace(RECIPE, checkpoint=tmp_path / "state")
    done = trained(case, recipe)
    assert done.steps == 6
    assert "No space left on device" in notes[0]
    assert not list((tmp_path / "state").iterdir())


def test_the_best_state_is_of_the_final_patterns(case):
    """While a policy still moves patterns, states with more weights must not win."""

    class Falling(FixedPolicy):
        last = False

        def patterns(self):
            found = super().patterns()
            return {**found, "body.0.weight": Pattern.parse("1:4")} if self.last else found

        def after_step(self, progress):
            if progress == 0.5:
                self.last = True
                mask = network.maskings["body.0.weight"].kept
                mask.view(8, 2, 4, 3, 3)[:, :, 1:] = False
            return ()

        def state(self):
            return {"last": self.last}

        def restore(self, state):
            self.last = state["last"]

    policy = Falling(case["program"].the_plan)
    made = []
    original = trainer.Trainable

    def remember(*args):
        made.append(original(*args))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Trainable", remember)
        run = trainer._Run(
            case["program"], policy, case["teacher"], case["data"], RECIPE, case["ctx"], World()
        )
        network = made[0]
        done = run.run()
    assert done.best_step > 3
    layer = done.program.the_plan.layer("body.0.weight")
    assert (str(layer.pattern), layer.reason) == ("1:4", "chosen while training")
    assert layer.pattern.allows(weights(done.program)["body.0.weight"].numpy() != 0)


def test_of_a_weight_that_was_replaced_nothing_old_is_remembered(case):
    class Replacing(FixedPolicy):
        def begin(self, network):
            self.network = network

        def after_step(self, progress):
            if progress < 1:
                return ()
            with torch.no_grad():
                self.network.raw("body.0.weight").fill_(0.25)
            return ["body.0.weight"]

    policy = Replacing(case["program"].the_plan)
    run = trainer._Run(
        case["program"], policy, case["teacher"], case["data"], RECIPE, case["ctx"], World()
    )
    run.run()
    raw = policy.network.raw("body.0.weight")
    place = next(i for i, p in enumerate(run.parameters) if p is raw)
    assert torch.equal(run.average[place], torch.full_like(raw, 0.25))
    assert raw not in run.optimiser.state
    assert len(run.optimiser.state) == len(run.parameters) - 1


def test_time_ends_a_run_too(case):
    done = trained(case, dataclasses.replace(RECIPE, steps=None, seconds=2.0))
    assert done.steps >= 1
    assert sum(point.psnr is not None for point in done.curve) > 2
    assert done.curve[-1].psnr is not None


def test_shares_of_a_batch_make_the_batch(case):
    whole = next(batches(case["data"], 4, 2))
    parts = [next(batches(case["data"], 4, 2, rank, 2)) for rank in (0, 1)]
    for one, two, both in zip(*parts, whole, strict=True):
        assert torch.equal(torch.cat((one, two)), both)
    with pytest.raises(NmcompileError, match=r"--batch 4 .* 3 processes"):
        World(0, 3).share(4)


def test_the_first_process_has_the_threads_of_those_that_wait(monkeypatch):
    own = torch.get_num_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with World(0, 3).waited_for():
        assert torch.get_num_threads() == 3 * own
    assert torch.get_num_threads() == own


@pytest.mark.parametrize(
    ("text", "found"),
    [("600", {"steps": 600}), ("90s", {"seconds": 90}), ("1.5h", {"seconds": 5400})],
)
def test_lengths(text, found):
    assert read_length(text) == found


@pytest.mark.parametrize("text", ["0", "0s", "-3", "soon", "5d", ""])
def test_lengths_that_are_none(text):
    with pytest.raises(NmcompileError, match="--finetune"):
        Recipe(**read_length(text))


def test_rate_rises_and_falls():
    recipe = Recipe(steps=100, lr=1.0, warm_up=0.1)
    rates = [recipe.rate(k / 100) for k in range(101)]
    assert max(rates) == rates[10]
    assert rates[0] == 0.0
    assert rates[100] == pytest.approx(0)
