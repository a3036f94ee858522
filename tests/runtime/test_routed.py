"""Routed engines made here -> the levels their head asks for, restored without a seam?"""

import dataclasses
import json

import numpy as np
import pytest

from nmcompile.engine import MANIFEST
from nmcompile.errors import NmcompileError
from nmcompile.runtime import load
from tests import engines, routed

SIZES = ((95, 141), (31, 200), (200, 17), (5, 7), (64, 64))


def restored(engine, image, **more):
    """The result and what was chosen."""
    told = []
    result = engine.restore(image, told=told.append, **more)
    (routes,) = told
    assert result.shape[:2] == tuple(n * engine.manifest.scale for n in image.shape[:2])
    assert routes.levels.shape == image.shape[:2]
    assert sum(routes.shares) == pytest.approx(1)
    return result, routes


@pytest.mark.parametrize("by", ["tile", "image"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_ends_of_effort_are_a_level_bit_for_bit(tmp_path, by, size):
    engine, image = load(routed.native(tmp_path / "e", scale=2, by=by)), routed.picture(*size)
    for effort, level in (("min", 0), ("max", 2), (0, 0), (1.0, 2)):
        found, routes = restored(engine, image, effort=effort)
        np.testing.assert_array_equal(found, engine.at(level).restore(image))
        assert (routes.levels == level).all()
        assert routes.macs == pytest.approx(routed.ROUTING.costs[level])


def test_an_image_goes_through_the_level_it_asks_for(tmp_path):
    engine = load(routed.native(tmp_path / "e", by="image"))
    thirds = np.split(routed.picture(48, 120), 3, axis=1)
    for level, image in enumerate(thirds):
        found, routes = restored(engine, image)
        np.testing.assert_array_equal(found, engine.at(level).restore(image))
        assert (routes.levels == level).all()
        assert routes.macs == pytest.approx(routed.ROUTING.costs[level] + 0.005)


def test_each_image_of_a_batch_goes_through_its_level(tmp_path):
    engine = load(routed.native(tmp_path / "e"))
    batch = np.stack(np.split(routed.picture(48, 120).transpose(2, 0, 1), 3, axis=2))
    found = engine.run(batch)
    for level, image in enumerate(batch):
        np.testing.assert_array_equal(found[level], engine.at(level).run(image[None])[0])
    np.testing.assert_array_equal(engine.run(batch, effort="max"), engine.at(2).run(batch))
    assert engine.run(batch[:0]).shape == (0, 3, 48, 40)


def test_any_number_of_threads_gives_the_same_bits(tmp_path):
    folder, image = routed.native(tmp_path / "e", scale=2), routed.picture(150, 240)
    image[:70] = image[:70, ::-1]
    one, *others = (restored(load(folder, threads), image)[0] for threads in (1, 2, 3))
    for other in others:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tiles_go_through_the_levels_they_ask_for(tmp_path, threads):
    engine, image = load(routed.native(tmp_path / "e", scale=2), threads), routed.picture(95, 240)
    found, routes = restored(engine, image)
    assert min(routes.shares) > 0.2
    assert (np.diff(routes.levels.astype(int), axis=1) >= 0).all()
    near = np.zeros(image.shape[:2], bool)
    for edge in np.flatnonzero(np.diff(routes.levels[0])):
        near[:, edge - 1 : edge + 3] = True  # half the overlap is blended
    for level in range(3):
        whole = engine.at(level).restore(image)
        inside = np.kron((routes.levels == level) & ~near, np.ones((2, 2), bool))
        np.testing.assert_allclose(found[inside], whole[inside], rtol=0, atol=1e-6)
        assert np.abs(found - whole).max() > 1e-3


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_no_seam_where_levels_are_equal(tmp_path, size, dtype):
    """Where windows reach 3 pixels beyond what is blended, nothing tells the borders of areas."""
    engine = load(routed.native(tmp_path / "e", scale=2, same=True))
    image = routed.picture(*size)
    image = image if dtype is np.float32 else (image * 255).astype(dtype)
    found, _ = restored(engine, image)
    whole = engine.at(2).restore(image)
    if dtype is np.uint8:
        assert (found != whole).mean() < 1e-4  # a tie that is rounded the other way
    else:
        np.testing.assert_allclose(found, whole, rtol=0, atol=2e-6)


def test_what_was_run_is_counted(tmp_path):
    """One row of two cells, flat and rough: both windows, the overlap twice, and the head's."""
    folder = routed.native(tmp_path / "e", tile=64)
    image = routed.picture(20, 144)[:, 32:]
    image[:, :64] = 0.5
    _, routes = restored(load(folder), image)
    assert routes.shares == (0.5, 0.0, 0.5)
    seen = 2 * 64 * 64 * 0.005
    assert routes.macs == pytest.approx((20 * 60 * (0.3 + 1.0) + seen) / (20 * 112))


def test_a_large_image_has_larger_windows(tmp_path):
    """48 instead of 32, 40 of them apart: 18 by 32."""
    engine = load(routed.native(tmp_path / "e"))
    image = np.zeros((720, 1280, 3), np.float32)
    _, routes = restored(engine, image)
    assert routes.shares == (1, 0, 0)
    assert routes.macs == pytest.approx(0.3 + 18 * 32 * 48**2 * 0.005 / (720 * 1280))


def test_a_large_image_is_run_in_tiles_of_its_own_for_memory(tmp_path):
    engine = load(routed.native(tmp_path / "e", same=True, times=(0.05, 0.1, 1.0)))
    image = routed.picture(95, 141)
    found, routes = restored(engine, image, tile=60)
    np.testing.assert_allclose(found, engine.at(2).restore(image), rtol=0, atol=2e-6)
    assert len(np.unique(routes.levels)) > 1


def test_levels_that_save_less_than_overlap_takes_are_not_mixed(tmp_path):
    engine = load(routed.native(tmp_path / "e", times=(0.97, 0.98, 1.0)))
    image = routed.picture(95, 141)
    found, routes = restored(engine, image)
    np.testing.assert_array_equal(found, engine.at(2).restore(image))
    assert routes.shares == (0, 0, 1)
    assert routes.macs == pytest.approx(1 + 0.005 * 24 * 32 * 32 / image[..., 0].size)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_and_alpha(tmp_path, channels):
    engine = load(routed.native(tmp_path / "e", same=True))
    image = routed.picture(40, 90, channels)
    found, _ = restored(engine, image)
    np.testing.assert_allclose(found, engine.at(2).restore(image), rtol=0, atol=2e-6)


def test_colour_through_a_grey_network(tmp_path):
    engine = load(routed.native(tmp_path / "e", channels=1, same=True))
    image = routed.picture(40, 90)
    image[:, 60:, 1] = 0.5
    found, routes = restored(engine, image)
    np.testing.assert_allclose(found, engine.at(2).restore(image), rtol=0, atol=2e-6)
    assert (routes.levels[:, 75:] == 2).all()
    assert routes.macs < 1.5


@pytest.mark.parametrize("sizes", [{"multiple": 4, "minimum": 24}, {"fixed_size": (32, 32)}])
def test_multiples_and_a_fixed_size_are_kept(tmp_path, sizes):
    engine = load(routed.native(tmp_path / "e", same=True, **sizes))
    shapes, at = [], engine._routed.at

    def spy(inputs, *more):
        shapes.append(inputs["image"].shape[2:])
        return at(inputs, *more)

    engine._routed.at = spy
    image = routed.picture(50, 101)
    found, _ = restored(engine, image)
    assert len(shapes) >= 3
    assert all(h % 4 == w % 4 == 0 and min(h, w) >= 24 for h, w in shapes)
    assert "multiple" in sizes or set(shapes) == {(32, 32)}
    np.testing.assert_allclose(found, engine.at(2).restore(image), rtol=0, atol=2e-6)


def test_routing_by_the_other_thing(tmp_path):
    image = routed.picture(100, 300)
    engine = load(routed.native(tmp_path / "e", scale=2, by="image", tile=0, overlap=0))
    assert len(np.unique(restored(engine, image)[1].levels)) == 1
    assert len(np.unique(restored(engine, image, route_by="tile")[1].levels)) == 3
    with pytest.raises(NmcompileError, match="routing by 'pixel': expected tile or image"):
        engine.restore(image, route_by="pixel")


def test_more_effort_takes_more(tmp_path):
    engine, image = load(routed.native(tmp_path / "e")), routed.picture(96, 200)
    spent = [restored(engine, image, effort=effort)[1].macs for effort in (0.2, 0.5, 0.8)]
    assert spent[0] < spent[1] < spent[2]


def test_onnx_runtime(tmp_path):
    engine, image = load(routed.portable(tmp_path / "e")), routed.picture(64, 120) / 2
    found, routes = restored(engine, image)
    assert min(routes.shares) > 0.2
    for level in (0, 1):
        far = routes.levels == level
        far[:, 1:-1] &= far[:, 2:] & far[:, :-2]
        far[:, 2:-2] &= far[:, 4:] & far[:, :-4]
        np.testing.assert_allclose(found[far], (level + 1) * image[far], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(engine.at(level).restore(image), (level + 1) * image)
    batch = np.stack([image[:40, :40], image[:40, 80:]]).transpose(0, 3, 1, 2).copy()
    twice, gains = (np.float32(x)[:, None, None, None] for x in ([1, 2], [0.5, 2]))
    np.testing.assert_array_equal(engine.run(batch), batch * twice)
    np.testing.assert_array_equal(engine.at(1).run(batch), 2 * batch)
    louder = restored(engine, image, extras={"gain": 0.5})[0]
    np.testing.assert_array_equal(louder, found / 2)
    np.testing.assert_array_equal(engine.run(batch, gain=gains), batch * twice * gains)


def test_an_engine_of_one_level_has_no_effort(tmp_path):
    engine, image = load(engines.identity(tmp_path / "e")), routed.picture(8, 8)
    for more in ({"effort": 1}, {"route_by": "tile"}):
        with pytest.raises(NmcompileError, match="is not input-adaptive"):
            engine.restore(image, **more)
    with pytest.raises(NmcompileError, match="is not input-adaptive"):
        engine.run(image.transpose(2, 0, 1)[None].copy(), effort=0.5)
    with pytest.raises(NmcompileError, match="has 0 levels, there is no level 0"):
        engine.at(0)


def test_no_such_level_or_effort(tmp_path):
    engine = load(routed.native(tmp_path / "e"))
    with pytest.raises(NmcompileError, match="has 3 levels, there is no level 3"):
        engine.at(3)
    with pytest.raises(NmcompileError, match="effort 2: expected a number from 0 to 1"):
        engine.restore(routed.picture(8, 8), effort=2)


TWO = {"costs": [0.3, 1.0], "times": [0.3, 1.0]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"executor": "regions"}, "routes in native and onnxruntime engines"),
        (
            {
                "routing": dataclasses.asdict(routed.ROUTING)
                | {"costs": [0.3, 1.0], "times": [0.3, 1.0]}
            },
            "has 3 levels",
        ),
    ],
)
def test_what_cannot_be_routed(tmp_path, change, said):
    folder = routed.native(tmp_path / "e")
    manifest = json.loads((folder / MANIFEST).read_text()) | change
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(NmcompileError, match=said):
        load(folder)
