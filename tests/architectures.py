"""Names of restoration networks -> small untrained versions of them, and what is known of each."""

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import nn

from nmcompile import capture
from nmcompile.program import Program
from tests import zoo_attention as attention
from tests import zoo_convolutions as convolutions
from tests.zoo_convolutions import Residual, body, conv, settled, shuffled


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network, and what its capture has to find out.

    Attributes:
        factory: makes the network.
        extras: the shapes of its further inputs.
        whole: a part of what is said to see the whole image; "" if the field is finite.
    """

    factory: Callable[[], nn.Module]
    scale: int = 1
    channels: int = 3
    multiple: int = 1
    minimum: int = 1
    extras: tuple[tuple[int | str, ...], ...] = ()
    value_range: float = 1.0
    whole: str = ""


def build(name: str) -> nn.Module:
    """The network of that name, with the same weights every time."""
    torch.manual_seed(0)
    return settled(ZOO[name].factory()).eval()


@functools.cache
def captured(name: str) -> Program:
    """What capture makes of that network; made once, as it takes a second or so."""
    return capture(build(name), value_range=ZOO[name].value_range)


def _espcn():
    return nn.Sequential(conv(3, 8, 5), nn.Tanh(), conv(8, 8), nn.Tanh(), shuffled(3))


def _vdsr():
    return Residual(
        conv(3, 8), nn.ReLU(inplace=True), conv(8, 8), nn.ReLU(inplace=True), conv(8, 3)
    )


def _bicubic():
    skip = nn.Upsample(scale_factor=3, mode="bicubic", align_corners=False)
    return convolutions.Sum(skip, nn.Sequential(conv(3, 8), nn.ReLU(), shuffled(3)))


def _reflecting():
    return Residual(
        nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.ReLU(),
        conv(8, 8, 5, padding_mode="reflect"), nn.ELU(), nn.ReplicationPad2d(1),
        nn.Conv2d(8, 3, 3),
    )  # fmt: skip


def _even_same():
    return body(
        nn.Conv2d(8, 8, 4, padding="same"), nn.Mish(), nn.Conv2d(8, 8, (2, 5), padding="same"),
        nn.Hardtanh(), nn.Conv2d(8, 8, 3, padding="same", dilation=2), nn.Softplus(),
    )  # fmt: skip


def _dncnn():
    return Residual(
        conv(1, 8), nn.ReLU(), conv(8, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 1)
    )


ZOO: dict[str, Entry] = {
    "rcan": Entry(convolutions.rcan, 2, value_range=255.0, whole="adaptive_avg_pool2d"),
    "pan": Entry(convolutions.Pan, 2),
    "espcn": Entry(_espcn, 3),
    "fsrcnn": Entry(convolutions.fsrcnn, 2, channels=1),
    "srresnet": Entry(convolutions.srresnet, 4),
    "vdsr": Entry(_vdsr),
    "rrdbnet": Entry(functools.partial(convolutions.Rrdb, 4), 4),
    "rrdbnet_x2": Entry(functools.partial(convolutions.Rrdb, 2), 2, multiple=2, minimum=2),
    "ffdnet": Entry(convolutions.FfdNet, multiple=2, minimum=2, extras=((0, 1, 1, 1),)),
    "drunet": Entry(convolutions.DruNet, multiple=4, minimum=4, extras=((0, 1, "H", "W"),)),
    "dncnn": Entry(_dncnn, channels=1),
    "nafnet": Entry(attention.NafNet, whole="adaptive_avg_pool2d"),
    "unet": Entry(convolutions.UNet, multiple=4, minimum=4),
    "unet_aligned": Entry(
        functools.partial(convolutions.UNet, True), minimum=4, whole="upsample_bilinear2d"
    ),
    "mimo_unet": Entry(convolutions.MimoUNet, multiple=2, minimum=2),
    "restormer": Entry(attention.Restormer, multiple=2, minimum=2, whole="flatten"),
    "swinir": Entry(attention.SwinIr, 2, minimum=3, whole="flatten"),
    "convnext": Entry(attention.ConvNext),
    "reflecting": Entry(_reflecting, minimum=3),
    "ecbsr": Entry(convolutions.repeated, 2),
    "normed_weights": Entry(convolutions.NormedWeights),
    "even_same": Entry(_even_same),
    "in_place": Entry(convolutions.InPlace),
    "group_norm": Entry(lambda: body(nn.GroupNorm(2, 8), nn.ReLU()), whole="group_norm"),
    "instance_norm": Entry(
        lambda: body(nn.InstanceNorm2d(8, affine=True), nn.ReLU()), minimum=2, whole="instance_norm"
    ),
    "grey_x2": Entry(lambda: nn.Sequential(conv(1, 8), nn.ReLU6(), shuffled(2, 1)), 2, channels=1),
    "denoised": Entry(convolutions.Denoised),
    "bicubic": Entry(_bicubic, 3),
    "dbpn": Entry(convolutions.BackProjection, 2),
    "cbam": Entry(attention.SpatialGate),
    "esa": Entry(attention.SpatialAttention, 3, minimum=15, whole="upsample_bilinear2d"),
    "non_local": Entry(attention.NonLocal, whole="flatten"),
    "safmn": Entry(attention.Safm, 2, multiple=2, minimum=2),
}
