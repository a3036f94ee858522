"""--finetune, from command line to receipt; two processes train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nmcompile.cli import main
from nmcompile.cli.summary import print_summary
from nmcompile.images import write_image
from nmcompile.plan import Plan
from nmcompile.runtime import load
from tests.test_compile import _Enlarge
from tests.training import compile_here

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["weights.pt", "--arch", "tests.test_compile:_Enlarge", "--data", "images",
           "--task", "sr:2", "--range", "0..1", "--input", "1x3x48x64", "--crops", "4",
           "--threads", "1", "--budget", "macs=0.6", "-o", "engine"]  # fmt: skip
TRAIN = ["--finetune", "4", "--batch", "4", "--patch", "16", "--seed", "3"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for index in range(4):
        picture = generator.integers(0, 256, (14, 14, 3)).repeat(8, 0).repeat(8, 1)
        write_image(tmp_path / f"images/{index}.png", picture.astype(np.uint8))
    torch.save(_Enlarge().state_dict(), tmp_path / "weights.pt")
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_processes_train_as_one(place):
    curves, outputs = [], []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["LOCAL_WORLD_SIZE"] = "2"  # pruned on so many threads, alone too
    script = str(ROOT / "tests/training/compile_here.py")
    alone = [sys.executable, script, "."]
    both = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    x = np.random.default_rng(1).random((1, 3, 24, 32), np.float32)
    for words in (alone, [*both, script, "."]):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "FutureWarning" not in done.stderr
        training = json.loads((place / "engine/receipt.json").read_text())["training"]
        points = training["curve"][1:]
        curves.append([value for p in points for value in (p["loss"], p["psnr"]) if value])
        outputs.append(load(place / "engine", 1).run(x))
    assert training["processes"] == 2
    assert training["steps"] == compile_here.RECIPE.steps
    assert np.allclose(*curves, rtol=1e-5, atol=0)
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5
    assert not list(place.glob(".engine.training"))


def test_the_receipt_and_the_report_tell_of_training(place, capsys):
    assert main([*COMMAND, *TRAIN]) == 0
    shown = capsys.readouterr().out
    receipt = json.loads((place / "engine/receipt.json").read_text())
    training = receipt["training"]
    assert f"fine-tuned: {training['steps']} steps" in shown
    assert training["best_psnr"] >= training["start_psnr"]
    training["start_psnr"] = None  # as where the pruned network restores every bit
    print_summary(place / "engine", receipt)
    assert f"validation - -> {training['best_psnr']:.2f} dB" in capsys.readouterr().out
    assert (training["steps"], training["recipe"]["seed"]) == (4, 3)
    assert [point["step"] for point in training["curve"] if point["psnr"]] == [0, 1, 2, 3, 4]
    assert all(row["valid"] for row in receipt["layers"])
    assert receipt["macs"]["compiled"] == Plan.load(place / "engine/plan.json").macs
    page = (place / "engine/report.html").read_text()
    assert "Loss and PSNR while training" in page
    assert "#0100" not in page
    assert sorted(path.name for path in place.iterdir()) == [
        "cache", "engine", "images", "weights.pt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "sls:4", "--budget", "macs=0.8"], "of the training"),
        (["--train-masks", "sr-ste", "--uniform", "2:4"], "of the weights"),
        (["--reassign", "1"], "patterns assigned anew"),
    ],
)
def test_masks_that_are_learned_reach_the_engine(place, capsys, words, said):
    assert main([*COMMAND, *TRAIN, *words]) == 0
    receipt = json.loads((place / "engine/receipt.json").read_text())
    assert said in receipt["training"]["masks"]
    assert said in " ".join(capsys.readouterr().out.split())
    assert all(row["valid"] for row in receipt["layers"])
    plan = Plan.load(place / "engine/plan.json")
    assert receipt["macs"]["compiled"] == plan.macs
    if "--uniform" not in words:
        assert plan.macs <= (0.8 if "sls:4" in words else 0.6) * plan.dense_macs


def test_a_run_that_was_cut_off_is_gone_on_with(place, capsys, monkeypatch):
    checkpointed = [*COMMAND, *TRAIN, "--checkpoint", "state"]
    assert main([*checkpointed, "--resume"]) == 1
    assert "leave out --resume" in capsys.readouterr().err
    assert main([*checkpointed]) == 0
    first = load("engine", 1)
    assert main([*checkpointed]) == 1
    assert "go on with --resume" in capsys.readouterr().err

    def measured(*_):
        raise AssertionError("a resumed run neither measures nor prunes")

    monkeypatch.setattr("nmcompile.transform.analyze", measured)
    assert main([*checkpointed, "--resume"]) == 0
    x = np.random.default_rng(1).random((1, 3, 24, 32), np.float32)
    assert np.array_equal(load("engine", 1).run(x), first.run(x))
    for words in (["--budget", "macs=0.7"], ["--reassign", "1"], ["--search", "sls:4"]):
        assert main([*checkpointed, "--resume", *words]) == 1
        assert "another model, data, plan or recipe" in capsys.readouterr().err
    (place / "images/3.png").rename(place / "images/4.png")
    assert main([*checkpointed, "--resume"]) == 1
    assert "another model, data, plan or recipe" in capsys.readouterr().err
    (place / "images/4.png").rename(place / "images/3.png")
    other = _Enlarge()
    with torch.no_grad():
        other.head.weight *= 2
    torch.save(other.state_dict(), "weights.pt")
    assert main([*checkpointed, "--resume"]) == 1
    assert "another model, data, plan or recipe" in capsys.readouterr().err


def test_a_full_disk_leaves_the_engine_that_was_there(place, capsys, monkeypatch):
    assert main(COMMAND) == 0
    before = (place / "engine/manifest.json").read_bytes()
    write = Path.write_bytes

    def full(path, data):
        if path.name == "dense.pt2":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main([*COMMAND, *TRAIN]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Traceback" not in error
    assert (place / "engine/manifest.json").read_bytes() == before
    assert (place / ".engine.training/state.pt").is_file()


BAD = [
    (["--finetune", "soon"], "expected steps or a time"),
    (["--lr", "0.1"], "give --finetune"),
    (["--search", "sls"], "give --finetune"),
    (["--finetune", "4", "--search", "best"], "--search best: expected sensitivity, sls"),
    (["--finetune", "4", "--search", "sls:12"], "expected one of 4, 8, 16, 32"),
    (["--finetune", "4", "--train-masks", "dense"], "expected fixed or sr-ste"),
    (["--finetune", "4", "--reassign", "1", "--budget", "drop=0.1dB"], "--reassign needs a budget"),
    (["--finetune", "4", "--batch", "0"], "--batch 0"),
    (["--finetune", "4", "--lr", "nan"], "--lr nan"),
    (["--finetune", "4", "--patch", "200"], "smaller --patch"),
    (["--finetune", "4", "--never-train-on", "images"], "holds every image"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_is_wrong_is_said_in_one_line(place, capsys, words, message):
    assert main([*COMMAND, *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (place / "engine").exists()


def test_images_of_the_evaluation_are_left_out(place, capsys):
    other = place / "evaluation"
    other.mkdir()
    (other / "same.png").write_bytes((place / "images/1.png").read_bytes())
    assert main([*COMMAND, *TRAIN, "--never-train-on", "evaluation"]) == 0
    assumed = json.loads((place / "engine/receipt.json").read_text())["assumed"]
    assert any("1 images of the data are in evaluation too" in line for line in assumed)
    assert "1.png: they were left out" in capsys.readouterr().err


def test_tensorboard_is_a_package_of_its_own(place, capsys):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        assert main([*COMMAND, *TRAIN, "--tensorboard", "logs"]) == 1
        assert "pip install tensorboard" in capsys.readouterr().err
        assert not list(place.glob(".engine.training"))
    else:
        assert main([*COMMAND, *TRAIN, "--tensorboard", "logs"]) == 0
        assert list((place / "logs").iterdir())
