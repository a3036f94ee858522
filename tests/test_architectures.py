"""Networks of every kind of the field -> engines that compute what the pruned network does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nmcompile
from nmcompile.budget import Budget
from nmcompile.compile import Settings
from nmcompile.pattern import Pattern
from nmcompile.plan import Plan
from nmcompile.runtime.executor import OrtExecutor
from nmcompile.tasks import Task
from tests.architectures import ZOO, build, captured

# Between them: batch norm, transposed and depthwise convolutions, linear layers, folded kernels,
# a second input, pixel unshuffle; the whole zoo takes minutes.
COMPILED = ("dncnn", "fsrcnn", "drunet", "ecbsr", "convnext")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))


def _settings(name: str) -> Settings:
    return Settings(
        task=Task("sr", ZOO[name].scale) if ZOO[name].scale > 1 else Task("denoise", 25),
        value_range=ZOO[name].value_range,
        budget=Budget.parse("macs=0.7"),
        patterns=(Pattern.parse("1:4"), Pattern.parse("2:4")),
        prune="magnitude",
        precision="fp32",
        size=(48, 64),
        crops=4,
        threads=1,
    )


@pytest.mark.parametrize("name", COMPILED)
def test_the_whole_way(name, tmp_path):
    folder = tmp_path / "engine"
    engine = nmcompile.compile(build(name), folder, _settings(name))
    manifest, plan = engine.manifest, Plan.load(folder / "plan.json")
    receipt = json.loads((folder / "receipt.json").read_text())
    assert plan.macs <= 0.7 * plan.dense_macs
    assert receipt["verification"]["max_abs_difference"] < 1e-5
    for layer in plan.layers:
        inputs = layer.shape[1]
        assert layer.macs == layer.choices[0].macs > 0
        if len(layer.choices) == 1:
            assert layer.pattern.is_dense
            assert f"{inputs} input channels" in layer.reason or "of the MACs" in layer.reason
        elif not layer.pattern.is_dense:
            assert "least loss" in layer.reason

    _assert_peers_run(folder, name)
    step, least = manifest.multiple, manifest.minimum
    portable = OrtExecutor(folder / "model.onnx", 1)
    for batch, height, width in ((1, least, least), (2, least + 12 * step, least + 5 * step)):
        shape = (batch, manifest.channels, height, width)
        image = np.random.default_rng(0).random(shape, np.float32) * manifest.value_range
        output = engine.run(image)
        assert output.shape[2:] == (manifest.scale * height, manifest.scale * width)
        expected = portable(_inputs(name, image))
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4 * manifest.value_range)


def _inputs(name, image):
    """What each of the ONNX model's inputs is called, and the values that the engine gives it."""
    interface = captured(name).interface
    level = 25 / 255 * interface.value_range
    sizes = {0: image.shape[0], "H": image.shape[2], "W": image.shape[3]}
    extras = {
        extra.name: np.full([sizes.get(n, n) for n in extra.shape], level, np.float32)
        for extra in interface.extra_inputs
    }
    return {interface.input_name: image, **extras}


def _assert_peers_run(folder, name):
    """The dense original in every form in which other runtimes are timed on it."""
    program = captured(name)
    step = program.interface.multiple
    least = program.interface.minimum
    image = torch.rand(1, program.interface.channels, least + 9 * step, least + 6 * step)
    inputs = _inputs(name, image.numpy())
    with torch.no_grad():
        expected = build(name)(*map(torch.from_numpy, inputs.values()))
    found = OrtExecutor(folder / "dense.onnx", 1)(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    module = torch.export.load(folder / "dense.pt2").module()
    found = module(*map(torch.from_numpy, inputs.values()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
