"""Engines and samples -> the map of levels that the report shows?"""

import numpy as np
import pytest

from nmcompile.data import Sample
from nmcompile.runtime import load
from nmcompile.showcase import chosen_levels
from tests import engines, routed


def test_the_sample_of_most_levels_is_shown(tmp_path):
    engine = load(routed.native(tmp_path / "engine"))
    flat, mixed = np.full((64, 90, 3), 0.5, np.float32), routed.picture(64, 120)
    samples = [Sample("flat", flat, flat), Sample("mixed", mixed, mixed)]
    found = chosen_levels(engine, samples)
    assert found is not None
    assert found.name == "mixed"
    assert found.picture.shape[2] == 3
    assert min(found.shares) > 0
    assert sum(found.shares) == pytest.approx(1)


def test_an_engine_of_one_level_has_none(tmp_path):
    image = routed.picture(8, 8)
    samples = [Sample("image", image, image)]
    assert chosen_levels(load(engines.identity(tmp_path / "engine")), samples) is None
