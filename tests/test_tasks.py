"""Text -> tasks, and the inputs that a task makes, by the formulas of the standard protocol."""

import io

import numpy as np
import pytest
from PIL import Image

from nmcompile.errors import NmcompileError
from nmcompile.resize import imresize
from nmcompile.tasks import Task, as_channels, luma, to_bytes

RANDOM = np.random.default_rng(0)


def picture(height=24, width=36, channels=3):
    return RANDOM.integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("text", ["sr:2", "sr:8", "denoise:25", "jpeg:10", "deblur"])
def test_text_and_task_are_each_other(text):
    assert str(Task.parse(text)) == text


@pytest.mark.parametrize("text", ["", "sharpen", "sr4", "denoise:2.5", "SR:4", "sr:-2", "sr:4:2"])
def test_what_is_no_task_is_said(text):
    with pytest.raises(NmcompileError, match="unknown task") as caught:
        Task.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["sr", "sr:1", "sr:9", "denoise:0", "denoise:101", "jpeg:0"])
def test_a_value_out_of_range_is_said(text):
    with pytest.raises(NmcompileError, match=r"expected \w+:N, the .+, \d+\.\.\d+"):
        Task.parse(text)


def test_a_task_without_a_value_takes_none():
    with pytest.raises(NmcompileError, match="expected deblur alone"):
        Task.parse("deblur:3")


def test_only_super_resolution_enlarges_and_is_judged_on_luma_inside_a_border():
    four = Task.parse("sr:4")
    assert (four.scale, four.border, four.on_luma) == (4, 4, True)
    for text in ("denoise:25", "jpeg:10", "deblur"):
        task = Task.parse(text)
        assert (task.scale, task.border, task.on_luma) == (1, 0, False)


def test_low_resolution_is_the_8_bit_bicubic_one():
    clean = picture()
    expected = imresize(clean, 1 / 3).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(Task.parse("sr:3").degrade(clean, 5), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_seeded_by_the_place_in_the_set_and_not_clipped(channels):
    clean = np.zeros((32, 40, channels), np.uint8)
    noise = np.random.default_rng(3).standard_normal((32, 40, channels)) * 25 / 255
    made = Task.parse("denoise:25").degrade(clean, 3)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, noise.astype(np.float32))
    assert made.min() < 0
    assert (made != Task.parse("denoise:25").degrade(clean, 4)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillow_s(channels):
    clean = picture(channels=channels)
    stream = io.BytesIO()
    Image.fromarray(clean.squeeze()).save(stream, "JPEG", quality=20)
    expected = np.asarray(Image.open(stream)).reshape(clean.shape) / np.float32(255)
    np.testing.assert_array_equal(Task.parse("jpeg:20").degrade(clean, 0), expected)


def test_motion_blur_smooths_in_one_direction_and_keeps_the_mean():
    clean = np.full((64, 64, 1), 40, np.uint8)
    clean[:, 32] = 240
    along_x = Task.parse("deblur").degrade(clean, 0) * 255  # index 0: a horizontal motion
    assert along_x.shape == clean.shape
    assert along_x[:, 32].max() < 60
    assert abs(along_x.mean() - clean.mean()) < 0.5
    flat = np.full((20, 20, 3), 77, np.uint8)
    np.testing.assert_allclose(Task.parse("deblur").degrade(flat, 1) * 255, 77, atol=1e-4)


def test_luma_runs_from_16_to_235():
    np.testing.assert_allclose(luma(np.zeros((1, 1, 3))), 16)
    np.testing.assert_allclose(luma(np.full((1, 1, 3), 255)), 235)
    pixel = np.array([[[200, 100, 50]]], np.uint8)
    expected = 16 + (65.481 * 200 + 128.553 * 100 + 24.966 * 50) / 255
    np.testing.assert_allclose(luma(pixel), expected, rtol=1e-12)


def test_bytes_are_clipped_and_rounded_half_up():
    unit = np.array([-1, 0, 0.49 / 255, 0.5 / 255, 254.5 / 255, 1, 2], np.float64)
    np.testing.assert_array_equal(to_bytes(unit), [0, 0, 0, 1, 255, 255, 255])
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_bytes(levels.astype(np.float32) / np.float32(255)), levels)


@pytest.mark.parametrize("given", [1, 2, 3, 4])
def test_a_picture_gets_the_channels_wanted(given):
    image = picture(channels=given)
    colour, grey = as_channels(image, 3), as_channels(image, 1)
    assert (colour.shape, grey.shape) == ((24, 36, 3), (24, 36, 1))
    if given < 3:
        np.testing.assert_array_equal(colour, np.repeat(image[..., :1], 3, 2))
        np.testing.assert_array_equal(grey, image[..., :1])
    else:
        np.testing.assert_array_equal(colour, image[..., :3])
        expected = image[..., :3] @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(grey[..., 0], expected, atol=1)
