"""The whole way: a network becomes an engine, or nothing at all."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nmcompile
from nmcompile.budget import Budget
from nmcompile.compile import Settings
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import evaluate
from nmcompile.pattern import Pattern
from nmcompile.plan import Plan
from nmcompile.tasks import Task

SETTINGS = Settings(
    task=Task("sr", 2),
    budget=Budget.parse("macs=0.6"),
    value_range=1.0,
    size=(48, 64),
    crops=4,
    threads=1,
)


class _Enlarge(nn.Module):
    """A little x2 network over nearest-neighbour enlargement."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.trunk = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.tail = nn.Conv2d(16, 12, 3, padding=1)
        nn.init.normal_(self.tail.weight, std=0.002)
        nn.init.zeros_(self.tail.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = nn.functional.interpolate(x, scale_factor=2)
        return near + nn.functional.pixel_shuffle(self.tail(self.trunk(self.head(x))), 2)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))


def test_engine_receipt_and_plan_agree(tmp_path: Path) -> None:
    engine = nmcompile.compile(_Enlarge(), tmp_path / "engine", SETTINGS)
    receipt = json.loads((tmp_path / "engine/receipt.json").read_text())
    plan = Plan.load(tmp_path / "engine/plan.json")
    assert receipt["macs"] == {"dense": plan.dense_macs, "compiled": plan.macs}
    assert plan.macs <= 0.6 * plan.dense_macs
    assert [row["pattern"] for row in receipt["layers"]] == [str(x.pattern) for x in plan.layers]
    assert all(row["valid"] for row in receipt["layers"])
    assert receipt["note"] == ""
    assert receipt["executor"] == "native"
    assert receipt["params"]["kept"] < receipt["params"]["dense"]
    assert receipt["verification"]["max_abs_difference"] <= 1e-4
    assert plan.layer("head.weight").reason.startswith("3 input channels")
    parts = {path.name for path in (tmp_path / "engine").iterdir()} - {"manifest.json"}
    assert parts == set(engine.manifest.parts)
    assert {"model.onnx", "dense.onnx", "dense.pt2", "report.html"} <= parts


def test_engine_is_the_pruned_network_at_any_size(tmp_path: Path) -> None:
    exact = dataclasses.replace(SETTINGS, precision="fp32")  # bf16 may round where it is faster
    engine = nmcompile.compile(_Enlarge(), tmp_path / "engine", exact)
    program = nmcompile.capture(_Enlarge())
    ctx = nmcompile.prepare(program, "sr:2", budget="macs=0.6", reference_size=(48, 64), crops=4)
    steps = nmcompile.assign(nmcompile.analyze(program, ctx), ctx)
    pruned = nmcompile.prune(steps, ctx)
    x = torch.rand(2, 3, 19, 33)
    assert np.abs(engine.run(x.numpy()) - pruned(x).numpy()).max() < 1e-5


def test_every_budget_and_uniform(tmp_path: Path) -> None:
    drop = dataclasses.replace(SETTINGS, budget=Budget.parse("drop=0.5dB"))
    nmcompile.compile(_Enlarge(), tmp_path / "drop", drop)
    receipt = json.loads((tmp_path / "drop/receipt.json").read_text())
    assert receipt["quality"]["drop_db"] <= 0.5 + 1e-3
    assert receipt["macs"]["compiled"] < receipt["macs"]["dense"]

    uniform = dataclasses.replace(SETTINGS, uniform=Pattern.parse("2:4"))
    nmcompile.compile(_Enlarge(), tmp_path / "uniform", uniform)
    plan = Plan.load(tmp_path / "uniform/plan.json")
    assert [str(x.pattern) for x in plan.layers] == ["dense", "2:4", "dense"]

    uniform = dataclasses.replace(SETTINGS, uniform=Pattern.parse("8x8:16k"))
    nmcompile.compile(_Enlarge(), tmp_path / "whole", uniform)
    _, row, _ = json.loads((tmp_path / "whole/receipt.json").read_text())["layers"]
    assert (row["pattern"], row["valid"]) == ("8x8:16k", True)
    assert ".nm-8x8:16k." in row["kernel"]

    latency = dataclasses.replace(
        SETTINGS, target="onnx", budget=Budget.parse("latency=0.5x"), threads=1
    )
    with pytest.raises(NmcompileError, match=r"nearest possible is latency=1\.000x"):
        nmcompile.compile(_Enlarge(), tmp_path / "latency", latency)
    assert not (tmp_path / "latency").exists()


def test_a_plan_edited_by_hand_is_followed(tmp_path: Path) -> None:
    nmcompile.compile(_Enlarge(), tmp_path / "first", SETTINGS)
    plan = Plan.load(tmp_path / "first/plan.json")
    edited = plan.assign({"trunk.0.weight": Pattern.parse("4:16")}, {})
    settings = dataclasses.replace(SETTINGS, plan=(edited, "edited.json"))
    nmcompile.compile(_Enlarge(), tmp_path / "second", settings)
    followed = Plan.load(tmp_path / "second/plan.json")
    assert [x.pattern for x in followed.layers] == [x.pattern for x in edited.layers]
    assert str(followed.layer("trunk.0.weight").pattern) == "4:16"

    other = dataclasses.replace(plan.layers[1], name="elsewhere.weight")
    foreign = plan.with_layers((plan.layers[0], other, plan.layers[2]))
    settings = dataclasses.replace(SETTINGS, plan=(foreign, "foreign.json"))
    with pytest.raises(NmcompileError, match=r"foreign\.json: layer elsewhere\.weight"):
        nmcompile.compile(_Enlarge(), tmp_path / "third", settings)


def test_a_failure_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = nmcompile.compile(_Enlarge(), tmp_path / "engine", SETTINGS).manifest

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["nmcompile.compile"], "write_report", broken)
    with pytest.raises(NmcompileError, match="No space left"):
        nmcompile.compile(_Enlarge(), tmp_path / "engine", SETTINGS)
    assert nmcompile.load(tmp_path / "engine").manifest == before
    with pytest.raises(NmcompileError, match="No space left"):
        nmcompile.compile(_Enlarge(), tmp_path / "other", SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "engine"]


def test_nothing_said_is_found_out(tmp_path: Path) -> None:
    settings = Settings(budget=Budget.parse("macs=0.9"), size=(48, 64), crops=4, threads=1)
    engine = nmcompile.compile(_Enlarge(), tmp_path / "engine", settings)
    assert (engine.manifest.task, engine.manifest.value_range) == ("sr:2", 1.0)
    assumed = json.loads((tmp_path / "engine/receipt.json").read_text())["assumed"]
    assert any("scikit-image" in line for line in assumed)
    assert any(line.startswith("task sr:2") for line in assumed)


def test_engine_and_program_are_judged_alike(tmp_path: Path) -> None:
    exact = dataclasses.replace(SETTINGS, precision="fp32")  # bf16 may round where it is faster
    engine = nmcompile.compile(_Enlarge(), tmp_path / "engine", exact)
    program = nmcompile.capture(_Enlarge())
    ctx = nmcompile.prepare(program, "sr:2", crops=1)
    sample = ctx.calibration.validation[0]
    dense = evaluate(program, [sample], ctx.task)
    compiled = evaluate(engine, [sample], ctx.task)
    assert dense.images.keys() == compiled.images.keys() == {sample.name}
    assert 20 < compiled.psnr < 60
