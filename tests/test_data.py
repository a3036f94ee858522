"""Folders of images -> samples: which are paired, what a network sees, what it is judged by."""

import numpy as np
import pytest

from nmcompile.data import Source
from nmcompile.errors import NmcompileError
from nmcompile.images import write_image
from nmcompile.resize import imresize
from nmcompile.tasks import Task, luma

RANDOM = np.random.default_rng(0)
SR2, DENOISE = Task("sr", 2), Task("denoise", 25)


def picture(height, width, channels=3, dtype=np.uint8):
    return RANDOM.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype)


def folder(path, **images):
    """A folder of images; a name of two underscores stands for a dot before its ending."""
    path.mkdir()
    for name, image in images.items():
        write_image(path / (name.replace("__", ".") if "__" in name else f"{name}.png"), image)
    return path


def only(source, task, channels=3, scale=1):
    (sample,) = source.samples(task, channels, scale)
    return sample


def test_clean_images_are_degraded_by_the_task_in_the_order_of_their_names(tmp_path):
    images = {name: picture(9, 8) for name in ("b", "a", "c")}
    samples = list(Source.folder(folder(tmp_path / "x", **images)).samples(DENOISE, 3, 1))
    assert [sample.name for sample in samples] == ["a", "b", "c"]
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.clean, images[sample.name])
        np.testing.assert_array_equal(sample.degraded, DENOISE.degrade(images[sample.name], index))


def test_super_resolution_cuts_the_clean_image_to_whole_multiples_first(tmp_path):
    clean = picture(13, 15)
    sample = only(Source.folder(folder(tmp_path / "x", one=clean)), SR2, scale=2)
    np.testing.assert_array_equal(sample.clean, clean[:12, :14])
    expected = imresize(clean[:12, :14], 0.5).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(sample.degraded, expected)


def test_stored_pairs_are_used_as_they_are_and_the_clean_cut_top_left(tmp_path):
    low, high = picture(6, 7), picture(14, 15)
    source = Source.pairs(folder(tmp_path / "l", one=low), folder(tmp_path / "h", one=high))
    sample = only(source, SR2, scale=2)
    np.testing.assert_array_equal(sample.degraded, low / np.float32(255))
    np.testing.assert_array_equal(sample.clean, high[:12, :14])


def test_pairs_are_found_under_the_names_that_sets_use(tmp_path):
    low = folder(tmp_path / "l", birdx2=picture(4, 4), img_SRF_2_LR=picture(4, 4), z=picture(4, 4))
    high = folder(tmp_path / "h", bird=picture(8, 8), img_SRF_2_HR=picture(8, 8), z=picture(8, 8))
    source = Source.pairs(low, high)
    assert [p.stem for p in source.clean] == ["bird", "img_SRF_2_HR", "z"]
    assert [p.stem for p in source.degraded] == ["birdx2", "img_SRF_2_LR", "z"]


def test_an_image_without_its_pair_is_named(tmp_path):
    low = folder(tmp_path / "l", a=picture(4, 4), b=picture(4, 4))
    high = folder(tmp_path / "h", a=picture(8, 8))
    with pytest.raises(NmcompileError, match=r"l has an image 'b' that .*h lacks"):
        Source.pairs(low, high)


def test_two_images_for_one_pair_are_named(tmp_path):
    low = folder(tmp_path / "l", ax2=picture(4, 4), ax4=picture(2, 2))
    high = folder(tmp_path / "h", a=picture(8, 8))
    with pytest.raises(NmcompileError, match=r"ax2\.png and ax4\.png, which pair with the same"):
        Source.pairs(low, high)


def test_images_that_differ_in_their_ending_only_keep_their_own_names(tmp_path):
    source = Source.folder(folder(tmp_path / "x", a=picture(4, 4), a__bmp=picture(4, 4)))
    names = [sample.name for sample in source.samples(DENOISE, 3, 1)]
    assert names == ["a.bmp", "a.png"]


@pytest.mark.parametrize("high", [(11, 14), (12, 13), (40, 14)])
def test_pairs_of_another_scale_are_refused(tmp_path, high):
    low = folder(tmp_path / "l", one=picture(6, 7))
    source = Source.pairs(low, folder(tmp_path / "h", one=picture(*high)))
    with pytest.raises(NmcompileError, match=f"is {high[0]}x{high[1]}; its degraded image"):
        only(source, SR2, scale=2)


def test_a_grey_network_denoises_grey(tmp_path):
    sample = only(Source.folder(folder(tmp_path / "x", one=picture(8, 9))), DENOISE, channels=1)
    assert sample.clean.shape == sample.degraded.shape == (8, 9, 1)


def test_a_grey_network_enlarges_luma_and_is_judged_in_colour(tmp_path):
    low, high = picture(6, 7), picture(12, 14)
    source = Source.pairs(folder(tmp_path / "l", one=low), folder(tmp_path / "h", one=high))
    sample = only(source, SR2, channels=1, scale=2)
    np.testing.assert_allclose(sample.degraded[..., 0], luma(low) / 255, atol=1e-6)
    assert sample.clean.shape == (12, 14, 3)


def test_a_network_that_keeps_the_size_sees_an_enlarged_image(tmp_path):
    low, high = picture(6, 7), picture(12, 14)
    source = Source.pairs(folder(tmp_path / "l", one=low), folder(tmp_path / "h", one=high))
    sample = only(source, SR2, channels=1, scale=1)
    expected = imresize(luma(low)[..., None] / 255, 2, round_result=False)
    np.testing.assert_allclose(sample.degraded, expected, atol=1e-5)
    assert sample.clean.shape == (12, 14, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("given", [1, 2, 3, 4])
def test_degraded_images_of_16_bits_keep_them(tmp_path, given, channels):
    low = picture(6, 7, given, np.uint16)
    (tmp_path / "l").mkdir()
    write_image(tmp_path / "l" / "one.png", low)
    source = Source.pairs(tmp_path / "l", folder(tmp_path / "h", one=picture(6, 7)))
    found = only(source, DENOISE, channels=channels).degraded
    if given < 3:
        expected = np.repeat(low[..., :1], channels, 2)
    elif channels == 3:
        expected = low[..., :3]
    else:
        expected = low[..., :3] @ np.array([[0.299], [0.587], [0.114]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found * 65535, expected, atol=0.02)


def test_clean_images_of_16_bits_are_refused(tmp_path):
    source = Source.folder(folder(tmp_path / "x", one=picture(6, 7, 3, np.uint16)))
    with pytest.raises(NmcompileError, match="quality is judged on 8-bit images"):
        only(source, DENOISE)


def test_an_image_smaller_than_the_scale_is_named(tmp_path):
    source = Source.folder(folder(tmp_path / "x", tiny=picture(1, 9)))
    with pytest.raises(NmcompileError, match=r"tiny\.png is 1x9, too small for --task sr:2"):
        only(source, SR2, scale=2)


def test_there_are_photographs_without_any_folder():
    source = Source.fallback()
    assert len(source.clean) >= 4
    sample = next(source.samples(SR2, 3, 2))
    assert min(sample.degraded.shape[:2]) > 100


def test_the_reference_sets_pair_up(data_dir):
    for name in ("Set5", "Set14"):
        source = Source.pairs(data_dir / "sr" / name / "LR_x4", data_dir / "sr" / name / "HR")
        for sample in source.samples(Task("sr", 4), 3, 4):
            height, width = sample.degraded.shape[:2]
            assert sample.clean.shape == (4 * height, 4 * width, 3)
