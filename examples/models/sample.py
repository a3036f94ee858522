"""RGB image in 0..1 -> the image at twice the size: the small network this project trains."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv2(ReLU(conv1(x))), both convolutions 3 x 3."""

    def __init__(self, features: int) -> None:
        """Build the block for `features` channels in and out."""
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        residual: Tensor = self.conv2(torch.relu(self.conv1(x)))
        return x + residual


class SampleSR(nn.Module):
    """EDSR-like x2 super-resolution of 341,068 parameters.

    It predicts what has to be added to the input enlarged by pixel repetition, so an untrained
    network already gives a plausible picture and training starts from there.

    Source:
        Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", 2017.
    """

    def __init__(self, features: int = 64, blocks: int = 4) -> None:
        """Build the network.

        Args:
            features: channels of the trunk.
            blocks: residual blocks in the trunk.
        """
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))
        self.body_end = nn.Conv2d(features, features, 3, padding=1)
        self.tail = nn.Conv2d(features, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 -> [N, 3, 2H, 2W], about 0..1, not clamped."""
        shallow = self.head(x)
        deep = self.body_end(self.body(shallow)) + shallow
        enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
        residual: Tensor = self.shuffle(self.tail(deep))
        return enlarged + residual


def sample_sr_x2() -> SampleSR:
    """The network that fits `examples/sample/sample_sr_x2.safetensors`."""
    return SampleSR()
