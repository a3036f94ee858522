"""benchmarks.routing: a static engine's time, the best choice, images flat in one half."""

import numpy as np
import pytest

from benchmarks.routing import best_choice, mix, time_at
from nmcompile.data import Source
from nmcompile.images import read_image, write_image
from nmcompile.tasks import Task


def test_static_engines_are_interpolated_between_the_best():
    points = [(10.0, 28.0), (30.0, 28.5), (20.0, 27.0), (50.0, 29.0), (40.0, 28.5)]
    assert time_at(points, 28.25) == pytest.approx(20)
    assert time_at(points, 28.5) == pytest.approx(30)
    assert time_at(points, 28.75) == pytest.approx(40)
    assert time_at(points, 27.9) is None
    assert time_at(points, 29.1) is None


def test_best_choice_takes_the_slow_level_only_where_it_is_better():
    clean = np.random.default_rng(0).integers(0, 256, (8, 10, 1)).astype(np.uint8)
    good = (clean / 255 + 0.01).astype(np.float32)
    poor = good.copy()
    poor[:4, :4] += 0.2
    ms = np.array([10.0, 30.0])
    picture, took = best_choice([poor, good], clean, ms, 1e-3, 4)
    assert np.array_equal(picture, good)
    assert took == pytest.approx(10 + 20 * 16 / 80)
    picture, took = best_choice([poor, good], clean, ms, 1e6, 4)
    assert np.array_equal(picture, poor)
    assert took == pytest.approx(10)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_mixed_images_are_flat_at_the_left_or_above(tmp_path, count, stacked):
    random, paths = np.random.default_rng(0), []
    for index in range(4 * count**2):
        image = np.full((96, 160, 3), 120, np.uint8)
        image[:, 70:] = random.integers(0, 256, (96, 90, 3))
        paths.append(tmp_path / f"{index}.png")
        write_image(paths[-1], image)
    (tmp_path / "mixed").mkdir()
    made = mix(Source(tuple(paths)), Task.parse("sr:4"), tmp_path / "mixed", count, stacked)
    assert len(made.clean) == 2
    for path in made.clean:
        image = read_image(path)
        assert image.shape == (
            count * (192 if stacked else 96),
            count * (96 if stacked else 192),
            3,
        )
        halves = np.split(image.astype(int), 2, axis=0 if stacked else 1)
        flat, detailed = (np.abs(np.diff(half, axis=1)).mean() for half in halves)
        assert detailed > 2 * flat
        for first in range(0, count * 96, 96):
            assert not np.diff(halves[0][:, first : first + 70], axis=1).any()
