"""Bicubic resizing against stored low-resolution files, bit for bit, and against its formula."""

import numpy as np
import pytest

from nmcompile.images import read_image
from nmcompile.resize import imresize

RANDOM = np.random.default_rng(0)


def files(data_dir, scale):
    """(clean, low resolution) of the sets that have that scale."""
    sets = ["Set5", "Set14"] + (["BSD100"] if scale == 4 else [])
    for folder in (data_dir / "sr" / name for name in sets):
        low = sorted((folder / f"LR_x{scale}").iterdir())
        high = sorted((folder / "HR").glob("*.*"))
        yield from list(zip(high, low, strict=True))[:14]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_stored_low_resolution_files_come_out_bit_for_bit(data_dir, scale):
    compared = 0
    for clean_path, low_path in files(data_dir, scale):
        clean, low = read_image(clean_path), read_image(low_path)
        assert clean_path.stem == low_path.stem
        clean = clean[: low.shape[0] * scale, : low.shape[1] * scale]
        np.testing.assert_array_equal(imresize(clean, 1 / scale), low, err_msg=low_path.name)
        compared += 1
    assert compared >= 19


def cubic(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def resized_line(line, scale):
    """One output sample at a time, by the definition: every input line, mirrored, weighted."""
    stretch, size, out = min(scale, 1), len(line), []
    for i in range(int(np.ceil(size * scale))):
        centre = (i + 0.5) / scale - 0.5
        reach = range(int(np.floor(centre - 3 / stretch)), int(np.ceil(centre + 3 / stretch)) + 1)
        weights = [cubic(stretch * (centre - j)) for j in reach]
        mirrored = [j % (2 * size) for j in reach]
        values = [line[j if j < size else 2 * size - 1 - j] for j in mirrored]
        out.append(np.dot(weights, values) / sum(weights))
    return np.array(out)


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 0.7, 1.0, 1.5, 2, 3])
def test_every_sample_is_the_weighted_sum_of_its_neighbours(scale):
    image = RANDOM.random((7, 11)) * 255
    columns = np.stack([resized_line(line, scale) for line in image.T], 1)
    expected = np.stack([resized_line(line, scale) for line in columns])
    np.testing.assert_allclose(imresize(image, scale, round_result=False), expected, atol=1e-9)


def test_rounding_clips_after_each_direction():
    image = np.zeros((8, 8), np.uint8)
    image[4:] = 255
    rows = np.stack([resized_line(line, 2) for line in image.T.astype(float)], 1)
    assert rows.min() < -1
    assert rows.max() > 256
    rows = np.clip(np.floor(rows + 0.5), 0, 255)
    expected = np.stack([resized_line(line, 2) for line in rows])
    found = imresize(image, 2)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.clip(np.floor(expected + 0.5), 0, 255))


def test_channels_are_resized_apart():
    image = RANDOM.integers(0, 256, (9, 10, 3), np.uint8)
    planes = [imresize(image[..., c], 0.5) for c in range(3)]
    np.testing.assert_array_equal(imresize(image, 0.5), np.stack(planes, 2))


@pytest.mark.parametrize("scale", [1 / 8, 1 / 7, 1 / 3, 0.5, 2, 4])
def test_a_flat_image_stays_flat_and_sizes_round_up(scale):
    for height, width in ((1, 1), (5, 16), (17, 8)):
        found = imresize(np.full((height, width), 93, np.uint8), scale)
        assert found.shape == (int(np.ceil(height * scale)), int(np.ceil(width * scale)))
        assert (found == 93).all()


@pytest.mark.parametrize("scale", range(2, 9))
def test_whole_multiples_never_gain_a_pixel_by_rounding(scale):
    for size in (scale * n for n in (1, 3, 7, 49, 333, 1021)):
        assert imresize(np.zeros((size, 1)), 1 / scale).shape[0] == size // scale


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf])
def test_a_scale_that_is_no_scale_is_refused(scale):
    with pytest.raises(ValueError, match="positive number"):
        imresize(np.zeros((4, 4)), scale)


def test_an_array_that_is_no_image_is_refused():
    with pytest.raises(ValueError, match="4 dimensions"):
        imresize(np.zeros((1, 4, 4, 3)), 0.5)
