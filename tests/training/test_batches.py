"""Images -> patches that depend on nothing but their number, degraded as the task does."""

import numpy as np
import pytest
import torch

from nmcompile.calibration import calibrate
from nmcompile.data import Source
from nmcompile.errors import NmcompileError
from nmcompile.images import image_size, write_image
from nmcompile.tasks import Task
from nmcompile.training.batches import Patches
from tests.networks import bare_interface

NOISE, LARGER, BLOCKS = Task("denoise", 25), Task("sr", 2), Task("jpeg", 10)


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(6):
        picture = generator.integers(0, 256, (10, 12, 3)).repeat(8, 0).repeat(8, 1)
        write_image(tmp_path / f"{index}.png", picture.astype(np.uint8))
    return tmp_path


def turns(image):
    """An [C, h, w] image, turned and flipped in all eight ways."""
    for turned in (image, image.transpose(1, 2)):
        for axes in ((), (1,), (2,), (1, 2)):
            yield turned.flip(axes)


def test_a_patch_is_a_function_of_seed_and_number(folder):
    made = [
        Patches(Source.folder(folder), (), NOISE, bare_interface(), 24, seed) for seed in (0, 0, 1)
    ]
    (low, clean), (_, _) = made[0][7], made[1][3]
    assert torch.equal(made[1][7][0], low)
    assert torch.equal(made[1][7][1], clean)
    assert not torch.equal(made[2][7][0], low)
    assert low.shape == clean.shape == (3, 24, 24)
    assert abs(float((low - clean).std()) - 25 / 255) < 0.01


def test_the_image_of_a_patch_is_told(tmp_path):
    """Images of one colour each, so that a patch shows which it is of."""
    for number in range(4):
        write_image(tmp_path / f"{number}.png", np.full((40, 48, 3), 60 * number, np.uint8))
    data = Patches(Source.folder(tmp_path), (), NOISE, bare_interface(), 24)
    told = [data.image_of(number) for number in range(40)]
    shown = [round(float(data[number][1].mean()) * 255 / 60) for number in range(40)]
    assert told == shown
    assert len(set(told)) == 4


@pytest.mark.parametrize(("task", "scale"), [(LARGER, 2), (BLOCKS, 1)])
def test_degraded_and_clean_patches_are_of_one_place(folder, task, scale):
    source = Source.folder(folder)
    interface = bare_interface(scale=scale, value_range=255.0)
    low, clean = Patches(source, (), task, interface, 16)[5]
    places = []
    for sample in source.samples(task, 3, scale):
        whole = torch.from_numpy(sample.degraded.transpose(2, 0, 1).copy()) * 255
        sharp = torch.from_numpy(sample.clean.transpose(2, 0, 1).copy()).float()
        windows = whole.unfold(1, 16, 1).unfold(2, 16, 1)
        for index, turned in enumerate(turns(low)):
            for _, y, x in (windows - turned[:, None, None]).abs().amax((3, 4)).lt(1e-3).nonzero():
                place = sharp[:, y * scale : (y + 16) * scale, x * scale : (x + 16) * scale]
                places.append(list(turns(clean))[index].sub(place).abs().max())
    assert min(places) < 1e-3


def test_one_channel_super_resolution_learns_luma(folder):
    low, clean = Patches(
        Source.folder(folder), (), LARGER, bare_interface(channels=1, scale=2), 16
    )[0]
    assert (low.shape, clean.shape) == ((1, 16, 16), (1, 32, 32))
    assert torch.allclose(clean * 255, (clean * 255).round(), atol=1e-4)


def test_no_image_that_validates_is_trained_on(folder):
    source, interface = Source.folder(folder), bare_interface()
    found = calibrate(source, NOISE, interface, crops=4)
    data = Patches(source, found.validation, NOISE, interface, 24)
    names = {sample.name for sample in found.validation}
    assert names == {"0", "3"}
    assert {source.names[index] for index in data._images} == {"1", "2", "4", "5"}


def test_of_few_images_the_left_is_trained_on(folder):
    source = Source(tuple(Source.folder(folder).clean[:1]))
    data = Patches(source, calibrate(source, BLOCKS, bare_interface(), 4).validation, BLOCKS,
                   bare_interface(), 24)  # fmt: skip
    assert data._sample(0).clean.shape == (80, 64, 3)


def test_images_smaller_than_a_patch(folder):
    write_image(folder / "small.png", np.zeros((20, 60, 3), np.uint8))
    source = Source.folder(folder)
    data = Patches(source, (), NOISE, bare_interface(), 24)
    assert [path.name for path in data.too_small] == ["small.png"]
    with pytest.raises(NmcompileError, match=r"100x100 at the network's input.*smaller --patch"):
        Patches(source, (), NOISE, bare_interface(), 100)


def test_evaluation_images_are_found_by_their_pixels(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("evaluation")
    from PIL import Image

    Image.open(folder / "2.png").save(other / "renamed.bmp")
    source, left_out = Source.folder(folder).without(other)
    assert [path.name for path in left_out] == ["2.png"]
    assert len(source.clean) == 5
    with pytest.raises(NmcompileError, match="holds every image"):
        Source(tuple(left_out)).without(other)


def test_image_size_is_that_of_the_upright_image(tmp_path):
    from PIL import Image

    picture = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "side.jpg", exif=exif)
    picture.save(tmp_path / "upright.png")
    assert image_size(tmp_path / "side.jpg") == (20, 10)
    assert image_size(tmp_path / "upright.png") == (10, 20)
