"""The halo of every network: never too small, not absurdly large, and exact when tiled by it."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nmcompile import capture
from nmcompile.backends.onnx import export_onnx
from nmcompile.engine import seal
from nmcompile.program import Program
from nmcompile.receptive_field import receptive_halo
from nmcompile.runtime import Engine, load
from tests.architectures import ZOO, captured
from tests.engines import PLAIN
from tests.zoo_convolutions import conv

FINITE = [name for name, entry in ZOO.items() if not entry.whole]
# Strided, folded, mirrored, transposed and interpolated in each way.
TILED = (
    "pan", "fsrcnn", "rrdbnet_x2", "ffdnet", "drunet", "unet", "mimo_unet", "convnext",
    "reflecting", "even_same", "bicubic", "dbpn", "safmn",
)  # fmt: skip


def _reach(program: Program, halo: int) -> int:
    """How far one pixel that is no number spreads, from every place in a block of the least."""
    interface = program.interface
    step = interface.multiple
    middle = -(-(2 * halo + interface.minimum + step) // step) * step
    reach = 0
    for axis, place in itertools.product((0, 1), range(middle, middle + step)):
        image = torch.rand(1, interface.channels, 2 * middle, 2 * middle)
        row, column = (place, middle) if axis == 0 else (middle, place)
        image[:, :, row, column] = torch.nan
        touched = program(image)[0].isnan().any(0).any(1 - axis).nonzero().flatten()
        reach = max(reach, int((touched // interface.scale - place).abs().max()))
    return reach


@pytest.mark.parametrize("name", FINITE)
def test_halo_is_what_a_pixel_reaches(name):
    program = captured(name)
    halo, reason = receptive_halo(program)
    assert reason == ""
    assert halo is not None
    reach = _reach(program, halo)
    assert reach <= halo <= 1.25 * reach + 2


@pytest.mark.parametrize("name", [name for name in ZOO if name not in FINITE])
def test_what_sees_the_whole_image_is_named(name):
    halo, reason = receptive_halo(captured(name))
    assert halo is None
    assert ZOO[name].whole in reason


class _Local(nn.Module):
    """Operations on channels that leave pixels where they are."""

    def forward(self, x):
        stacked = torch.stack((x, x * 2), 1).flip(1).unbind(1)[0]
        last = F.layer_norm(stacked.permute(0, 2, 3, 1), (3,)).softmax(-1)
        tall = last.transpose(1, 3).transpose(2, 3).unsqueeze(1).squeeze(1)
        return tall + x.std(1, keepdim=True) * torch.where(x > 0, x, 0.1)


class _Positions(nn.Module):
    """Each pixel is told its row."""

    def forward(self, x):
        rows = torch.arange(x.shape[2], dtype=x.dtype)
        return x + rows[None, None, :, None]


class _Size(nn.Module):
    """A number that is the image's width."""

    def forward(self, x):
        return x / x.shape[3]


class _Edge(nn.Module):
    """A constant picture whose border a convolution sees."""

    def __init__(self):
        super().__init__()
        self.layer = conv(1, 3)

    def forward(self, x):
        return x + self.layer(torch.ones(1, 1, x.shape[2], x.shape[3]))


class _CutAndPad(nn.Module):
    """Takes two rows off below and puts zeros there."""

    def forward(self, x):
        return F.pad(x[:, :, :-2], (0, 0, 0, 2))


class _Whole(nn.Module):
    """Applies one function to the image."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


SMALL = {
    "local": (_Local(), 0),
    "edge of a constant": (_Edge(), 1),
    "cut and padded": (_CutAndPad(), 2),
    "padded far and cut": (
        _Whole(lambda x: F.pad(x, (8, 8, 8, 8), mode="reflect")[:, :, 8:-8, 8:-8]), 8,
    ),
    "larger and smaller": (
        _Whole(lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=3, mode="bilinear"), 3)), 2,
    ),
    "nearest-exact": (_Whole(lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact")), 1),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALL)
def test_small_networks(case):
    network, largest = SMALL[case]
    program = capture(network)
    halo, reason = receptive_halo(program)
    assert reason == ""
    assert _reach(program, 4) <= halo <= largest


WHOLE = {
    "arange": (_Positions(), "where a pixel stands"),
    "width": (_Size(), "image's size"),
    "roll": (_Whole(lambda x: x.roll(1, 2)), "roll"),
    "flip": (_Whole(lambda x: x + x.flip(3)), "flip"),
    "circular": (_Whole(lambda x: F.pad(x, (1, 0, 1, 0), mode="circular")[..., 1:, 1:]), "mixes"),
    "transposed": (_Whole(lambda x: x + x.mean(2, keepdim=True)), "mean"),
    "kernel from the image": (
        _Whole(lambda x: F.conv2d(x, x.mean((0, 2, 3)).expand(3, 3).reshape(3, 3, 1, 1))), "mean",
    ),
    "out of step": (
        _Whole(lambda x: F.interpolate(F.avg_pool2d(x, 2, ceil_mode=True), scale_factor=2)[
            ..., : x.shape[2], : x.shape[3]
        ]),
        "out of step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_small_networks_that_are_not_local(case):
    network, words = WHOLE[case]
    halo, reason = receptive_halo(capture(network))
    assert halo is None
    assert words in reason


def _engine(program: Program, folder: Path) -> Engine:
    interface, (halo, reason) = program.interface, receptive_halo(program)
    folder.mkdir()
    export_onnx(program, folder / "model.onnx")
    manifest = dataclasses.replace(
        PLAIN,
        input_name=interface.input_name,
        channels=interface.channels,
        scale=interface.scale,
        value_range=interface.value_range,
        multiple=interface.multiple,
        minimum=interface.minimum,
        extra_inputs=tuple(dataclasses.replace(e, value=0.1) for e in interface.extra_inputs),
        halo=halo,
        halo_reason=reason,
    )
    seal(folder, manifest)
    return load(folder, threads=1)


def _tiled(engine: Engine, image: np.ndarray, tile: int) -> np.ndarray:
    """The network's own values, not clipped, put together from tiles."""
    plan, scale = engine.plan(*image.shape[2:], tile), engine.manifest.scale
    assert plan.count > 3
    assert not plan.blend
    parts = []
    for row in plan.rows:
        band = []
        for column in plan.columns:
            output = engine.run(
                np.ascontiguousarray(image[..., row.window.slice, column.window.slice])
            )
            inside = [
                slice(
                    (c.inner.start - c.window.start) * scale,
                    (c.inner.stop - c.window.start) * scale,
                )
                for c in (row, column)
            ]
            band.append(output[..., inside[0], inside[1]])
        parts.append(np.concatenate(band, 3))
    return np.concatenate(parts, 2)


@pytest.mark.parametrize("name", TILED)
def test_tiled_equals_untiled(name, tmp_path):
    program = captured(name)
    engine = _engine(program, tmp_path / "engine")
    interface, halo = program.interface, engine.manifest.halo
    step = interface.multiple
    tile = max(3 * step, 7)
    shape = [-(-(2 * halo + extra) // step) * step + step for extra in (17, 32)]
    random = np.random.default_rng(0)
    image = random.random((1, interface.channels, *shape), np.float32) * interface.value_range
    whole = engine.run(image)
    np.testing.assert_allclose(_tiled(engine, image, tile), whole, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(whole, program(torch.from_numpy(image)), rtol=1e-4, atol=1e-5)

    odd = random.integers(0, 256, (shape[0] - 1, shape[1] + 3, 3), np.uint8)
    difference = engine.restore(odd).astype(int) - engine.restore(odd, tile)
    assert np.abs(difference).max() <= 1  # where rounding was a hair's breadth away
    assert (difference == 0).mean() > 0.999
