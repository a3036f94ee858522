"""--target tensorrt, TensorRT played by ONNX Runtime: from a network to receipt and images."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import nmcompile
from nmcompile.budget import Budget
from nmcompile.compile import Settings
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.tasks import Task
from tests.nvidia.machine import use_tensorrt

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
    """A head, a trunk of a wide and a narrow convolution, and a tail that adds little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 3, 3, padding=1)
        nn.init.normal_(self.tail.weight, std=0.002)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tail(torch.relu(self.wide(torch.relu(self.head(x)))))


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


@pytest.mark.parametrize("version", ["10.16.0.72", "11.1.0.106"])
def test_engine_runs_and_its_receipt_tells_what_runs(version, tmp_path, fake_gpu, no_plugin):
    use_tensorrt(fake_gpu, version)
    engine = nmcompile.compile(Residual(), tmp_path / "engine", SETTINGS)
    receipt = receipt_of(engine)
    rows = {row["name"]: row for row in receipt["layers"]}
    assert rows["wide.weight"]["status"].startswith("sparse tactic; in the engine ")
    assert "sparse_conv" in rows["wide.weight"]["kernel"]
    facts = rows["wide.weight"]["tensorrt"]
    assert (facts["valid"], facts["eligible"], facts["runs"]) == (True, True, "sparse tactic")
    assert facts["ms"] == 0.5 * facts["dense_ms"]
    assert not rows["head.weight"]["tensorrt"]["expected"]
    assert receipt["precision"]["chosen"] == "fp16"
    assert receipt["gpu"] == "Fake GPU"
    assert receipt["tensorrt"]["version"] == ".".join(version.split(".")[:2])
    assert receipt["tensorrt"]["reverted"] == []
    assert {"engine.plan", "dense.plan", "engine.log", "model.onnx"} <= set(engine.manifest.parts)
    assert engine.manifest.built.profile[1] == (1, 48, 64)
    x = np.random.default_rng(0).random((3, 3, 20, 31), np.float32)
    whole = engine.run(x)
    assert np.array_equal(whole[1:2], engine.run(x[1:2]))  # batches run in parts
    dense = Residual()(torch.from_numpy(x)).detach().numpy()
    assert 0 < np.abs(whole - dense).max() < 0.05
    assert "1 layers pruned: 1 in sparse tactics" in (engine.path / "report.html").read_text()
