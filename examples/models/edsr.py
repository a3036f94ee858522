"""RGB image in 0..255 -> the image at twice the size, by the small EDSR of MLPerf Mobile."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.models.sample import ResidualBlock


class EDSR(nn.Module):
    """Plain residual network: head, five residual blocks, long skip, tail, pixel shuffle.

    Source:
        Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", 2017;
        the 5-block variants of MLPerf Mobile v3.0 (mlcommons/mobile_models).
    """

    def __init__(self, features: int = 64, scale: int = 2) -> None:
        """Build the network with `features` channels for enlargement by `scale`."""
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features) for _ in range(5)))
        self.body_end = nn.Conv2d(features, features, 3, padding=1)
        self.tail = nn.Conv2d(features, 3 * scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..255 -> [N, 3, scale H, scale W], clamped to 0..255."""
        shallow = self.head(x)
        deep = self.body_end(self.body(shallow)) + shallow
        return F.pixel_shuffle(torch.clamp(self.tail(deep), 0.0, 255.0), self.scale)


def edsr(features: int = 64, scale: int = 2) -> EDSR:
    """EDSR for `edsr_f64b5_x2.pt` (64 features) or `edsr_f32b5_x2.pt` (32); both scale 2."""
    return EDSR(features, scale)
