"""PSNR and SSIM against formulas written down again, of one picture and of sets of them."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile.data import Sample, Source
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import evaluate, manifest_task, qualities, restorer
from nmcompile.metrics import compare
from nmcompile.program import Program
from nmcompile.resize import imresize
from nmcompile.runtime import load
from nmcompile.tasks import Task, luma, to_bytes
from tests import engines
from tests.networks import DENOISE, Around, bare_interface, captured, conv, plain

RANDOM = np.random.default_rng(0)
SR2 = Task.parse("sr:2")


def pair(height=26, width=31, channels=3, error=0.05):
    clean = RANDOM.integers(0, 256, (height, width, channels), np.uint8)
    noise = RANDOM.standard_normal(clean.shape) * error
    return (clean / 255 + noise).astype(np.float32), clean


def psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second.astype(float)) ** 2))


def ssim(first, second):
    """Wang et al. 2004, 11x11 Gaussian window of sigma 1.5, where the window fits."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def blurred(image):
        views = np.lib.stride_tricks.sliding_window_view(image, (11, 11))
        return np.einsum("abij,ij->ab", views, window)

    a, b = blurred(first), blurred(second)
    aa = blurred(first**2) - a * a
    bb = blurred(second**2) - b * b
    ab = blurred(first * second) - a * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return np.mean((2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_denoising_is_judged_on_all_pixels_and_channels_of_8_bits(channels):
    restored, clean = pair(channels=channels)
    found = compare(DENOISE, restored, clean)
    assert found.psnr == pytest.approx(psnr(to_bytes(restored), clean), rel=1e-9)
    planes = [
        ssim(to_bytes(restored)[..., c].astype(float), clean[..., c].astype(float))
        for c in range(channels)
    ]
    assert found.ssim == pytest.approx(np.mean(planes), rel=1e-6)


def test_super_resolution_is_judged_on_unrounded_luma_inside_the_border():
    restored, clean = pair()
    inside = np.s_[2:-2, 2:-2]
    ours, theirs = luma(to_bytes(restored))[inside], luma(clean)[inside]
    found = compare(SR2, restored, clean)
    assert found.psnr == pytest.approx(psnr(ours, theirs), rel=1e-9)
    assert found.ssim == pytest.approx(ssim(ours, theirs), rel=1e-6)
    edge = restored.copy()
    edge[:2], edge[:, -2:] = 0, 1
    assert compare(SR2, edge, clean) == found


def test_a_luma_network_is_judged_against_rounded_luma():
    restored, clean = pair()
    grey = restored[..., :1]
    inside = np.s_[2:-2, 2:-2]
    expected = psnr(to_bytes(grey)[..., 0][inside], np.floor(luma(clean) + 0.5)[inside])
    assert compare(SR2, grey, clean).psnr == pytest.approx(expected, rel=1e-9)


def test_equal_pictures_have_no_error():
    _, clean = pair()
    found = compare(DENOISE, clean.astype(np.float32) / np.float32(255), clean)
    assert (found.psnr, found.ssim) == (np.inf, 1.0)


def test_a_picture_smaller_than_the_window_has_no_ssim():
    restored, clean = pair(10, 30)
    found = compare(DENOISE, restored, clean)
    assert np.isnan(found.ssim)
    assert found.psnr > 0


@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_bicubic_reaches_what_is_published_for_set5(data_dir, scale, published):
    source = Source.pairs(data_dir / "sr" / "Set5" / f"LR_x{scale}", data_dir / "sr/Set5/HR")
    task = Task("sr", scale)

    def bicubic(image):
        return (imresize(to_bytes(image), scale) / np.float32(255)).astype(np.float32)

    found = dict(qualities(bicubic, source.samples(task, 3, scale), task))
    assert len(found) == 5
    mean = np.mean([quality.psnr for quality in found.values()])
    assert mean == pytest.approx(published, abs=0.05)


class Plus(nn.Module):
    def forward(self, image, sigma):
        return image + sigma


def sample(height=24, width=24, channels=3, name="one"):
    restored, clean = pair(height, width, channels)
    return Sample(name, restored, clean)


def test_a_set_has_the_mean_of_its_pictures():
    program = captured(plain())
    samples = [sample(name="one"), sample(32, 20, name="two")]
    found = evaluate(program, samples, DENOISE)
    assert list(found.images) == ["one", "two"]
    for given in samples:
        x = torch.from_numpy(given.degraded).permute(2, 0, 1)[None]
        expected = compare(DENOISE, program(x)[0].permute(1, 2, 0).numpy(), given.clean)
        assert found.images[given.name].psnr == pytest.approx(expected.psnr, abs=1e-4)
    assert found.psnr == pytest.approx(np.mean([q.psnr for q in found.images.values()]))
    assert found.ssim == pytest.approx(np.mean([q.ssim for q in found.images.values()]))


def test_a_network_gets_its_own_range_and_further_inputs():
    extra = ExtraInput("sigma", (0, 1, 1, 1), 51.0)
    program = Program(
        captured(Plus()).module,
        bare_interface(value_range=255.0, extra_inputs=(extra,)),
    )
    given = sample()
    expected = given.degraded + np.float32(0.2)
    np.testing.assert_allclose(restorer(program)(given.degraded), expected, atol=1e-6)


def strided():
    return Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1))


def test_a_picture_of_any_size_is_mirrored_and_cut_as_the_runtime_does():
    program = captured(strided())
    assert program.interface.multiple == 2
    image = sample(9, 13).degraded
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), "reflect")
    expected = restorer(program)(padded)[:9, :13]
    np.testing.assert_allclose(restorer(program)(image), expected, atol=1e-6)
    row = image[:1, :12]  # nothing to mirror: the row is repeated
    expected = restorer(program)(np.repeat(row, 2, 0))[:1]
    np.testing.assert_allclose(restorer(program)(row), expected, atol=1e-6)


def test_a_picture_that_the_network_cannot_take_is_said():
    module = captured(plain()).module
    small = Program(module, bare_interface(minimum=16))
    with pytest.raises(NmcompileError, match="24x15, the network needs at least 16x16"):
        restorer(small)(sample(24, 15).degraded)
    fixed = Program(module, bare_interface(fixed_size=(16, 16)))
    assert restorer(fixed)(sample(16, 9).degraded).shape == (16, 9, 3)
    with pytest.raises(NmcompileError, match="takes 16x16 only; compile it first"):
        restorer(fixed)(sample(17, 16).degraded)


def test_an_engine_is_judged_as_a_network_is(tmp_path):
    engine = load(engines.identity(tmp_path / "engine"), threads=1)
    given = sample()
    found = evaluate(engine, [given], DENOISE)
    assert found.psnr == pytest.approx(compare(DENOISE, given.degraded, given.clean).psnr)
    other = dataclasses.replace(engine.manifest, task="sr:3")
    assert manifest_task(other) == Task("sr", 3)
