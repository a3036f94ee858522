"""Scores and efforts -> the levels that the definition gives?"""

import dataclasses

import numpy as np
import pytest

from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError
from nmcompile.runtime.routing import image_scores, levels_of, read_effort, window_in

ROUTING = Routing("tile", 64, 8, (0.25, 0.5, 1.0), (0.4, 0.6, 1.0), 0.005, (8.0, 2.0, -4.0), 0.5)


def test_levels_are_the_best_score_less_what_its_cost_weighs():
    scores = np.random.default_rng(1).standard_normal((50, 3)).astype(np.float32)
    for effort, bias in ((0.25, 5.0), (0.5, 2.0), (0.75, -1.0), (0.9, -2.8)):
        expected = [max(range(3), key=lambda i: row[i] - bias * ROUTING.times[i]) for row in scores]
        np.testing.assert_array_equal(levels_of(scores, ROUTING, effort), expected)


def test_more_effort_never_means_a_lower_level():
    scores = np.random.default_rng(2).standard_normal((100, 3)) * 2
    levels = np.array([levels_of(scores, ROUTING, effort) for effort in np.linspace(0, 1, 21)])
    assert (np.diff(levels, axis=0) >= 0).all()
    assert {0, 1, 2} == set(levels[10])


def test_the_ends_are_one_level_whatever_the_scores():
    scores = np.array([[1e9, 0, -1e9], [np.nan, np.inf, 0]])
    np.testing.assert_array_equal(levels_of(scores, ROUTING, 0.0), [0, 0])
    np.testing.assert_array_equal(levels_of(scores, ROUTING, 1.0), [2, 2])


def test_of_equal_levels_the_cheapest_wins():
    flat = dataclasses.replace(ROUTING, bias=(0.0, 0.0))
    np.testing.assert_array_equal(levels_of(np.ones((2, 3)), flat, 0.5), [0, 0])


def test_scores_count_by_the_share_of_the_images_error():
    said = np.array([[-2.0, -1.0, 0.0, 5.0], [-2.0, -1.0, 0.0, 5.0 + np.log(3.0)]])
    found = image_scores(said, 3)
    np.testing.assert_allclose(found, [[-1.0, -0.5, 0.0], [-3.0, -1.5, 0.0]])
    np.testing.assert_allclose(image_scores(said[1:], 3), said[1:, :3])
    np.testing.assert_allclose(image_scores(said + np.array([0, 0, 0, 1e4]), 3), found)


@pytest.mark.parametrize("levels", [2, 4])
def test_other_numbers_of_levels_are_refused(levels):
    with pytest.raises(NmcompileError, match=rf"shape \(4, 4\), expected N x {levels + 1}"):
        image_scores(np.zeros((4, 4)), levels)


@pytest.mark.parametrize(
    ("height", "width", "scale", "size"),
    [(180, 320, 4, 96), (179, 320, 4, 64), (720, 1280, 1, 96), (320, 180, 2, 64)],
)
def test_windows_are_larger_where_a_result_is_720p_or_more(height, width, scale, size):
    assert window_in(ROUTING, height, width, scale) == size


def test_efforts():
    for given, expected in ((None, 0.5), ("min", 0), ("max", 1), (0, 0), ("0.3", 0.3), (1, 1)):
        assert read_effort(given, ROUTING) == expected


@pytest.mark.parametrize("effort", ["most", "", -0.1, 1.5, "nan", float("nan")])
def test_impossible_efforts(effort):
    with pytest.raises(NmcompileError, match="expected a number from 0 to 1, min or max"):
        read_effort(effort, ROUTING)
