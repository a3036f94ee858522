"""Pretrained networks, every tile on its own -> no larger an error along tiles' borders?"""

import dataclasses

import numpy as np
import pytest

from benchmarks.networks import NETWORKS, evaluation_set
from nmcompile.backends.native import lower
from nmcompile.convs import get_tensor, weight_uses
from nmcompile.engine import Routing, seal
from nmcompile.pattern import Pattern
from nmcompile.runtime import load
from nmcompile.runtime.areas import cells
from nmcompile.runtime.routing import default_window
from nmcompile.tasks import Task
from tests import routed
from tests.engines import PLAIN

CASES = [("imdn_x4", "Set5 x4", 5), ("dncnn_gray_s25_merged", "Set12 sigma25", 3)]
NEAR = 4  # input pixels on either side of a border


def _kept(weight, pattern):
    """What the pattern keeps; without one, all weights but the smallest: nothing changes."""
    if pattern is None:
        return np.abs(weight) > np.abs(weight).min()
    return Pattern.parse(pattern).largest(weight)


def _engine(folder, program, task, pattern):
    """The network with all weights, and at level 0 with what the pattern keeps."""
    levels = {}
    for weight in weight_uses(program.module):
        value = get_tensor(program.module, weight)
        if value.dim() == 4 and value.shape[2:] == (3, 3) and min(value.shape[:2]) >= 16:
            levels[weight] = np.where(_kept(value.numpy(), pattern), 0, 1).astype(np.uint8)
    face = program.interface
    routing = Routing(
        "tile", *default_window(face.scale), (0.01, 1.0), (0.01, 1.0), 0.0, (0.0, 0.0), 0.5
    )
    folder.mkdir()
    (folder / "model.nmk").write_bytes(lower(program, levels=levels))
    (folder / "head.nmk").write_bytes(routed.head(face.channels))
    manifest = dataclasses.replace(
        PLAIN, executor="native", channels=face.channels, scale=face.scale,
        value_range=face.value_range, task=str(task), routing=routing,
    )  # fmt: skip
    seal(folder, manifest)
    return load(folder)


def _errors(engine, sample, monkeypatch):
    """Squared errors as tiled and of each tile's level untiled, and which are near borders."""
    routing, scale = engine.manifest.routing, engine.manifest.scale
    tile, overlap = routing.tile, routing.overlap
    axes = [cells(n, tile, overlap) for n in sample.degraded.shape[:2]]
    chequered = np.indices([len(axis) for axis in axes]).sum(axis=0) % 2
    monkeypatch.setattr(engine._routed, "ask", lambda _: np.eye(3)[chequered.ravel()])
    told = []
    found = engine.restore(sample.degraded, told=told.append)
    assert len(np.unique(told[0].levels)) == min(2, chequered.size)
    levels = np.kron(told[0].levels, np.ones((scale, scale), int))[..., None]
    alone = [engine.at(level).restore(sample.degraded) for level in (0, 1)]
    near = np.zeros(levels.shape[:2], bool)
    for axis, pieces in enumerate(axes):
        for edge in (piece.inner.start for piece in pieces[1:]):
            lines = slice((edge - NEAR) * scale, (edge + NEAR) * scale)
            near[(slice(None),) * axis + (lines,)] = True
    clean = sample.clean.astype(np.float32) / 255
    expected = np.where(levels, alone[1], alone[0])
    return np.square(found - clean), np.square(expected - clean), near


@pytest.mark.parametrize("pattern", [None, "8x3:4k"])
@pytest.mark.parametrize(("name", "place", "images"), CASES)
def test_borders_are_as_good_as_what_they_enclose(
    data_dir, monkeypatch, tmp_path, name, place, images, pattern
):
    """Against the untiled image of each tile's level; the two levels as on a chequerboard."""
    monkeypatch.setenv("NMCOMPILE_DATA", str(data_dir))
    text, source = evaluation_set(place)
    task, program = Task.parse(text), NETWORKS[name].program()
    face = program.interface
    engine = _engine(tmp_path / "engine", program, task, pattern)
    sums = np.zeros((2, 2))
    for index in range(images):
        sample = source.sample(index, task, face.channels, face.scale)
        tiled, alone, near = _errors(engine, sample, monkeypatch)
        sums += [[error[part].sum() for part in (near, ~near)] for error in (tiled, alone)]
    borders, inside = sums[0] / sums[1]
    assert borders < 1.01  # 0.04 dB
    assert inside < 1.01
