"""`nmcompile run`, `eval` and `bench` on input-adaptive engines, as a user types them."""

import numpy as np
import pytest

from nmcompile.cli import main
from nmcompile.images import read_image, write_image
from nmcompile.level_map import level_colours
from nmcompile.runtime import load
from tests import engines, routed


@pytest.fixture
def engine(tmp_path):
    return routed.native(tmp_path / "engine", scale=2, task="sr:2")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in {"a": (96, 140), "b": (40, 64)}.items():
        write_image(folder / f"{name}.png", (routed.picture(*size) * 255).astype(np.uint8))
    return folder


def run(*words):
    return main([*map(str, words)])


def failing(capfd, *words):
    """The one line that a failing command prints on stderr."""
    assert run(*words) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_run_at_an_effort(engine, images, tmp_path, capfd):
    image = read_image(images / "a.png")
    for words, more in (
        (["--effort", "max"], {"effort": 1}),
        (["--effort", "0.7", "--route-by", "image"], {"effort": 0.7, "route_by": "image"}),
        ([], {}),
    ):
        assert run("run", engine, images / "a.png", "-o", tmp_path / "x.png", *words) == 0
        expected = load(engine).restore(image, **more)
        np.testing.assert_array_equal(read_image(tmp_path / "x.png"), expected)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("levels 0%, 0%, 100%)")


def test_a_map_of_levels(engine, images, tmp_path):
    told = []
    load(engine).restore(read_image(images / "a.png"), told=told.append)
    words = ("-o", tmp_path / "x.png", "--show-routing", tmp_path / "map.png")
    assert run("run", engine, images / "a.png", *words) == 0
    drawn = read_image(tmp_path / "map.png").astype(int)
    assert drawn.shape == (96 * 3 + 3 * 20, 140 * 3, 3)
    colour = drawn[: 96 * 3 : 3, ::3] - read_image(images / "a.png").mean(2, keepdims=True) / 2
    nearest = np.abs(colour[:, :, None] - level_colours(3) / 2).max(axis=3)
    np.testing.assert_array_equal(nearest.argmin(axis=2), told[0].levels)
    assert nearest.min(axis=2).max() <= 2


def test_maps_of_a_folder(engine, images, tmp_path):
    assert run("run", engine, images, "-o", tmp_path / "o", "--show-routing", tmp_path / "m") == 0
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--effort", "0.5"], "--effort: {plain} is not input-adaptive"),
        (["--route-by", "tile"], "--route-by: {plain} is not input-adaptive"),
        (["--show-routing", "{tmp}/map.png"], "--show-routing: {plain} is not input-adaptive"),
    ],
)
def test_an_engine_of_one_level_has_no_routing(images, tmp_path, capfd, words, said):
    plain = engines.identity(tmp_path / "plain")
    words = [word.format(tmp=tmp_path) for word in words]
    line = failing(capfd, "run", plain, images / "a.png", "-o", tmp_path / "x.png", *words)
    assert said.format(plain=plain) in line
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--effort", "2"], "effort 2: expected a number from 0 to 1, min or max"),
        (["--effort", "much"], "effort much: expected a number"),
        (["--show-routing", "{tmp}/map.gif"], "not as .gif"),
        (["--show-routing", "{tmp}/x.png"], "would both become"),
        (["--show-routing", "{tmp}/images/a.png"], "would replace the image itself"),
        (["--show-routing", "{tmp}/images/a.png/m.png"], "is not a writable folder"),
    ],
)
def test_what_cannot_be_is_one_line(engine, images, tmp_path, capfd, words, said):
    words = [word.format(tmp=tmp_path) for word in words]
    before = sorted(tmp_path.rglob("*"))
    line = failing(capfd, "run", engine, images / "a.png", "-o", tmp_path / "x.png", *words)
    assert said in line
    assert sorted(tmp_path.rglob("*")) == before
