"""TensorRT itself, on a GPU: is an engine what the network is, and is it told of as documented?"""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import nmcompile
from nmcompile.backends.tensorrt_log import read_inspector, read_log
from nmcompile.budget import Budget
from nmcompile.compile import Settings
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.runtime.cuda import open_device
from nmcompile.runtime.tensorrt_module import find_tensorrt
from nmcompile.tasks import Task


@pytest.fixture(autouse=True)
def _machine(tmp_path, monkeypatch):
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))
    try:
        find_tensorrt()
        open_device()
    except NmcompileError as error:
        pytest.skip(str(error))


class Wide(nn.Module):
    """Convolutions of 256 channels, for which TensorRT has sparse tactics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [3, 256, 256, 256]
        parts = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
        self.body = nn.Sequential(*(layer for part in parts for layer in (part, nn.ReLU())))
        self.tail = nn.Conv2d(256, 3, 3, padding=1)
        nn.init.normal_(self.tail.weight, std=0.002)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tail(self.body(x))


def test_an_engine_and_its_receipt(tmp_path):
    settings = Settings(
        task=Task("denoise", 25), target="tensorrt", budget=Budget.parse("macs=0.6"), crops=4,
        uniform=Pattern.parse("2:4"), prune="magnitude", value_range=1.0, size=(128, 192),
    )  # fmt: skip
    engine = nmcompile.compile(Wide(), tmp_path / "engine", settings)
    receipt = json.loads((engine.path / "receipt.json").read_text())
    assert receipt["verification"]["agreement_db"] > 50
    log = read_log((engine.path / "engine.log").read_text().splitlines())
    assert log.eligible
    assert log.picked is not None
    assert read_inspector((engine.path / "engine.layers.json").read_text()).tensors
    for row in receipt["layers"]:
        facts = row["tensorrt"]
        assert facts["runs"] != "not found", row["name"]
        assert facts["ms"] is not None
        assert facts["eligible"] or facts["runs"] == "plugin" or not facts["expected"]
    x = np.random.default_rng(0).random((3, 3, 77, 131), np.float32)
    assert engine.run(x).shape == x.shape
