"""`nmcompile MODEL -o ENGINE` and `nmcompile eval`, as a user types them, right and wrong."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from nmcompile.cli import main
from nmcompile.images import write_image
from nmcompile.runtime import load
from tests.test_compile import _Enlarge

ARCH = "tests.test_compile:_Enlarge"
FAST = ["--input", "1x3x48x64", "--crops", "4", "--threads", "1", "--budget", "macs=0.6"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a state dict, images and pairs."""
    folder = tmp_path_factory.mktemp("cli")
    torch.save(_Enlarge().state_dict(), folder / "weights.pt")
    generator = np.random.default_rng(0)
    for name in ("images", "small", "empty", "tiny"):
        (folder / name).mkdir()
    for index in range(4):
        picture = generator.integers(0, 256, (14, 14, 3)).repeat(8, 0).repeat(8, 1)
        write_image(folder / f"images/{index}.png", picture.astype(np.uint8))
    write_image(folder / "tiny/a.png", np.zeros((4, 4, 3), np.uint8))
    broken = _Enlarge().state_dict()
    broken["head.weight"][0, 0, 0, 0] = float("nan")
    torch.save(broken, folder / "nan.pt")
    torch.save(_Enlarge(), folder / "pickled.pt")
    (folder / "truncated.pt").write_bytes((folder / "weights.pt").read_bytes()[:3000])
    (folder / "foreign.pt").write_text("not a model")
    (folder / "plan.json").write_text('{"version": 1, "surprise": 2}')
    (folder / "list.pt").write_bytes(pickle.dumps([1, 2]))
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMCOMPILE_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)


def test_compile_eval_and_their_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["weights.pt", "--arch", ARCH, "--data", "images", "-o", "engine", *FAST]
    assert main([*command, "--save-plan", "saved.json"]) == 0
    assert "% left" in capsys.readouterr().out
    assert (place / "saved.json").read_text() == (place / "engine/plan.json").read_text()
    assert main([*command, "--plan", "saved.json", "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["quality"]["images"] == 2

    assert main(["eval", "engine", "--data", "images", "--json"]) == 0
    engine = json.loads(capsys.readouterr().out)
    assert set(engine) >= {"psnr", "ssim", "images"}
    assert len(engine["images"]) == 4
    judged = ["eval", "weights.pt", "--arch", ARCH, "--task", "sr:2", "--data", "images", "--json"]
    assert main(judged) == 0
    dense = json.loads(capsys.readouterr().out)
    assert dense["images"].keys() == engine["images"].keys()
    assert dense["psnr"] > 10


def test_an_engine_for_a_family_of_kernels(place: Path) -> None:
    words = ["weights.pt", "--arch", ARCH, "--data", "images", "-o", "plain", *FAST]
    assert main([*words, "--target", "cpu:portable"]) == 0
    engine = load("plain")
    assert (engine.isa, engine.manifest.target) == ("portable", "cpu:portable")
    layers = json.loads((place / "plain/receipt.json").read_text())["layers"]
    assert {layer["kernel"].rpartition(".")[2] for layer in layers} == {"portable"}


BAD = [
    (["truncated.pt", "--arch", ARCH], "truncated"),
    (["foreign.pt"], "not a file that PyTorch wrote"),
    (["missing.pt"], "no such file"),
    (["weights.pt"], "needs its architecture: --arch"),
    (["weights.pt", "--arch", "examples.models.imdn:imdn"], "does not fit --arch"),
    (["weights.pt", "--arch", "nowhere:net"], "cannot import"),
    (["pickled.pt"], "--trust-pickle"),
    (["nan.pt", "--arch", ARCH], "NaN or infinite"),
    (["weights.pt", "--arch", ARCH, "--data", "empty"], "no images"),
    (["weights.pt", "--arch", ARCH, "--data", "."], "is not an image"),
    (["weights.pt", "--arch", ARCH, "--data", "tiny"], "too small"),
    (["weights.pt", "--arch", ARCH, "--budget", "macs=0.001"], "nearest possible is macs="),
    (["weights.pt", "--arch", ARCH, "--budget", "quick"], "unknown budget"),
    (["weights.pt", "--arch", ARCH, "--patterns", "4:2"], "pattern 4:2"),
    (["weights.pt", "--arch", ARCH, "--uniform", "two:four"], "unknown pattern"),
    (["weights.pt", "--arch", ARCH, "--task", "sr:4"], "use --task sr:2"),
    (["weights.pt", "--arch", ARCH, "--task", "dehaze"], "unknown task"),
    (["weights.pt", "--arch", ARCH, "--range", "0..2"], "expected 0..1 or 0..255"),
    (["weights.pt", "--arch", ARCH, "--plan", "plan.json"], "unknown key 'surprise'"),
    (["weights.pt", "--arch", ARCH, "--target", "abacus"], "unknown target"),
    (["weights.pt", "--arch", ARCH, "--input", "3xHxW"], "expected 1xCxHxW"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_bad_input_is_one_line_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = sorted(place.iterdir())
    options = [w for w in FAST if "--input" not in words or w not in FAST[:2]]
    if "--budget" in words:
        options = [w for w in options if w not in FAST[-2:]]
    assert main([*words, *options, "-o", "nothing"]) == 1
    captured = capsys.readouterr()
    (line,) = (x for x in captured.err.splitlines() if x.startswith("nmcompile: error:"))
    assert message in line
    assert "Traceback" not in captured.err
    assert {path.name for path in place.iterdir()} - {path.name for path in before} <= {"cache"}


@pytest.mark.parametrize(
    ("output", "message"),
    [("no/such/folder", "does not exist"), ("images", "is not an engine"), ("/proc/x", "")],
)
def test_unwritable_output(capsys: pytest.CaptureFixture[str], output: str, message: str) -> None:
    assert main(["weights.pt", "--arch", ARCH, *FAST, "-o", output]) == 1
    assert message in capsys.readouterr().err


def test_eval_needs_images_task_and_fitting_pairs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["eval", "weights.pt", "--arch", ARCH]
    for words, message in (
        ([*model, "--task", "sr:2"], "give --data DIR"),
        ([*model, "--data", "images"], "needs --task"),
        ([*model, "--task", "sr:2", "--pairs", "images", "images"], "are the pairs for"),
        ([*model, "--task", "sr:2", "--pairs", "tiny", "images"], "pairs need equal names"),
    ):
        assert main(words) == 1
        assert message in capsys.readouterr().err
