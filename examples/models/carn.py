"""RGB image in 0..1 -> the image at 2, 3 or 4 times the size, by the CARN-M network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_MEAN = (0.4488, 0.4371, 0.4040)  # mean RGB of DIV2K, in 0..1


class MeanShift(nn.Module):
    """A fixed offset per colour, kept as a 1 x 1 convolution because the weight file has one."""

    def __init__(self, sign: float) -> None:
        """Build the shift that adds (`sign` = 1) or takes away (-1) the mean colour."""
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)
        self.shifter.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.shifter.bias = nn.Parameter(sign * torch.tensor(_MEAN))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 3, H, W]."""
        shifted: Tensor = self.shifter(x)
        return shifted


class Mix(nn.Module):
    """ReLU of a 1 x 1 convolution that brings concatenated features back to 64 channels."""

    def __init__(self, inputs: int) -> None:
        """Build the convolution for `inputs` channels."""
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs, 64, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, 64, H, W]."""
        mixed: Tensor = self.body(x)
        return mixed


class EfficientResidualBlock(nn.Module):
    """ReLU(x + grouped 3 x 3, ReLU, grouped 3 x 3, ReLU, 1 x 1), 64 channels."""

    def __init__(self) -> None:
        """Build the block."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Conv2d(64, 64, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 64, H, W]."""
        return torch.relu(x + self.body(x))


def cascade(x: Tensor, units: Sequence[nn.Module], mixes: Sequence[nn.Module]) -> Tensor:
    """Chain units, mixing after each one the input and all unit outputs so far.

    Args:
        x: features [N, 64, H, W].
        units: modules 64 -> 64 channels, applied in this order.
        mixes: for the i-th unit (from 1), a module 64 (i + 1) -> 64 channels.

    Returns:
        Features [N, 64, H, W].
    """
    seen = output = x
    for unit, mix in zip(units, mixes, strict=True):
        seen = torch.cat([seen, unit(output)], dim=1)
        output = mix(seen)
    return output


class LocalBlock(nn.Module):
    """A cascade of one residual block used three times with the same weights."""

    def __init__(self) -> None:
        """Build the shared block and the three mixes."""
        super().__init__()
        self.b1 = EfficientResidualBlock()
        self.c1, self.c2, self.c3 = Mix(128), Mix(192), Mix(256)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 64, H, W]."""
        return cascade(x, (self.b1, self.b1, self.b1), (self.c1, self.c2, self.c3))


class Enlarge(nn.Module):
    """One or more times: grouped 3 x 3 convolution, ReLU, pixel shuffle."""

    def __init__(self, factors: Sequence[int]) -> None:
        """Build one stage for each of `factors`, whose product is the scale."""
        super().__init__()
        layers: list[nn.Module] = []
        for factor in factors:
            layers.append(nn.Conv2d(64, 64 * factor**2, 3, padding=1, groups=4))
            layers += [nn.ReLU(), nn.PixelShuffle(factor)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 64, scale H, scale W]."""
        enlarged: Tensor = self.body(x)
        return enlarged


class Upsamplers(nn.Module):
    """The three enlargements that share a trunk; the weight file holds them all."""

    def __init__(self, scale: int) -> None:
        """Build all three and choose the one that `forward` runs."""
        super().__init__()
        self.up2, self.up3, self.up4 = Enlarge((2,)), Enlarge((3,)), Enlarge((2, 2))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 64, scale H, scale W]."""
        enlarged: Tensor = getattr(self, f"up{self.scale}")(x)
        return enlarged


class CARNM(nn.Module):
    """CARN-M: a cascade of three cascades with shared, grouped residual blocks.

    Source:
        Ahn et al., "Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual
        Network", ECCV 2018; tensor names of nmhkahn/CARN-pytorch.
    """

    def __init__(self, scale: int = 4) -> None:
        """Build the network.

        Args:
            scale: 2, 3 or 4.

        Raises:
            ValueError: if the scale is another one.
        """
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"CARN-M has no x{scale} upsampler; use scale 2, 3 or 4")
        self.sub_mean, self.add_mean = MeanShift(-1.0), MeanShift(1.0)
        self.entry = nn.Conv2d(3, 64, 3, padding=1)
        self.b1, self.b2, self.b3 = LocalBlock(), LocalBlock(), LocalBlock()
        self.c1, self.c2, self.c3 = Mix(128), Mix(192), Mix(256)
        self.upsample = Upsamplers(scale)
        self.exit = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 -> [N, 3, scale H, scale W], about 0..1, not clamped."""
        x = self.entry(self.sub_mean(x))
        x = cascade(x, (self.b1, self.b2, self.b3), (self.c1, self.c2, self.c3))
        output: Tensor = self.add_mean(self.exit(self.upsample(x)))
        return output


def carn_m(scale: int = 4) -> CARNM:
    """CARN-M for `carn_m_x234.pt`; `scale` is 2, 3 or 4."""
    return CARNM(scale)
