"""Networks whose purpose is known -> the task and value range that trying them finds."""

import pytest
import torch
from torch import nn

from nmcompile import assumptions
from nmcompile.assumptions import settle
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import Evaluation
from nmcompile.program import Program
from nmcompile.tasks import Task
from tests.networks import bare_interface, captured

DENOISE = Task("denoise", 25)


def smoothing():
    """A convolution that takes the weighted mean of 3x3 neighbours, channel by channel."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    layer = nn.Conv2d(3, 3, 3, padding=1, bias=False, groups=3)
    layer.weight.data = torch.outer(line, line).expand(3, 1, 3, 3).clone()
    return layer


class Within(nn.Module):
    """Smooths what lies within the bounds, and gives the bounds beyond them."""

    def __init__(self, low, high):
        super().__init__()
        self.smooth, self.low, self.high = smoothing(), low, high

    def forward(self, x):
        return self.smooth(x).clamp(self.low, self.high)


class Inverting(nn.Module):
    def forward(self, x):
        return 1 - x


class Enlarging(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest").clamp(0, 1)


class Subtracting(nn.Module):
    """Smooths if its second input is low."""

    def __init__(self):
        super().__init__()
        self.smooth = smoothing()

    def forward(self, image, sigma):
        return self.smooth(image) + 0 * sigma


def as_built(module, **changes):
    """The network with the weights that it was built with."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    program = captured(module)
    program.module.load_state_dict(state, strict=False)
    return Program(program.module, bare_interface(**changes))


@pytest.fixture
def known(monkeypatch):
    """Gains by (task, range), instead of running the network."""
    gains = {}

    def gain(program, task, value_range):
        return gains.get((str(task), value_range), -5.0)

    monkeypatch.setattr(assumptions, "_gain", gain)
    return gains


def test_a_denoiser_in_0_to_1_is_found_out():
    found = settle(as_built(Within(0.0, 1.0)), None, None)
    assert found.task.kind == "denoise"
    assert found.program.interface.value_range == 1.0
    assert f"task {found.task}: of the usual tasks the one it does best" in found.notes[0]


def test_a_network_in_0_to_255_is_found_out():
    found = settle(as_built(Within(16.0, 255.0)), DENOISE, None)
    assert found.program.interface.value_range == 255.0
    assert found.task == DENOISE
    assert found.notes == ("value range 0..255: it gives the better images",)


def test_a_network_that_enlarges_does_super_resolution():
    found = settle(as_built(Enlarging(), scale=2), None, None)
    assert found.task == Task("sr", 2)
    assert found.program.interface.value_range == 1.0
    assert found.notes[0] == "task sr:2: read off the output's size"


def test_a_network_that_improves_nothing_is_asked_about():
    with pytest.raises(NmcompileError, match="improves none of the usual degradations") as caught:
        settle(as_built(Inverting()), None, None)
    assert "--task" in str(caught.value)


def test_a_network_that_works_in_any_range_gets_0_to_1():
    found = settle(as_built(smoothing()), DENOISE, None)
    assert found.program.interface.value_range == 1.0


def test_a_network_without_any_finite_output_is_asked_about(monkeypatch):
    nothing = Evaluation(float("nan"), float("nan"), {})
    monkeypatch.setattr(assumptions, "evaluate", lambda *_: nothing)
    with pytest.raises(NmcompileError, match="say what it does with --task"):
        settle(as_built(smoothing()), None, None)


def test_the_best_gain_decides(known):
    known.update({("jpeg:10", 255.0): 3.0, ("denoise:15", 1.0): 1.0})
    found = settle(as_built(smoothing()), None, None)
    assert (found.task, found.program.interface.value_range) == (Task("jpeg", 10), 255.0)


def test_what_the_user_says_is_not_tried(monkeypatch):
    def fail(*_):
        raise AssertionError("tried")

    monkeypatch.setattr(assumptions, "_gain", fail)
    found = settle(as_built(Inverting()), DENOISE, 255.0)
    assert (found.task, found.notes) == (DENOISE, ())
    assert found.program.interface.value_range == 255.0


def test_a_range_that_is_given_is_kept_while_the_task_is_tried(known):
    known[("deblur", 255.0)] = 1.0
    found = settle(as_built(smoothing()), None, 255.0)
    assert (found.task, found.program.interface.value_range) == (Task("deblur"), 255.0)
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("task", "value_range", "filled"),
    [(DENOISE, 1.0, 25 / 255), (DENOISE, 255.0, 25.0), (Task("jpeg", 10), 1.0, 0.0)],
)
def test_a_noise_level_is_filled_in_the_network_s_range(task, value_range, filled):
    extra = ExtraInput("sigma", (0, 1, 1, 1), float("nan"))
    program = as_built(Subtracting(), extra_inputs=(extra,))
    found = settle(program, task, value_range)
    (settled,) = found.program.interface.extra_inputs
    assert settled.value == pytest.approx(filled)
    assert f"input 'sigma' is filled with {filled:.4g}" in found.notes[-1]


def test_a_noise_level_that_is_known_is_left_alone():
    extra = ExtraInput("sigma", (0, 1, 1, 1), 0.5)
    found = settle(as_built(Subtracting(), extra_inputs=(extra,)), DENOISE, 1.0)
    assert found.program.interface.extra_inputs == (extra,)
    assert found.notes == ()


def test_the_gain_is_over_the_degraded_image(monkeypatch):
    """A network that gives its input back gains nothing, whatever the task."""
    program = as_built(nn.Identity())
    for text in ("denoise:15", "jpeg:10", "deblur"):
        assert assumptions._gain(program, Task.parse(text), 1.0) == pytest.approx(0, abs=1e-3)
    monkeypatch.setattr(assumptions, "evaluate", lambda *_: Evaluation(30.0, 0.9, {}))
    assert assumptions._gain(as_built(Enlarging(), scale=2), Task("sr", 2), 1.0) == 30.0
