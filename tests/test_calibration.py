"""Images -> crops and validation images that share no pixel, of sizes that the network takes."""

import numpy as np
import pytest
import torch

from nmcompile.calibration import CROP, calibrate, check_task
from nmcompile.data import Source
from nmcompile.errors import NmcompileError
from nmcompile.images import write_image
from nmcompile.tasks import Task
from tests.networks import bare_interface

JPEG, SR2 = Task("jpeg", 100), Task("sr", 2)
GREY = bare_interface(channels=1)


def source(folder, count, height=70, width=90):
    """Images, each of one grey level of its own: a crop tells where it is from."""
    for number in range(count):
        level = np.full((height, width, 1), 10 + 7 * number, np.uint8)
        write_image(folder / f"{number:02d}.png", level)
    return Source.folder(folder)


def levels(values):
    return {int(level) for level in np.unique(np.asarray(values))}


@pytest.mark.parametrize(("task", "scale"), [(JPEG, 1), (SR2, 2), (SR2, 1)])
def test_a_scale_that_fits_the_task_passes(task, scale):
    check_task(task, scale)


@pytest.mark.parametrize(("task", "scale"), [(JPEG, 2), (SR2, 4), (Task("sr", 4), 2)])
def test_a_scale_that_does_not_fit_is_said(task, scale):
    with pytest.raises(NmcompileError, match=f"use --task sr:{scale}$"):
        check_task(task, scale)


def test_every_third_image_is_for_validation_alone(tmp_path):
    found = calibrate(source(tmp_path, 7), JPEG, GREY, crops=12)
    assert found.crops.shape == (12, 1, CROP, CROP)
    assert levels((found.crops * 255).round()) == {17, 24, 38, 45}
    assert [sample.name for sample in found.validation] == ["00", "03", "06"]


@pytest.mark.parametrize("count", [1, 2])
def test_of_few_images_the_right_third_is_for_validation(tmp_path, count):
    for number in range(count):
        image = np.zeros((60, 90, 1), np.uint8)
        image[:, 60:] = 200
        write_image(tmp_path / f"{number}.png", image)
    found = calibrate(Source.folder(tmp_path), Task("denoise", 1), GREY, crops=4)
    assert found.crops.max() < 0.1
    assert len(found.validation) == count
    for sample in found.validation:
        assert levels(sample.clean) == {200}
        assert sample.clean.shape == (60, 30, 1)


def test_the_same_seed_cuts_the_same_crops(tmp_path):
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (60, 64, 1), np.uint8)
        write_image(tmp_path / f"{number}.png", image)
    images = Source.folder(tmp_path)
    first, again, other = (
        calibrate(images, JPEG, GREY, crops=5, seed=seed).crops for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_are_in_the_network_s_range(tmp_path):
    found = calibrate(source(tmp_path, 3), JPEG, bare_interface(channels=1, value_range=255.0), 4)
    assert levels(found.crops.round()) == {17, 24}
    assert found.validation[0].degraded.max() <= 1


def test_crops_and_validation_have_sizes_that_the_network_takes(tmp_path):
    awkward = bare_interface(channels=1, multiple=7, minimum=56)
    found = calibrate(source(tmp_path, 3, 73, 85), JPEG, awkward, crops=2)
    assert found.crops.shape[2:] == (56, 56)
    assert found.validation[0].degraded.shape == (70, 84, 1)


def test_a_network_of_one_size_gets_that_size(tmp_path):
    fixed = bare_interface(channels=1, fixed_size=(60, 40))
    found = calibrate(source(tmp_path, 3, 66, 50), JPEG, fixed, crops=2)
    assert found.crops.shape[2:] == (60, 40)
    assert found.validation[0].degraded.shape == (60, 40, 1)
    assert found.validation[0].clean.shape == (60, 40, 1)


def test_validation_images_are_the_middle_at_most_160_pixels_large(tmp_path):
    image = np.zeros((200, 210, 1), np.uint8)
    image[20:180, 25:185] = 100
    for name in "abc":
        write_image(tmp_path / f"{name}.png", image)
    (sample,) = calibrate(Source.folder(tmp_path), Task("denoise", 1), GREY, 2).validation
    assert levels(sample.clean) == {100}
    assert sample.clean.shape == sample.degraded.shape == (160, 160, 1)


def test_a_network_that_needs_more_gets_larger_validation_images(tmp_path):
    large = bare_interface(channels=1, minimum=192)
    found = calibrate(source(tmp_path, 3, 200, 200), JPEG, large, crops=2)
    assert found.validation[0].degraded.shape == (192, 192, 1)


def test_clean_and_degraded_stay_in_step(tmp_path):
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (120, 140, 3), np.uint8)
        write_image(tmp_path / f"{number}.png", image)
    enlarging = bare_interface(scale=2)
    found = calibrate(Source.folder(tmp_path), SR2, enlarging, crops=3)
    (sample,) = found.validation
    assert sample.clean.shape == (2 * sample.degraded.shape[0], 2 * sample.degraded.shape[1], 3)
    again = SR2.degrade(sample.clean, 0)
    np.testing.assert_allclose(again[4:-4, 4:-4], sample.degraded[4:-4, 4:-4], atol=1e-6)


def test_small_images_are_left_out_where_others_are_large_enough(tmp_path):
    for name, side in zip("abcdef", (70, 40, 70, 20, 70, 70), strict=True):
        write_image(tmp_path / f"{name}.png", np.full((side, side, 1), side, np.uint8))
    found = calibrate(Source.folder(tmp_path), JPEG, bare_interface(channels=1, minimum=32), 4)
    assert levels((found.crops * 255).round()) == {70}
    assert [sample.name for sample in found.validation] == ["a"]


@pytest.mark.parametrize("size", [(47, 300), (300, 47)])
@pytest.mark.parametrize("changes", [{}, {"fixed_size": (48, 48)}, {"multiple": 48}], ids=str)
def test_images_that_are_all_too_small_are_said(tmp_path, size, changes):
    too_small = bare_interface(channels=1, **changes)
    with pytest.raises(NmcompileError, match=f"{size[0]}x{size[1]}, a crop needs 48x48"):
        calibrate(source(tmp_path, 3, *size), JPEG, too_small)


def test_a_validation_part_that_is_too_small_is_said(tmp_path):
    narrow = bare_interface(channels=1, minimum=40)
    with pytest.raises(NmcompileError, match="too small"):
        calibrate(source(tmp_path, 1, 60, 90), JPEG, narrow)


def test_no_more_images_are_read_than_are_needed(tmp_path):
    few = source(tmp_path, 3)
    many = Source((*few.clean * 10, tmp_path / "not there.png"))
    assert calibrate(many, JPEG, GREY, crops=12).crops.shape[0] == 12
    with pytest.raises(NmcompileError, match="not there"):
        calibrate(many, JPEG, GREY, crops=64)
