"""Networks of the field that nobody tuned the compiler for go through it whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

import nmcompile
from nmcompile.budget import Budget
from nmcompile.capture import capture
from nmcompile.compile import Settings
from nmcompile.pattern import Pattern
from nmcompile.receptive_field import receptive_halo
from nmcompile.tasks import Task
from tests.architectures import ZOO, build

# One of each kind through the whole compiler; all of them are captured.
COMPILED = sorted(ZOO)[::6]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_captured_equals_eager_at_other_sizes(name: str) -> None:
    entry, model = ZOO[name], build(name)
    program = capture(model, value_range=entry.value_range)
    interface = program.interface
    assert (interface.scale, interface.channels) == (entry.scale, entry.channels)
    assert interface.multiple % entry.multiple == 0
    assert len(interface.extra_inputs) == len(entry.extras)
    base = -(-max(interface.minimum, 24) // interface.multiple) * interface.multiple
    for batch, height, width in ((1, base, base + interface.multiple), (3, base + base, base)):
        x = torch.rand(batch, interface.channels, height, width) * entry.value_range
        with torch.no_grad():
            expected = model(*interface.arguments(x))
        found = program(x)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) <= 1e-4 * entry.value_range


@pytest.mark.parametrize("name", sorted(ZOO))
def test_nothing_beyond_the_halo_matters(name: str) -> None:
    program = capture(build(name), value_range=ZOO[name].value_range)
    halo, reason = receptive_halo(program)
    if halo is None:
        assert reason
        assert ZOO[name].whole
        return
    interface = program.interface
    width = -(-(halo + 17) // interface.multiple) * interface.multiple
    height = -(-max(interface.minimum, 16) // interface.multiple) * interface.multiple
    x = torch.rand(1, interface.channels, height, width) * interface.value_range
    other = x.clone()
    other[..., 0] = interface.value_range - other[..., 0]
    before, after = program(x), program(other)
    near = interface.scale * (halo + 1)
    assert not torch.equal(before[..., :near], after[..., :near])
    assert float((before - after)[..., near:].abs().max()) <= 1e-6 * interface.value_range


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_engine_runs_at_other_sizes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))
    entry = ZOO[name]
    task = Task("sr", entry.scale) if entry.scale > 1 else Task("denoise", 25)
    settings = Settings(
        task=task, patterns=(Pattern.parse("2:4"),), budget=Budget.parse("drop=0.5dB"), crops=2,
        value_range=entry.value_range, size=(48, 64), threads=1,
    )  # fmt: skip
    engine = nmcompile.compile(build(name), tmp_path / "engine", settings)
    image = np.random.default_rng(0).integers(0, 256, (49, 67, entry.channels), np.uint8)
    restored = engine.restore(image)
    assert restored.shape == (49 * entry.scale, 67 * entry.scale, entry.channels)
