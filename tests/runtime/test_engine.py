"""Small engines + images of every kind -> what the runtime makes of them, tiled and whole."""

import dataclasses
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from nmcompile.engine import MANIFEST, seal
from nmcompile.errors import NmcompileError
from nmcompile.runtime import Engine, load
from nmcompile.runtime.cuts import blend_weights
from tests import engines

TYPES = [np.uint8, np.uint16, np.float32]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "engine"


def picture(height, width, channels, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).random((height, width, channels))
    return values.astype(np.float32) if dtype == np.float32 else scaled(values, dtype)


def scaled(values, dtype):
    return np.floor(values * np.iinfo(dtype).max + 0.5).astype(dtype)


def differing(first, second):
    return np.abs(first.astype(np.float64) - second.astype(np.float64)).max()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tile", [4, 13, 32])
@pytest.mark.parametrize("size", [(29, 45), (64, 20), (7, 3)])
@pytest.mark.parametrize("build", [engines.super_resolution, engines.strided])
def test_tiled_equals_untiled(folder, build, size, tile, dtype):
    engine = load(build(folder), threads=1)
    image = picture(*size, 3, dtype)
    whole, tiled = engine.restore(image), engine.restore(image, tile)
    scale = engine.manifest.scale
    assert whole.shape == tiled.shape == (size[0] * scale, size[1] * scale, 3)
    assert whole.std() > 0
    if dtype == np.float32:
        assert differing(whole, tiled) <= 1e-6
    else:
        np.testing.assert_array_equal(whole, tiled)


@pytest.mark.parametrize("build", [engines.super_resolution, engines.strided])
def test_a_smaller_halo_would_show(folder, build):
    """The test above can fail: a halo that is too small leaves seams."""
    engine = load(build(folder), threads=1)
    blind = Engine(folder, dataclasses.replace(engine.manifest, halo=1), engine._executor)
    image = picture(64, 64, 3)
    assert differing(engine.restore(image, 16), blind.restore(image, 16)) > 0


def test_the_pipeline_is_the_plain_one(folder):
    engine = load(engines.super_resolution(folder))
    image = picture(12, 17, 3)
    tensor = np.ascontiguousarray(np.moveaxis(image, 2, 0)[None]).astype(np.float32) / 255
    expected = np.moveaxis(engine.run(tensor)[0], 0, 2)
    expected = np.floor(np.clip(expected, 0, 1) * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(engine.restore(image), expected)


@pytest.mark.parametrize("size", [(9, 14), (3, 2), (1, 1), (6, 5)])
def test_padding_is_a_mirror_or_a_repeated_edge(folder, size):
    engine = load(engines.strided(folder))
    image = picture(*size, 3, np.float32)
    padded = image
    for axis, length in enumerate(size):
        pad = [(0, 0)] * 3
        pad[axis] = (0, -length % 4)
        padded = np.pad(padded, pad, "reflect" if -length % 4 < length else "edge")
    expected = engine.run(np.ascontiguousarray(np.moveaxis(padded, 2, 0)[None]))
    expected = np.clip(np.moveaxis(expected[0], 0, 2)[: size[0], : size[1]], 0, 1)
    np.testing.assert_allclose(engine.restore(image), expected, atol=1e-6)


@pytest.mark.parametrize("value_range", [1.0, 255.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_grey_level_is_lost(folder, dtype, value_range):
    engine = load(engines.identity(folder, channels=1, value_range=value_range))
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 256, 1)
    np.testing.assert_array_equal(engine.restore(levels), levels)


def test_the_network_gets_its_own_range(folder):
    engine = load(engines.identity(folder, channels=1, value_range=255.0))
    seen = []
    spy = Engine(folder, engine.manifest, lambda inputs: seen.append(inputs) or inputs["image"])
    spy.restore(np.array([[0.0, 0.5, 1.0]], np.float32))
    np.testing.assert_allclose(seen[0]["image"], [[[[0, 127.5, 255]]]], rtol=1e-6)


def test_values_are_clipped_and_rounded_half_up(folder):
    manifest = load(engines.identity(folder, channels=1, value_range=255.0)).manifest
    values = np.array([-3, 0.49, 0.5, 1.5, 2.5, 254.5, 300], np.float32)
    engine = Engine(folder, manifest, lambda _: values[None, None, None])
    found = engine.restore(np.zeros((1, 7), np.uint8))
    np.testing.assert_array_equal(found, [[0, 0, 1, 2, 3, 255, 255]])


@pytest.mark.parametrize("dtype", TYPES)
def test_grey_through_a_colour_network_is_the_mean_of_three(folder, dtype):
    engine = load(engines.super_resolution(folder))
    image = picture(10, 11, 1, np.float32)
    expected = np.moveaxis(engine.run(np.repeat(image.reshape(1, 1, 10, 11), 3, 1))[0], 0, 2)
    expected = np.clip(expected.mean(2, keepdims=True), 0, 1)
    given = image if dtype == np.float32 else scaled(image, dtype)
    found = engine.restore(given)
    assert found.dtype == dtype
    assert found.shape == (20, 22, 1)
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    np.testing.assert_allclose(found / largest, expected, atol=1.0 / 255 if largest > 1 else 1e-6)


def test_colour_through_a_grey_network_goes_channel_by_channel(folder):
    engine = load(engines.grey(folder))
    image = picture(14, 9, 3)
    found = engine.restore(image, 5)
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], engine.restore(image[..., channel]))
    assert (found[..., 0] != found[..., 1]).any()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_kept_beside_the_colours(folder, channels, dtype):
    engine = load(engines.strided(folder))
    image = picture(10, 6, channels, dtype)
    found = engine.restore(image)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., -1], image[..., -1])
    np.testing.assert_array_equal(found[..., :-1], engine.restore(image[..., :-1]))


def test_alpha_is_enlarged_linearly(folder):
    engine = load(engines.super_resolution(folder))
    image = np.zeros((2, 3, 4), np.uint8)
    image[..., 3] = [[0, 100, 100], [0, 100, 100]]
    alpha = engine.restore(image)[..., 3]
    np.testing.assert_array_equal(alpha, [[0, 25, 75, 100, 100, 100]] * 4)


def test_height_x_width_in_gives_height_x_width_out(folder):
    engine = load(engines.grey(folder))
    image = picture(8, 9, 1)
    np.testing.assert_array_equal(engine.restore(image[..., 0]), engine.restore(image)[..., 0])


def test_an_image_is_not_altered(folder):
    engine = load(engines.identity(folder))
    image = picture(5, 5, 3, np.float32)
    before = image.copy()
    engine.restore(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [(70, 90), (33, 20)])
def test_a_whole_image_network_is_blended_only_when_asked(folder, size):
    engine = load(engines.whole_image(folder), threads=1)
    image = picture(*size, 3, np.float32) ** np.linspace(0.5, 3, size[1], dtype=np.float32)[:, None]
    told: list[str] = []
    whole = engine.restore(image, warn=told.append)
    assert told == []
    tiled = engine.restore(image, 32, warn=told.append)
    assert len(told) == 1
    assert "GlobalAveragePool" in told[0]
    assert differing(whole, tiled) > 1e-3
    np.testing.assert_allclose(tiled, blended(engine, image, 32), atol=1e-6)


def blended(engine, image, tile):
    """The slow plain reference: every window weighted into one floating-point image."""
    plan = engine.plan(*image.shape[:2], tile)
    result = np.zeros(image.shape)
    for row, row_weights in zip(plan.rows, blend_weights(plan.rows, 1), strict=True):
        for column, weights in zip(plan.columns, blend_weights(plan.columns, 1), strict=True):
            window = image[row.window.slice, column.window.slice]
            values = engine.run(np.ascontiguousarray(np.moveaxis(window, 2, 0)[None]))
            weighted = np.moveaxis(values[0], 0, 2) * np.outer(row_weights, weights)[..., None]
            result[row.window.slice, column.window.slice] += weighted
    return np.clip(result, 0, 1)


@pytest.mark.parametrize("halo", [None, 3, 16])
@pytest.mark.parametrize("size", [(20, 32), (32, 33), (75, 50)])
def test_a_fixed_size_network_sees_only_that_size(folder, size, halo):
    manifest = dataclasses.replace(engines.PLAIN, fixed_size=(32, 32), halo=halo, scale=2)
    seen = set()

    def enlarge(inputs):
        seen.add(inputs["image"].shape)
        return np.repeat(np.repeat(inputs["image"], 2, 2), 2, 3)

    image = picture(*size, 3)
    found = Engine(folder, manifest, enlarge).restore(image, warn=lambda _: None)
    assert seen == {(1, 3, 32, 32)}
    np.testing.assert_array_equal(found, np.repeat(np.repeat(image, 2, 0), 2, 1))


def test_tiles_bound_the_memory(folder):
    largest = 0

    def same(inputs):
        nonlocal largest
        largest = max(largest, inputs["image"].size)
        return inputs["image"]

    manifest = dataclasses.replace(engines.PLAIN, channels=1, halo=10)
    image = picture(2000, 2000, 1)
    tracemalloc.start()
    try:
        found = Engine(folder, manifest, same).restore(image, 200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, image)
    assert largest <= 220 * 220
    assert peak < image.nbytes + 4 * 220 * 220 * 10  # the result and a few windows of floats


def test_progress_counts_every_tile(folder):
    engine = load(engines.grey(folder))
    told: list[tuple[int, int]] = []
    engine.restore(picture(20, 20, 3), 10, progress=lambda *count: told.append(count))
    assert told == [(number, 12) for number in range(1, 13)]


@pytest.mark.parametrize("shape", [(0, 1, "H", "W"), (0, 1, 1, 1), (1,)])
def test_a_further_input_is_filled_tile_by_tile(folder, shape):
    engine = load(engines.noise_level(folder, shape))
    image = np.full((10, 12), 0.5, np.float32)
    np.testing.assert_allclose(engine.restore(image, 4), 0.75, atol=1e-6)
    np.testing.assert_allclose(engine.restore(image, extras={"sigma": 0.1}), 0.6, atol=1e-6)


def test_run_takes_a_whole_further_input(folder):
    engine = load(engines.noise_level(folder, (0, 1, "H", "W")))
    x = np.zeros((2, 1, 3, 4), np.float32)
    sigma = np.random.default_rng(0).random(x.shape).astype(np.float32)
    np.testing.assert_array_equal(engine.run(x, sigma=sigma), sigma)
    np.testing.assert_array_equal(engine.run(x, sigma=2), np.full(x.shape, 2))
    with pytest.raises(NmcompileError, match="sigma has shape"):
        engine.run(x, sigma=sigma[:1])
    with pytest.raises(NmcompileError, match=r"no further input 'noise'; it has sigma"):
        engine.run(x, noise=1)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((1, 3, 8, 8)), "float64"),
        (np.zeros((3, 8, 8), np.float32), r"\(3, 8, 8\)"),
        (np.zeros((1, 1, 8, 8), np.float32), "1 channels"),
        (np.zeros((1, 3, 8, 4), np.float32), "8x8 or more"),
        (np.zeros((1, 3, 8, 10), np.float32), "multiples of 4"),
    ],
)
def test_run_says_what_the_network_does_not_take(folder, x, said):
    with pytest.raises(NmcompileError, match=said):
        load(engines.strided(folder, minimum=8)).run(x)


def test_run_says_the_one_size_it_takes(folder):
    with pytest.raises(NmcompileError, match="32x48 only"):
        load(engines.identity(folder, fixed_size=(32, 48))).run(np.zeros((1, 3, 32, 32), "f"))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 3)), "float64"),
        (np.zeros((8, 8, 5), np.uint8), r"\(8, 8, 5\)"),
        (np.zeros(8, np.uint8), r"\(8,\)"),
        (np.zeros((0, 8), np.uint8), "empty"),
        (np.zeros((7, 40), np.uint8), "at least 12x12"),
    ],
)
def test_restore_says_what_it_does_not_take(folder, image, said):
    with pytest.raises(NmcompileError, match=said):
        load(engines.strided(folder, minimum=12)).restore(image)


def test_restore_says_an_unknown_name(folder):
    with pytest.raises(NmcompileError, match="none besides the image"):
        load(engines.identity(folder)).restore(np.zeros((8, 8), np.uint8), extras={"sigma": 1.0})


@pytest.mark.parametrize("part", ["model.onnx", "receipt.json"])
def test_a_flipped_byte_is_found(folder, part):
    engines.identity(folder)
    data = bytearray((folder / part).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / part).write_bytes(data)
    with pytest.raises(NmcompileError, match=f"{part} is not what was written"):
        load(folder)


def test_a_model_that_is_none_is_said_in_one_line(folder):
    engines.identity(folder)
    (folder / "model.onnx").write_bytes(b"\x08\x09not a model at all")
    with pytest.raises(NmcompileError, match=r"model\.onnx cannot be run") as caught:
        load(folder, check_parts=False)
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_said(folder):
    engines.identity(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(NmcompileError, match=r"model\.onnx is missing"):
        load(folder)
    with pytest.raises(NmcompileError, match="cannot be run"):
        load(folder, check_parts=False)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("version", 99, "version 99"), ("executor", "abacus", "'abacus'")],
)
def test_an_engine_from_the_future_is_said(folder, key, value, said):
    engines.identity(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(NmcompileError, match=said):
        load(folder)


def test_a_manifest_that_does_not_fit_the_model_is_said(folder):
    engine = load(engines.identity(folder))
    seal(folder, dataclasses.replace(engine.manifest, scale=2))
    with pytest.raises(NmcompileError, match="compile the engine again"):
        load(folder).restore(np.zeros((8, 8), np.uint8))


def test_a_folder_that_is_no_engine_is_said(tmp_path):
    with pytest.raises(NmcompileError, match="not an engine"):
        load(tmp_path)


def test_no_threads_are_impossible(folder):
    with pytest.raises(NmcompileError, match="0 threads"):
        load(engines.identity(folder), threads=0)


def test_importing_and_running_leave_torch_out(folder):
    engines.identity(folder)
    code = (
        "import sys; import nmcompile.runtime as runtime\n"
        "assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules), 'import is not lean'\n"
        "import numpy as np\n"
        f"runtime.load({str(folder)!r}).restore(np.zeros((8, 8, 3), np.uint8))\n"
        "assert 'onnxruntime' in sys.modules\n"
        "assert 'torch' not in sys.modules, 'running imports torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
