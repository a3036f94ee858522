"""`nmcompile run`, `eval` and `bench` on input-adaptive engines, as a user types them."""

import json

import numpy as np
import pytest

from nmcompile.bench import bench
from nmcompile.cli import main
from nmcompile.errors import NmcompileError
from nmcompile.images import read_image, write_image
from nmcompile.level_map import level_colours
from nmcompile.runtime import load
from tests import engines, routed


@pytest.fixture
def engine(tmp_path):
    dense = engines.super_resolution(tmp_path / "dense")
    return routed.native(tmp_path / "engine", scale=2, task="sr:2", dense=dense)


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


def test_eval_counts_levels(engine, images, capfd):
    assert run("eval", engine, "--data", images, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    told = document["routed"]
    assert [row["name"] for row in told] == ["routed", "level 0", "level 1", "level 2"]
    assert told[0]["psnr"] == document["psnr"]
    assert sum(told[0]["shares"]) == pytest.approx(1)
    assert [row["shares"] for row in told[1:]] == np.eye(3).tolist()
    assert [row["macs"] for row in told[1:]] == pytest.approx(routed.ROUTING.costs)
    assert 0.3 < told[0]["macs"] < 1.5
    assert all(row["ms"] > 0 for row in told)


def test_eval_at_the_largest_effort_is_the_last_level(engine, images, capfd):
    assert run("eval", engine, "--data", images, "--json", "--effort", "max") == 0
    routed_row, *levels = json.loads(capfd.readouterr().out)["routed"]
    for name in ("psnr", "ssim", "macs", "shares"):
        assert routed_row[name] == levels[-1][name]


def test_eval_prints_a_table_of_levels(engine, images, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run("eval", engine, "--data", images) == 0
    shown = capfd.readouterr().out
    assert all(name in shown for name in ("routed", "level 0", "level 2", "pixels by level"))


def test_a_head_is_not_asked_about_another_task(images, tmp_path, capfd):
    engine = routed.native(tmp_path / "denoiser", scale=1, task="denoise:25")
    line = failing(capfd, "eval", engine, "--data", images, "--task", "denoise:50")
    assert "trained for denoise:25" in line
    assert "denoise:50" in line


def test_eval_of_one_level_has_no_effort(images, tmp_path, capfd):
    plain = engines.identity(tmp_path / "plain")
    line = failing(capfd, "eval", plain, "--data", images, "--effort", "1", "--task", "denoise:25")
    assert "--effort" in line
    assert "is not input-adaptive" in line


def test_bench_times_efforts_and_levels_on_images(engine, images, capfd):
    words = ("--data", images, "--size", "40x60", "--against", "onnxruntime", "--threads", 1)
    assert run("bench", engine, *words, "--runs", 5, "--effort", "0.6", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["size"], document["images"], document["rounds"]) == ([40, 60], 1, 5)
    names = ["effort 0.6", "effort 0.25", "effort 0.5", "effort 0.75"]
    assert [row["name"] for row in document["runs"]] == [*names, "level 0", "level 1", "level 2"]
    assert document["ours"]["times"] == document["runs"][0]["times"]
    assert document["peers"]["onnxruntime"]["ratio"] > 0
    macs = {row["name"]: row["macs"] for row in document["runs"]}
    assert macs["effort 0.25"] <= macs["effort 0.5"] <= macs["effort 0.75"]
    assert [macs[f"level {level}"] for level in range(3)] == pytest.approx(routed.ROUTING.costs)
    assert all(sum(row["shares"]) == pytest.approx(1) for row in document["runs"])
    own, levels = document["runs"][0], document["runs"][4:]
    alone = np.asarray(own["shares"]) @ [row["times"] for row in levels]
    assert own["overhead"] == pytest.approx(np.median(own["times"] / alone) - 1, abs=1e-3)
    assert not any("overhead" in row for row in levels)


def test_bench_prints_a_table_of_runs(engine, images, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    """Without a size the images' common one, of which the smallest has 20x32."""
    words = ("--data", images, "--against", "onnxruntime", "--threads", 1)
    assert run("bench", engine, *words, "--runs", 5) == 0
    shown = capfd.readouterr().out
    assert "20x32, 1 threads" in shown
    names = ("means over 2 real images", "effort 0.75", "level 2", "overhead")
    assert all(name in shown for name in names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "900x900"], "no image gives an input of 900x900 or more"),
        (["--effort", "-1"], "effort -1: expected a number"),
    ],
)
def test_a_bench_that_cannot_be_is_one_line(engine, images, capfd, words, said):
    line = failing(capfd, "bench", engine, "--data", images, "--against", "onnxruntime", *words)
    assert said in line


def test_bench_of_one_level_needs_no_images(images, tmp_path, capfd):
    plain = engines.identity(tmp_path / "plain")
    line = failing(capfd, "bench", plain, "--data", images)
    assert "--data" in line
    assert "is not input-adaptive" in line


def test_an_adaptive_engine_is_not_timed_on_noise(engine):
    with pytest.raises(NmcompileError, match="sees: time it on images"):
        bench(engine, rounds=5)
