"""Nested levels -> what each takes of the last one's time, rising whatever was measured."""

import dataclasses

import numpy as np
import pytest

from nmcompile.backends import make_target
from nmcompile.routing import pacing
from nmcompile.routing.pacing import level_times, rising
from tests.networks import context
from tests.routing.nests import nest


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    return nest(tmp_path_factory.mktemp("nest"))[1]


def on(target, folder):
    ctx = context(folder)
    return dataclasses.replace(ctx, target=make_target(target, 1))


def test_levels_are_timed_once(levels, tmp_path, monkeypatch):
    ctx = on("cpu", tmp_path)
    times = level_times(levels, ctx)
    assert len(times) == 3
    assert times[0] < times[1] < times[2] == 1
    monkeypatch.setattr(pacing, "_timed", None)
    assert level_times(levels, ctx) == times


def test_what_is_timed_is_each_level(levels, tmp_path, monkeypatch):
    """The native program is told to run every level, at the reference size, on the threads."""
    seen, run = set(), pacing.NativeProgram.run

    def watched(self, inputs, threads=1, level=None):
        seen.add((inputs[0].shape, threads, level))
        return run(self, inputs, threads, level)

    monkeypatch.setattr(pacing.NativeProgram, "run", watched)
    ctx = on("cpu", tmp_path)
    level_times(levels, ctx)
    shape = (1, 3, *ctx.reference_size)
    assert seen >= {(shape, 1, level) for level in range(3)}


def test_macs_where_zeros_gain_no_time(levels, tmp_path):
    costs = np.array(levels.costs)
    np.testing.assert_allclose(level_times(levels, on("onnx", tmp_path)), costs / costs[-1])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1.0, 2.0, 4.0], [0.25, 0.5, 1.0]),
        ([3.0, 2.0, 4.0], [0.999 / 2, 0.5, 1.0]),
        ([5.0, 6.0, 4.0], [0.999**2, 0.999, 1.0]),
    ],
)
def test_times_rise(times, expected):
    np.testing.assert_allclose(rising(times), expected)
