"""What an input-adaptive engine is made of: offsets as its runtime has them, levels by place."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile.convs import to_canonical
from nmcompile.engine import Routing
from nmcompile.routing.making import Adaptive, _pack, _part, _unpack
from nmcompile.runtime.routing import levels_of
from nmcompile.training import checkpoint
from nmcompile.training.recipe import Recipe
from tests.networks import Around, conv, weights
from tests.routing.nests import nest

_BIAS = (9.0, 2.0, 1.0, -0.5)
ROUTING = Routing("tile", 64, 8, (0.2, 0.5, 1.0), (0.3, 0.6, 1.0), 0.001, _BIAS, 0.4)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A dense network with a grouped transposed convolution, and its levels."""
    up = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=2)
    return nest(tmp_path_factory.mktemp("nest"), Around(conv(8, 8), up, conv(8, 8)))


@pytest.mark.parametrize("effort", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_offsets_decide_as_the_runtime_does(networks, effort):
    routing = dataclasses.replace(ROUTING, effort=effort)
    adaptive = Adaptive(networks[1], None, routing)
    scores = np.random.default_rng(0).normal(0, 1, (200, 3))
    found = np.argmax(scores + adaptive.offsets, axis=1)
    assert np.array_equal(found, levels_of(scores, routing, effort))
    if 0 < effort < 1:
        assert len(set(found.tolist())) > 1


def test_levels_are_where_the_native_program_has_the_weights(networks):
    _, nested = networks
    levels = nested.places()
    assert set(levels) == set(nested.least)
    for layer in nested.program.the_plan.layers:
        if layer.name in levels:
            value = weights(nested.program)[layer.name]
            own = to_canonical(value, layer.op, layer.groups).numpy()
            assert levels[layer.name].shape == layer.shape
            assert not own[levels[layer.name] == 255].any()
            middle = weights(nested.at(1))[layer.name]
            kept = to_canonical(middle, layer.op, layer.groups).numpy() != 0
            assert np.array_equal(kept, levels[layer.name] <= 1)


def test_what_training_starts_from_is_read_as_it_was_written(networks, tmp_path):
    dense, nested = networks
    checkpoint.write(tmp_path / "start.pt", _pack(nested))
    found = _unpack(dense, checkpoint.read(tmp_path / "start.pt"))
    assert found.plans == nested.plans
    for level in range(nested.count):
        a, b = weights(found.at(level)), weights(nested.at(level))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_parts_of_a_recipe():
    assert _part(Recipe(steps=100), 0.8).steps == 80
    assert _part(Recipe(steps=1), 0.2).steps == 1
    assert _part(Recipe(seconds=60.0), 0.2).seconds == 12
