"""`nmcompile run` command lines -> files on disk, lines on the screen and exit statuses."""

import numpy as np
import pytest

from nmcompile.cli import main
from nmcompile.images import read_image, write_image
from nmcompile.runtime import load
from tests import engines


@pytest.fixture
def engine(tmp_path):
    return engines.super_resolution(tmp_path / "engine")


@pytest.fixture
def image(tmp_path):
    write_image(tmp_path / "small.png", noise(3))
    return tmp_path / "small.png"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    write_image(folder / "a.png", noise(3))
    write_image(folder / "b.jpg", noise(1))
    write_image(folder / "c.tif", noise(4, np.uint16))
    return folder


def noise(channels, dtype=np.uint8):
    return np.random.default_rng(channels).integers(
        0, np.iinfo(dtype).max + 1, (12, 17, channels), dtype
    )


def run(*words):
    return main(["run", *map(str, words)])


def failing(capfd, *words):
    """The one line that a failing command prints on stderr; nothing goes to stdout."""
    assert run(*words) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("nmcompile: error: ")
    return lines[0]


def test_one_image_to_a_file(engine, image, tmp_path, capfd):
    assert run(engine, image, "-o", tmp_path / "large.bmp") == 0
    expected = load(engine).restore(read_image(image))
    np.testing.assert_array_equal(read_image(tmp_path / "large.bmp"), expected)
    captured = capfd.readouterr()
    assert "large.bmp (34x24, " in captured.out
    assert captured.err == ""


@pytest.mark.parametrize("out", ["new/", "new/deeper/"])
def test_one_image_to_a_folder(engine, image, tmp_path, out):
    assert run(engine, image, "-o", f"{tmp_path}/{out}") == 0
    assert run(engine, image, "-o", tmp_path / "new") == 0
    assert read_image(tmp_path / "new" / "small.png").shape == (24, 34, 3)


def test_a_folder_to_a_folder(engine, images, tmp_path, capfd):
    assert run(engine, images, "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.tif"]
    loaded = load(engine)
    for source, target in (("a.png", "a.png"), ("b.jpg", "b.png"), ("c.tif", "c.tif")):
        expected = loaded.restore(read_image(images / source))
        found = read_image(tmp_path / "out" / target)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_tiles_give_the_same_image(engine, image, tmp_path, capfd):
    assert run(engine, image, "-o", tmp_path / "whole.png", "--threads", "1") == 0
    assert run(engine, image, "-o", tmp_path / "tiled.png", "--threads", "1", "--tile", "5") == 0
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "tiled.png").read_bytes()
    assert capfd.readouterr().err == ""


def test_tiling_a_whole_image_network_is_said_once(images, tmp_path, capfd):
    engine = engines.whole_image(tmp_path / "engine")
    assert run(engine, images, "-o", tmp_path / "out", "--tile", "8") == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("nmcompile: note: tiled, the result differs")
    assert "GlobalAveragePool" in lines[0]


def test_a_further_input_is_set(tmp_path, capfd):
    engine = engines.noise_level(tmp_path / "engine", (0, 1, "H", "W"))
    write_image(tmp_path / "in.png", np.full((4, 4), 51, np.uint8))
    assert run(engine, tmp_path / "in.png", "-o", tmp_path / "out.png", "--set", "sigma=0.4") == 0
    assert (read_image(tmp_path / "out.png") == 153).all()
    words = (engine, tmp_path / "in.png", "-o", tmp_path / "no.png", "--set")
    capfd.readouterr()
    assert "it has sigma" in failing(capfd, *words, "noise=1")
    assert "expected NAME=NUMBER" in failing(capfd, *words, "sigma=high")
    assert not (tmp_path / "no.png").exists()


def test_a_bad_image_does_not_stop_the_others(images, tmp_path, capfd):
    engine = engines.strided(tmp_path / "engine", minimum=12)
    write_image(images / "aa.png", np.zeros((5, 40, 3), np.uint8))
    assert run(engine, images, "-o", tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.tif"]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "at least 12x12" in lines[0]


def test_a_foreign_file_in_the_folder_is_named(engine, images, tmp_path, capfd):
    (images / "README").write_text("about these images")
    assert "README is not an image" in failing(capfd, engine, images, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_said(engine, images, tmp_path, capfd):
    write_image(images / "b.bmp", noise(3))
    line = failing(capfd, engine, images, "-o", tmp_path / "out")
    assert "would both become" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "out", "said"),
    [
        ("none.png", "x.png", "no image file"),
        ("small.png", "small.png", "would replace the image itself"),
        ("small.png", "none/x.png", "does not exist"),
        ("small.png", "x.gif", "not as .gif"),
        ("small.png", "x", "without an ending"),
        ("images", "images", "would replace the image itself"),
        ("images", "small.png", "is a file"),
        ("images", "small.png/sub", "not a writable folder"),
        ("deep.png", "x.jpg", "does not hold 16 bits"),
        ("alpha.png", "x.jpg", "does not hold alpha"),
    ],
)
def test_what_cannot_be_is_one_line(engine, image, images, tmp_path, capfd, source, out, said):
    write_image(tmp_path / "deep.png", noise(3, np.uint16))
    write_image(tmp_path / "alpha.png", noise(4))
    before = sorted(tmp_path.rglob("*"))
    assert said in failing(capfd, engine, tmp_path / source, "-o", tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "said"), [(["--tile", "0"], "--tile 0"), (["--threads", "0"], "0 threads")]
)
def test_impossible_numbers_are_one_line(engine, image, tmp_path, capfd, option, said):
    assert said in failing(capfd, engine, image, "-o", tmp_path / "x.png", *option)


def test_a_flipped_byte_is_one_line(engine, image, tmp_path, capfd):
    model = bytearray((engine / "model.onnx").read_bytes())
    model[100] ^= 4
    (engine / "model.onnx").write_bytes(model)
    line = failing(capfd, engine, image, "-o", tmp_path / "x.png")
    assert "model.onnx is not what was written" in line
