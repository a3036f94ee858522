"""--route, from the command line to an engine whose levels and head are what was trained."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nmcompile.backends.onnx import OnnxTarget
from nmcompile.cli import main
from nmcompile.engine import read_manifest
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.plan import Plan
from nmcompile.routing.levels import nests
from nmcompile.routing.making import check_routable
from nmcompile.routing.spec import RouteSpec
from nmcompile.runtime import load
from tests.networks import captured, context, plain
from tests.routing import small

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["weights.pt", "--arch", "tests.routing.small:Small", "--data", "images",
           "--task", "sr:2", "--range", "0..1", "--input", "1x3x48x64", "--crops", "4",
           "--threads", "1", "--precision", "fp32", "--patterns", "1:4,2:4,8x2:8k",
           "-o", "engine", "--route", "0.4,0.7,1"]  # fmt: skip
TRAIN = ["--finetune", "4", "--batch", "4", "--patch", "16", "--seed", "3"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    small.pictures(tmp_path / "images")
    small.few_windows(monkeypatch)
    torch.save(small.Small().state_dict(), tmp_path / "weights.pt")
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(height=70, width=100):
    return np.random.default_rng(1).random((height, width, 3), np.float32)


def tensor():
    return np.random.default_rng(2).random((1, 3, 40, 52), np.float32)


def check_portable(native, x):
    """The native engine's own portable file is the same network, at each of its levels."""
    files = dataclasses.replace(read_manifest(Path("engine")), executor="onnxruntime")
    (Path("engine") / "manifest.json").write_text(json.dumps(dataclasses.asdict(files)))
    other = load("engine", 1)
    for level in range(3):
        assert np.abs(other.at(level).run(x) - native.at(level).run(x)).max() < 1e-4


@pytest.mark.parametrize("words", [[], [*TRAIN, "--route-by", "image", "--effort", "0.3"]])
def test_a_native_engine_of_three_levels(place, capsys, words):
    assert main([*COMMAND, *words]) == 0
    shown, engine = capsys.readouterr().out, load("engine", 1)
    receipt = json.loads(Path("engine/receipt.json").read_text())
    routing, plan = engine.manifest.routing, Plan.load(Path("engine/plan.json"))
    levels = json.loads(Path("engine/levels.json").read_text())
    by_image = "--route-by" in words
    assert (routing.by, routing.tile, routing.overlap) == (
        ("image", 0, 0) if by_image else ("tile", 64, 8)
    )
    assert receipt["macs"]["compiled"] == round(receipt["routing"]["macs"] * plan.dense_macs)
    assert routing.effort == (0.3 if by_image else receipt["routing"]["head"]["effort"])
    assert routing.costs == tuple(level["cost"] for level in levels)
    assert [level["budget"] for level in levels] == ["macs=0.4", "macs=0.7", "macs=1"]
    assert levels[-1]["patterns"] == {x.name: str(x.pattern) for x in plan.layers}
    for lower, upper in itertools.pairwise(levels):
        for name, pattern in lower["patterns"].items():
            assert nests(Pattern.parse(pattern), Pattern.parse(upper["patterns"][name]))
    rows = receipt["routing"]["levels"]
    assert [row["cost"] for row in rows] == [level["cost"] for level in levels]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(row["ms"] > 0 and np.isfinite(row["psnr"]) for row in rows)
    assert 0.3 < receipt["routing"]["macs"] < 1.4
    assert (receipt["training"] is None) == (not words)
    assert receipt["quality"]["compiled"]["psnr"] > 0
    assert "levels, each alone" in shown
    assert "Levels" in Path("engine/report.html").read_text()
    x = tensor()
    assert np.array_equal(engine.run(x, effort="max"), engine.at(2).run(x))
    assert np.array_equal(engine.run(x, effort="min"), engine.at(0).run(x))
    assert not np.array_equal(engine.run(x, effort="min"), engine.at(2).run(x))
    assert engine.restore(picture()).shape == (140, 200, 3)


def test_a_level_that_skips_every_layer(place, capsys):
    """What is left is the enlarged image, and the bias of the last layer."""
    words = [*COMMAND[: COMMAND.index("--patterns")], "--patterns", "skip,2:4", "-o", "engine"]
    assert main([*words, "--route", "0.02,0.6,1"]) == 0
    levels = json.loads(Path("engine/levels.json").read_text())
    assert set(levels[0]["patterns"].values()) == {"skip"}
    assert levels[0]["cost"] == 0
    engine, x = load("engine", 1), tensor()
    bias = torch.load("weights.pt")["tail.bias"].reshape(1, 12, 1, 1).expand(1, 12, *x.shape[2:])
    near = x.repeat(2, 2).repeat(2, 3) + torch.nn.functional.pixel_shuffle(bias, 2).numpy()
    np.testing.assert_allclose(engine.at(0).run(x), near, rtol=0, atol=1e-6)
    check_portable(engine, x)
    assert main([*words, "--target", "onnx", "--route", "2"]) == 1
    assert "pattern skip: target onnx would compute" in capsys.readouterr().err


def test_an_engine_for_onnx_runtime_gives_what_the_native_one_does(place):
    assert main(COMMAND) == 0
    assert main([*COMMAND, "--target", "onnx", "-o", "portable"]) == 0
    native, portable, x = load("engine", 1), load("portable", 1), tensor()
    assert portable.manifest.executor == "onnxruntime"
    assert not Path("portable/head.nmk").exists()
    for level in range(3):
        alone = portable.at(level).run(x)
        assert np.array_equal(portable.run(x, effort=level / 2), alone) or level == 1
    check_portable(native, x)


def test_a_run_that_was_cut_off_is_gone_on_with(place, capsys, monkeypatch):
    words = [*COMMAND, *TRAIN, "--checkpoint", "state"]
    assert main([*words, "--resume"]) == 1
    assert "leave out --resume" in capsys.readouterr().err
    assert main(words) == 0
    first, x = load("engine", 1), tensor()

    def measured(*_):
        raise AssertionError("a resumed run neither measures nor prunes")

    monkeypatch.setattr("nmcompile.transform.analyze", measured)
    assert main([*words, "--resume"]) == 0
    again = load("engine", 1)
    assert again.manifest.routing == first.manifest.routing
    for level in range(3):
        assert np.array_equal(again.at(level).run(x), first.at(level).run(x))
    assert main([*words, "--resume", "--route", "0.5,1"]) == 1
    assert "data, plan or recipe" in capsys.readouterr().err


def test_two_processes_train_levels_as_one_does(place, monkeypatch):
    def trained():
        training = json.loads(Path("engine/receipt.json").read_text())["training"]
        points = training["curve"][1:]
        values = [value for p in points for value in (p["loss"], p["psnr"]) if value]
        outputs = [load("engine", 1).at(level).run(tensor()) for level in range(3)]
        return training, values, outputs

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # pruned on so many threads, as by two processes
    small.main(place)
    _, *alone = trained()
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *words, str(ROOT / "tests/routing/small.py"), "."],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    training, *both = trained()
    assert training["processes"] == 2
    assert np.allclose(alone[0], both[0], rtol=1e-5, atol=0)
    assert np.abs(np.subtract(alone[1], both[1])).max() < 1e-5


BAD = [
    (["--budget", "macs=0.5"], "leave out --budget"),
    (["--uniform", "2:4"], "leave out --plan, --uniform"),
    ([*TRAIN, "--search", "sls:4"], "leave out --plan, --uniform"),
    (["--route", "1"], "1 level; expected 2 to 8"),
    (["--route", "0.01,1"], "level 0 cannot have 0.01 of the MACs: the nearest possible is"),
    (["--route", "0.6,0.601,1"], "levels 0 and 1 come out equal"),
    (["--route-by", "row"], "expected tile or image"),
    (["--effort", "2"], "expected a number from 0 to 1"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_is_wrong_is_said_in_one_line(place, capsys, words, message):
    assert main([*COMMAND, *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("engine").exists()


@pytest.mark.parametrize("option", ["--route-by", "--effort"])
def test_options_of_routing_need_it(place, capsys, option):
    assert main([*COMMAND[:-2], option, "tile"]) == 1
    assert f"{option} is about input-adaptive engines" in capsys.readouterr().err


def test_networks_that_cannot_switch_levels(tmp_path):
    program, spec = captured(plain()), RouteSpec(3)
    left = OnnxTarget("cpu", note="the native backend has no erf, so ONNX Runtime runs it")
    with pytest.raises(NmcompileError, match=r"has no erf.*give --target onnx"):
        check_routable(spec, program, context(tmp_path, target=left))
    check_routable(spec, program, context(tmp_path, target=OnnxTarget()))
    fixed = dataclasses.replace(program.interface, fixed_size=(32, 48))
    with pytest.raises(NmcompileError, match="exported for 32x48 only"):
        check_routable(spec, dataclasses.replace(program, interface=fixed), context(tmp_path))
