"""--target tensorrt, TensorRT played by ONNX Runtime: from a network to receipt and images."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import nmcompile
from nmcompile import cli
from nmcompile.budget import Budget
from nmcompile.cli.summary import print_summary
from nmcompile.compile import Settings
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.routing.spec import RouteSpec
from nmcompile.tasks import Task
from tests.nvidia.machine import build_plugin, use_tensorrt

SETTINGS = Settings(
    task=Task("denoise", 25),
    target="tensorrt",
    budget=Budget.parse("macs=0.6"),
    uniform=Pattern.parse("2:4"),
    prune="magnitude",
    value_range=1.0,
    size=(48, 64),
    crops=4,
)


class Residual(nn.Module):
    """A head, a trunk of two convolutions, and a tail that adds little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 32, 3, padding=1)
        self.wide = nn.Conv2d(32, 16, 3, padding=1)
        self.narrow = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 3, 3, padding=1)
        nn.init.normal_(self.tail.weight, std=0.002)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.wide(torch.relu(self.head(x))))
        return x + self.tail(torch.relu(self.narrow(y)))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_plugin(monkeypatch):
    def missing(_):
        raise NmcompileError("libnmk_trt.so was not found; build it")

    monkeypatch.setattr("nmcompile.backends.tensorrt.plugin_library", missing)


def receipt_of(engine):
    return json.loads((engine.path / "receipt.json").read_text())


def test_engine_runs_and_its_receipt_tells_what_runs(tmp_path, fake_gpu, no_plugin, capsys):
    use_tensorrt(fake_gpu, "10.16.0.72").slow = {"narrow.weight"}  # in the network, not alone
    given = dataclasses.replace(SETTINGS, profile="1x8x8,1x48x64,2x512x512")
    engine = nmcompile.compile(Residual(), tmp_path / "engine", given)
    receipt = receipt_of(engine)
    rows = {row["name"]: row for row in receipt["layers"]}
    wide, narrow = rows["wide.weight"], rows["narrow.weight"]
    assert wide["status"].startswith("sparse tactic; in the engine ")
    assert "sparse_conv" in wide["kernel"]
    facts = wide["tensorrt"]
    assert (facts["valid"], facts["eligible"], facts["runs"]) == (True, True, "sparse tactic")
    assert facts["ms"] == 0.5 * facts["dense_ms"]
    assert narrow["status"].startswith("runs dense: its dense tactic is faster; in the engine ")
    assert not rows["head.weight"]["tensorrt"]["expected"]
    assert receipt["precision"]["chosen"] == "fp16"
    assert receipt["tensorrt"]["version"] == "10.16"
    assert receipt["tensorrt"]["reverted"] == ["narrow.weight"]
    assert {"engine.plan", "dense.plan", "engine.log", "model.onnx"} <= set(engine.manifest.parts)
    assert engine.manifest.built.profile == ((1, 8, 8), (1, 48, 64), (2, 512, 512))
    x = np.random.default_rng(0).random((3, 3, 20, 31), np.float32)
    whole = engine.run(x)
    assert np.array_equal(whole[1:2], engine.run(x[1:2]))  # batches run in parts
    dense = Residual()(torch.from_numpy(x)).detach().numpy()
    assert 0 < np.abs(whole - dense).max() < 0.05
    _check_what_is_shown(engine, receipt, capsys)


def _check_what_is_shown(engine, receipt, capsys):
    page = (engine.path / "report.html").read_text()
    assert "1 pruned layer runs dense in TensorRT: narrow.weight." in page
    assert "Dense network in TensorRT and compiled" in page
    assert "2 layers pruned: 1 in sparse tactics" in page
    print_summary(engine.path, receipt)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 run dense: narrow.weight" in said
    assert "only TensorRT's own tactics are weighed" in said
    bench = [
        "bench",
        str(engine.path),
        "--against",
        "onnxruntime",
        "--size",
        "24x32",
        "--runs",
        "5",
    ]
    assert cli.main([*bench, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["note"].startswith("this engine runs on Fake GPU, the others on the processor; ")
    assert cli.main(["inspect", str(engine.path)]) == 0
    said = capsys.readouterr().out
    assert "whole network, Fake GPU" in said
    assert "runs dense: its dense tactic is faster" in said


def test_layers_that_our_plugin_runs_faster_are_its(tmp_path, fake_gpu):
    fake = use_tensorrt(fake_gpu)
    library = build_plugin(tmp_path / "libnmk_trt11.so", 11)
    fake_gpu.setattr("nmcompile.backends.tensorrt.plugin_library", lambda _: library)
    fake_gpu.setattr("nmcompile.runtime.tensorrt_module.plugin_library", lambda _: library)
    engine = nmcompile.compile(Residual(), tmp_path / "engine", SETTINGS)
    receipt = receipt_of(engine)
    rows = {row["name"]: row["tensorrt"]["runs"] for row in receipt["layers"]}
    assert rows["wide.weight"] == rows["narrow.weight"] == "plugin"
    assert rows["head.weight"] == "dense tactic"
    assert (receipt["tensorrt"]["plugins"], receipt["tensorrt"]["sparse_tactics"]) == (2, 0)
    assert receipt["verification"]["agreement_db"] > 50  # the packed bytes hold these weights
    assert engine.manifest.built.plugins
    assert fake.loaded == [str(library)]


def test_strict_writes_no_engine_with_pruned_layers_that_run_dense(tmp_path, fake_gpu, no_plugin):
    use_tensorrt(fake_gpu).slow = {"narrow.weight"}
    strict = dataclasses.replace(SETTINGS, strict=True)
    said = r"--strict: 1 pruned layers run dense: narrow.weight \(runs dense: its dense tactic is"
    with pytest.raises(NmcompileError, match=said):
        nmcompile.compile(Residual(), tmp_path / "engine", strict)
    assert list(tmp_path.glob("*engine*")) == []


def test_without_tensorrt_nothing_is_written(tmp_path, fake_gpu):
    fake_gpu.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NmcompileError, match=r"TensorRT 10.x or 11.x is needed"):
        nmcompile.compile(Residual(), tmp_path / "engine", SETTINGS)
    assert not list(tmp_path.glob("*engine*"))


def test_input_adaptive_engines_are_refused(tmp_path, fake_gpu, no_plugin):
    use_tensorrt(fake_gpu)
    routed = dataclasses.replace(SETTINGS, uniform=None, route=RouteSpec.parse("2", "tile", None))
    with pytest.raises(NmcompileError, match="--route 2: TensorRT engines have one level; give"):
        nmcompile.compile(Residual(), tmp_path / "engine", routed)
