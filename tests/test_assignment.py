"""Small problems of every kind: the solver's choice is the one that trying all of them finds."""

import itertools
import math
import random

import pytest

from nmcompile import assignment
from nmcompile.assignment import Option, least_cost, solve


def wide(source):
    return 10 ** source.uniform(-9, 0)


def even(source):
    return source.random()


def whole(source):
    return float(source.randint(0, 4))  # many choices are equally good


def large(source):
    return float(source.randint(1, 10**9))  # multiply-accumulates


def problem(seed, objective, cost):
    """Up to five layers of up to five options, and the totals of all choices."""
    source = random.Random(seed)
    layers = [
        [Option(objective(source), cost(source)) for _ in range(source.randint(1, 5))]
        for _ in range(source.randint(1, 5))
    ]
    return source, layers, {c: totals(layers, c) for c in everything(layers)}


def everything(layers):
    return itertools.product(*(range(len(layer)) for layer in layers))


def totals(layers, choice):
    picked = [layer[index] for layer, index in zip(layers, choice, strict=True)]
    return math.fsum(o.objective for o in picked), math.fsum(o.cost for o in picked)


@pytest.mark.parametrize(
    ("objective", "cost"),
    [(even, large), (wide, large), (large, wide), (wide, wide), (whole, whole), (even, even)],
)
def test_the_choice_is_the_best_of_all(objective, cost):
    for seed in range(60):
        source, layers, known = problem(seed, objective, cost)
        limit = source.choice(list(known.values()))[1]
        limit *= source.choice([1, 1, 1 - 1e-9, 1 + 1e-9, 1 - 1e-7, 0.5])
        possible = [values for values in known.values() if values[1] <= limit]
        found = solve(layers, limit)
        if not possible:
            assert found is None, seed
            continue
        reached = totals(layers, found)
        assert reached[1] <= limit, seed
        best = min(possible)
        assert reached[0] <= best[0] * (1 + 1e-5), seed
        if reached[0] == best[0]:
            assert reached[1] <= best[1] * (1 + 1e-9), seed


def test_of_equal_objectives_the_cheaper_is_taken():
    free = [Option(0.0, 8.0), Option(0.0, 3.0), Option(0.0, 5.0)]
    assert solve([free, free], 100.0) == [1, 1]
    assert solve([[Option(1.0, 2.0), Option(1.0, 1.0)], [Option(5.0, 1.0)]], 10.0) == [1, 0]


def test_a_limit_below_the_least_cost_cannot_be_kept():
    layers = [[Option(0.0, 4.0), Option(1.0, 2.0)], [Option(0.0, 3.0), Option(1.0, 1.5)]]
    assert least_cost(layers) == 3.5
    assert solve(layers, 3.5) == [1, 1]
    assert solve(layers, math.nextafter(3.5, 0)) is None


def test_a_limit_of_nothing_leaves_what_costs_nothing():
    layers = [[Option(9.0, 0.0), Option(1.0, 1e-12)], [Option(4.0, 0.0), Option(5.0, 0.0)]]
    assert solve(layers, 0.0) == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_option_without_a_finite_objective_is_never_taken(bad):
    assert solve([[Option(5.0, 5.0), Option(bad, 0.0)]], 9.0) == [0]
    assert solve([[Option(5.0, 5.0), Option(bad, 0.0)]], 1.0) is None


def test_an_option_of_infinite_cost_is_never_taken():
    assert solve([[Option(5.0, 5.0), Option(0.0, math.inf)]], 9.0) == [0]


def test_the_solver_prints_nothing(capfd):
    source = random.Random(0)
    for _ in range(5):
        layers = [
            [Option(0.0, 8.0 * macs)]
            + [Option(loss * (8 - k) ** 2 * source.uniform(0.7, 1.3), k * macs) for k in range(7)]
            for macs, loss in [(source.uniform(1e6, 1e9), wide(source)) for _ in range(30)]
        ]
        print("before")
        assert solve(layers, 0.5 * sum(layer[0].cost for layer in layers)) is not None
        print("after")
    assert capfd.readouterr().out == "before\nafter\n" * 5


def test_a_solver_that_gives_up_is_an_error(monkeypatch):
    class Nothing:
        x, message = None, "out of memory"

    monkeypatch.setattr(assignment, "milp", lambda *_, **__: Nothing)
    with pytest.raises(RuntimeError, match="out of memory"):
        solve([[Option(0.0, 1.0), Option(1.0, 0.5)]], 1.5)


@pytest.mark.parametrize(("objective", "cost"), [(even, large), (wide, wide), (whole, whole)])
def test_an_option_that_needs_others_comes_with_one_of_them(objective, cost):
    for seed in range(60):
        source, layers, _ = problem(seed, objective, cost)
        layers = [[*layer, Option(objective(source), cost(source))] for layer in layers]
        for number, layer in enumerate(layers[1:], 1):
            own = layer[-1]
            others = source.sample(range(number), source.randint(1, number))
            layer[-1] = Option(0.0, own.cost / 4, tuple((o, source.randint(0, 1)) for o in others))
        allowed = {
            choice: totals(layers, choice)
            for choice in everything(layers)
            if all(
                not layer[index].needs or any(choice[o] == i for o, i in layer[index].needs)
                for layer, index in zip(layers, choice, strict=True)
            )
        }
        limit = source.choice(list(allowed.values()))[1]
        found = solve(layers, limit)
        assert tuple(found) in allowed, seed
        assert allowed[tuple(found)][1] <= limit, seed
        best = min(values[0] for values in allowed.values() if values[1] <= limit)
        assert allowed[tuple(found)][0] <= best * (1 + 1e-5), seed
