"""Frozen levels and images to train heads on, few enough for a test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmcompile.data import Source
from nmcompile.images import write_image
from nmcompile.routing import heading, learning
from nmcompile.training.batches import Patches
from tests.networks import DENOISE, Around, context, conv
from tests.routing.nests import SIDE, nest


@pytest.fixture
def _few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heading, "PIXELS", 128 * SIDE**2)
    monkeypatch.setattr(learning, "STEPS", 4)


@pytest.fixture
def case(tmp_path: Path, _few_windows: None) -> dict[str, Any]:
    """Arguments of train_head but for the recipe, and of few windows."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        picture = generator.integers(0, 256, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
        write_image(folder / f"{index}.png", picture.astype(np.uint8))
    wide = Around(*(conv(32, 32) for _ in range(2)), outputs=32)
    wide.head = conv(3, 32)
    dense, nested = nest(tmp_path, wide)
    data = Patches(Source.folder(folder), (), DENOISE, dense.interface, SIDE)
    ctx = context(tmp_path)
    times = (0.4, 0.7, 1.0)
    return {"nested": nested, "times": times, "data": data, "ctx": ctx, "window": SIDE}
