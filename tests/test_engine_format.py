"""Engine folders: written whole or not at all, and refused when anything in them changed."""

import dataclasses
import json
from pathlib import Path

import pytest

from nmcompile.engine import (
    MANIFEST,
    ExtraInput,
    Manifest,
    check_writable,
    read_manifest,
    seal,
    writing,
)
from nmcompile.errors import NmcompileError
from tests.engines import PLAIN

FULL = dataclasses.replace(
    PLAIN, fixed_size=(32, 48), halo=None, halo_reason="Mean",
    extra_inputs=(ExtraInput("sigma", (0, 1, "H", "W"), 0.25),),
)  # fmt: skip


def fill(folder: Path, content: bytes = b"weights") -> Manifest:
    (folder / "kernels").mkdir()
    (folder / "model.onnx").write_bytes(content)
    (folder / "kernels" / "packed.bin").write_bytes(b"packed")
    return seal(folder, FULL)


def write(target: Path, content: bytes = b"weights") -> Path:
    with writing(target) as folder:
        fill(folder, content)
    return target


def refused(folder: Path) -> str:
    with pytest.raises(NmcompileError) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, **changes: object) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, **changes}))


def test_what_was_sealed_is_what_is_read(tmp_path):
    manifest = fill(tmp_path)
    assert set(manifest.parts) == {"model.onnx", "kernels/packed.bin"}
    assert manifest.parts["model.onnx"]["bytes"] == 7
    assert read_manifest(tmp_path) == manifest
    assert dataclasses.replace(manifest, parts={}) == FULL


def test_an_engine_appears_whole(tmp_path):
    with writing(tmp_path / "engine") as folder:
        fill(folder)
        assert not (tmp_path / "engine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert read_manifest(tmp_path / "engine").parts


@pytest.mark.parametrize("error", [RuntimeError, NmcompileError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    def fails() -> None:
        with writing(tmp_path / "engine") as folder:
            fill(folder)
            raise error

    with pytest.raises(error):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_an_engine_is_replaced(tmp_path):
    target = write(tmp_path / "engine", b"old")
    (target / "old.log").write_text("left by the old one")
    write(target, b"new")
    assert (target / "model.onnx").read_bytes() == b"new"
    assert not (target / "old.log").exists()
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_engine_stays_when_the_new_one_fails(tmp_path):
    target = write(tmp_path / "engine", b"old")

    def fails() -> None:
        with writing(target) as folder:
            fill(folder, b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (target / "model.onnx").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_engine_comes_back_when_it_cannot_be_replaced(tmp_path, monkeypatch):
    target = write(tmp_path / "engine", b"old")
    rename = Path.replace

    def failing(path: Path, where: Path) -> Path:
        if where == target and path.name != "engine":
            raise OSError("no space left")
        return rename(path, where)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises((OSError, NmcompileError), match="no space left"):
        write(target, b"new")
    assert (target / "model.onnx").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "not JSON", '{"name": "a web page"}'])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path, manifest):
    target = tmp_path / "precious"
    target.mkdir()
    (target / "data.txt").write_text("mine")
    if manifest is not None:
        (target / MANIFEST).write_text(manifest)
    with pytest.raises(NmcompileError, match="exists and is not an engine"):
        write(target)
    assert (target / "data.txt").read_text() == "mine"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "engine").write_text("mine")
    with pytest.raises(NmcompileError, match="exists and is not an engine"):
        check_writable(tmp_path / "engine")


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NmcompileError, match="does not exist; make it first"):
        check_writable(tmp_path / "nowhere" / "engine")


def test_every_flipped_byte_of_a_part_is_found(tmp_path):
    fill(tmp_path)
    for part in ("model.onnx", "kernels/packed.bin"):
        content = (tmp_path / part).read_bytes()
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1
            (tmp_path / part).write_bytes(flipped)
            assert "SHA-256 differs" in refused(tmp_path)
        (tmp_path / part).write_bytes(content)
    assert read_manifest(tmp_path).parts


def test_a_longer_part_is_found(tmp_path):
    fill(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"weights and more")
    assert "model.onnx is not what was written" in refused(tmp_path)


def test_a_missing_part_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "kernels" / "packed.bin").unlink()
    assert "part kernels/packed.bin is missing" in refused(tmp_path)


def test_a_newer_engine_says_who_made_it(tmp_path):
    fill(tmp_path)
    rewrite(tmp_path, version=2, created_by="nmcompile 9.0", unknown="to us")
    assert "engine of version 2" in refused(tmp_path)
    assert "nmcompile 9.0" in refused(tmp_path)


@pytest.mark.parametrize("escape", ["../outside.bin", "/etc/passwd", "kernels/../../outside.bin"])
def test_a_part_outside_the_engine_is_refused(tmp_path, escape):
    folder = tmp_path / "engine"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(b"secret")
    fill(folder)
    rewrite(folder, parts={escape: {"sha256": "0", "bytes": 6}})
    assert "lies outside the engine" in refused(folder)


def test_a_link_out_of_the_engine_is_refused(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(b"weights")
    fill(folder)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path / "outside.bin")
    assert "lies outside the engine" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": []},
        {"parts": {"model.onnx": None}},
        {"parts": {"model.onnx": {"bytes": 7}}},
        {"channels": "3"},
        {"scale": 0},
        {"multiple": -1},
        {"value_range": 0.0},
        {"value_range": None},
        {"halo": "far"},
        {"task": 4},
        {"fixed_size": [8]},
        {"extra_inputs": [{"name": "sigma"}]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_wrong_manifest_is_said(tmp_path, changes):
    fill(tmp_path)
    rewrite(tmp_path, **changes)
    assert "is damaged" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"parts": {}}'])
def test_what_is_no_manifest_is_said(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    assert "is damaged" in refused(tmp_path)


def test_a_flipped_byte_of_the_manifest_never_ends_in_a_traceback(tmp_path):
    fill(tmp_path)
    content = (tmp_path / MANIFEST).read_bytes()
    refusals = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 4
        (tmp_path / MANIFEST).write_bytes(flipped)
        try:
            read_manifest(tmp_path)
        except NmcompileError:
            refusals += 1
    assert refusals > len(content) // 2


def test_a_folder_without_a_manifest_is_no_engine(tmp_path):
    assert "is not an engine: it has no manifest.json" in refused(tmp_path)
