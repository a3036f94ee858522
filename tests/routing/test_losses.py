"""Losses of soft shares: ClassSR's values where it has them, and what they push towards."""

import pytest
import torch

from nmcompile.routing.losses import average_loss, class_loss, difficulty_loss, regression_loss


def one_hot(*levels, count=3):
    return torch.eye(count)[list(levels)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_class_loss_is_least_for_a_decided_window(count):
    even = torch.full((4, count), 1 / count)
    assert class_loss(one_hot(0, 1, 1, 0, count=count)) == pytest.approx(0.0)
    assert class_loss(even) == pytest.approx(count - 1)


def test_class_loss_of_three_is_classsrs():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    expected = torch.tensor([2 - (0.2 + 0.3 + 0.1), 2 - (0.0 + 0.7 + 0.7)]).mean()
    assert class_loss(p) == pytest.approx(expected)


def test_average_loss_is_one_on_collapse_and_none_at_the_wanted_shares():
    even = torch.full((3,), 1 / 3)
    assert average_loss(one_hot(0, 1, 2), even) == pytest.approx(0.0)
    assert average_loss(one_hot(1, 1, 1), even) == pytest.approx(1.0)
    wanted = torch.tensor([0.5, 0.25, 0.25])
    assert average_loss(one_hot(0, 0, 1, 2), wanted) == pytest.approx(0.0)
    assert average_loss(one_hot(2, 2, 2, 2), wanted) == pytest.approx(1.0)
    assert 0 < average_loss(one_hot(0, 0, 0, 0), wanted) < 1


def test_scores_are_to_differ_as_regrets_do():
    regrets = torch.tensor([[3.0, 1.0, 0.0], [0.1, 0.0, 0.0]])
    assert regression_loss(5 - regrets, regrets) == pytest.approx(0.0, abs=1e-6)
    near, far = (regression_loss(-regrets * factor, regrets) for factor in (0.9, 0.5))
    assert 0 < near < far


def test_difficulty_loss_is_one_for_who_knows_the_mean_alone():
    difficulty = torch.tensor([-3.0, 0.0, 0.0, 3.0])
    variance = float(difficulty.var(correction=0))
    assert difficulty_loss(difficulty, difficulty, variance) == 0
    assert difficulty_loss(torch.zeros(4), difficulty, variance) == pytest.approx(1.0)
    alike = 1e-3 * difficulty
    assert difficulty_loss(torch.zeros(4), alike, float(alike.var())) < 1e-3
