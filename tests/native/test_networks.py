"""Whole networks -> does the native program give what torch gives, and say what it cannot do?"""

import concurrent.futures

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples.models.carn import carn_m
from examples.models.dncnn import dncnn
from examples.models.edsr import edsr
from examples.models.imdn import imdn
from examples.models.rlfn import rlfn
from examples.models.sample import sample_sr_x2
from nmcompile.backends.native import UnsupportedError, lower
from nmcompile.capture import capture
from nmcompile.runtime.native.program import NativeProgram

NETWORKS = {
    "sample": (sample_sr_x2, 3),
    "edsr": (lambda: edsr(32), 3),
    "dncnn": (lambda: dncnn(1, 5), 1),
    "imdn": (imdn, 3),
    "carn_m": (carn_m, 3),
    "rlfn": (rlfn, 3),
}
SIZES = ((15, 15), (24, 70), (33, 41))


class Small(nn.Module):
    """A network of one function and a few convolutions."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.down = nn.Conv2d(4, 16, 3, stride=2, padding=1)
        self.prelu = nn.PReLU(4)
        self.prelu.weight.data = torch.tensor([0.1, -0.2, 0.3, 0.4])
        self.up = nn.ConvTranspose2d(16, 4, 4, stride=2, padding=1)
        self.odd = nn.ConvTranspose2d(16, 4, 3, stride=2, padding=1)
        self.same = nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)
        self.register_buffer("shift", torch.tensor([0.1, -0.2, 0.3, 0.4]).view(1, 4, 1, 1))
        self.head = nn.Conv2d(3, 4, 1)
        self.function = forward

    def forward(self, x):
        return self.function(self, self.head(x))[:, :3]


def _gate(net, x):
    mean = F.adaptive_avg_pool2d(net.a(x), 1)
    return x * torch.sigmoid(net.b(mean)) + net.b(mean)


def _dense_block(net, x):
    first = F.relu(net.a(x))
    second = net.prelu(net.b(first))
    both = torch.cat([x, first], 1)
    return torch.cat([both, second, x], 1)[:, 2:-3] * 2.0


def _u_net(net, x):
    return x + F.pixel_shuffle(F.gelu(net.down(x)), 2)


def _arithmetic(net, x):
    y = (net.a(x) - net.shift) * net.shift + 1.5
    return x - net.b(-y / 3) - F.silu(y) * F.hardtanh(x) + torch.clamp(y, max=0.5)


def _reused(net, x):
    """The sum is used twice, and a convolution's result before and after its activation."""
    y = net.a(x)
    z = F.leaky_relu(y, 0.2) + y
    return net.b(z) + z + torch.tanh(z)


def _split(net, x):
    left, right = torch.split(net.a(x), [1, 3], dim=1)
    first, second = net.b(x).chunk(2, 1)
    return torch.cat([F.relu(right), left, second, first], 1)


def _enlarged(net, x):
    """Transposed convolutions with what can become part of them, and what cannot."""
    y = net.prelu(net.up(net.down(x)))
    z = net.same(y)
    return F.relu(z) + net.same(z) + F.silu(net.b(F.pixel_shuffle(net.down(x), 2)))


def _in_blocks(net, x):
    coarse = F.avg_pool2d(F.pixel_unshuffle(net.b(x), 2), 3, 1, 1) + net.down(x)
    return net.a(F.pixel_shuffle(coarse, 2)) + F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)


def _halved(net, x):
    return F.interpolate(net.a(F.interpolate(net.b(x), scale_factor=0.5)), scale_factor=2)


def _shuffled_activations(net, x):
    y = F.pixel_shuffle(net.down(x), 2)
    return net.prelu(y) + F.leaky_relu(F.pixel_shuffle(net.down(x), 2), 0.1) + y


def _framed(net, x):
    """Borders of every kind, cuts, and a transposed convolution whose last row is no output."""
    y = net.a(F.pad(x, (1, 0, 0, 1), mode="reflect"))[:, :, 1:, :-1]
    z = net.same(F.pad(y, (0, 1, 0, 0), mode="replicate"))[:, :, :, 1:]
    odd = net.odd(F.pad(net.down(x), (0, 1, 0, 1)))[:, :, :-1, 1:]
    return F.pad(z[:, :, :-1], (0, 0, 0, 1)) + odd


def _normed(net, x):
    """Layer norm over channels written out, as NAFNet has it; maps over all channels."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    y = net.shift * ((x - mean) / (variance + 1e-3).sqrt()) + net.shift
    gate = torch.sigmoid(net.a(y)[:, 1:2])
    return net.b(gate * y) + gate - (gate - y) + (1.5 - y) / (2 + gate)


def _activated(net, x):
    wide = F.interpolate(F.max_pool2d(F.elu(net.a(x), 0.7), 2), scale_factor=2, mode="bilinear")
    aligned = F.interpolate(net.down(x), scale_factor=2, mode="bilinear", align_corners=True)
    return wide + F.mish(net.b(x)) + F.hardswish(4 * x) + aligned[:, ::1][:, 4:8]


SMALL = {
    f.__name__: f
    for f in (
        _gate, _dense_block, _u_net, _arithmetic, _reused, _split, _enlarged, _shuffled_activations,
        _in_blocks, _halved, _framed, _normed, _activated,
    )
}  # fmt: skip


def _check(network, channels, sizes, threads=2):
    program = capture(network.eval(), channels=channels)
    native = NativeProgram(lower(program))
    for size in sizes:
        x = torch.randn(2, channels, *size)
        with torch.no_grad():
            expected = network(x).numpy()
        (found,) = native.run([x.numpy()], threads)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_example_networks(name):
    torch.manual_seed(0)
    factory, channels = NETWORKS[name]
    _check(factory(), channels, SIZES)


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name):
    torch.manual_seed(0)
    # Widths whose strips do not halve evenly, too.
    _check(Small(SMALL[name]), 3, [(2, 2), (6, 34), (8, 70), (4, 98)])


def test_several_threads_run_one_program_at_once():
    torch.manual_seed(0)
    native = NativeProgram(lower(capture(edsr(16).eval())))
    images = [np.random.default_rng(i).random((1, 3, 20 + i, 30), np.float32) for i in range(6)]
    expected = [native.run([image])[0] for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda image: native.run([image], 2)[0], images)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_inputs_need_not_be_contiguous():
    native = NativeProgram(lower(capture(edsr(16).eval())))
    x = np.random.default_rng(0).random((1, 3, 40, 60), np.float32)[:, :, ::2, ::-1]
    np.testing.assert_array_equal(native.run([x])[0], native.run([x.copy()])[0])


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda net, x: torch.fft.fft2(net.a(x)).real, "fft"),
        (
            lambda net, x: F.conv_transpose2d(x, net.a.weight, stride=(2, 1), padding=1)[
                :, :, : x.shape[2]
            ],
            "conv_transpose2d",
        ),
        (lambda net, x: net.a(F.pad(x, (1, 1, 1, 1), mode="circular"))[:, :, 1:-1, 1:-1], "pad"),
        (lambda net, x: net.a(F.pad(x, (1, 1), value=1.0))[:, :, :, 1:-1], "pad"),
        (
            lambda net, x: F.conv2d(F.conv2d(x, net.a.weight, padding=3), torch.ones(4, 4, 5, 5)),
            "padded beyond",
        ),
    ],
)
def test_what_is_missing_is_named(forward, said):
    program = capture(Small(forward).eval(), channels=3)
    with pytest.raises(UnsupportedError, match=said):
        lower(program)
