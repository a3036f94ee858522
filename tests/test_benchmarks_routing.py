"""benchmarks.routing: what a static engine would take, and images of flat and detailed halves."""

import numpy as np
import pytest

from benchmarks.routing import mix, time_at
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


def test_mixed_images_are_flat_at_the_left(tmp_path):
    random, paths = np.random.default_rng(0), []
    for index in range(4):
        image = np.full((96, 160, 3), 120, np.uint8)
        image[:, 70:] = random.integers(0, 256, (96, 90, 3))
        paths.append(tmp_path / f"{index}.png")
        write_image(paths[-1], image)
    (tmp_path / "mixed").mkdir()
    made = mix(Source(tuple(paths)), Task.parse("sr:4"), tmp_path / "mixed")
    assert len(made.clean) == 2
    for path in made.clean:
        image = read_image(path)
        assert image.shape == (96, 192, 3)
        left, right = (
            np.abs(np.diff(half.astype(int), axis=1)).mean()
            for half in (image[:, :96], image[:, 96:])
        )
        assert right > 2 * left
        assert not np.diff(image[:, :70].astype(int), axis=1).any()
