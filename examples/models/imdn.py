"""RGB image in 0..1 -> the image at 4 times the size, by the IMDN network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KEPT = 16  # channels that each distillation step sets aside
_SLOPE = 0.05


class ContrastAttention(nn.Module):
    """Each channel times a gate that is computed from its mean and contrast over the image."""

    def __init__(self) -> None:
        """Build the two-layer gate of 64 channels."""
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(64, 4, 1), nn.ReLU(), nn.Conv2d(4, 64, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 64, H, W]; the statistics span the whole of H x W."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        contrast = x.std(dim=(2, 3), correction=0, keepdim=True)
        gate: Tensor = self.conv_du(mean + contrast)
        return x * gate


class DistillationBlock(nn.Module):
    """Three convolutions that each set 16 channels aside, then attention over what was kept."""

    def __init__(self) -> None:
        """Build the block."""
        super().__init__()
        rest = 64 - _KEPT
        self.c1 = nn.Conv2d(64, 64, 3, padding=1)
        self.c2 = nn.Conv2d(rest, 64, 3, padding=1)
        self.c3 = nn.Conv2d(rest, 64, 3, padding=1)
        self.c4 = nn.Conv2d(rest, _KEPT, 3, padding=1)
        self.cca = ContrastAttention()
        self.c5 = nn.Conv2d(64, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64, H, W] -> [N, 64, H, W]."""
        kept, rest = [], x
        for conv in (self.c1, self.c2, self.c3):
            features = F.leaky_relu(conv(rest), _SLOPE)
            distilled, rest = torch.split(features, [_KEPT, 64 - _KEPT], dim=1)
            kept.append(distilled)
        kept.append(self.c4(rest))
        output: Tensor = self.c5(self.cca(torch.cat(kept, dim=1)))
        return output + x


class IMDN(nn.Module):
    """Information multi-distillation network: six blocks, all of which feed the end.

    Source:
        Hui et al., "Lightweight Image Super-Resolution with Information Multi-distillation
        Network", ACM MM 2019; tensor names of Zheng222/IMDN.
    """

    def __init__(self, scale: int = 4) -> None:
        """Build the network for enlargement by `scale`."""
        super().__init__()
        self.fea_conv = nn.Conv2d(3, 64, 3, padding=1)
        for number in range(1, 7):
            self.add_module(f"IMDB{number}", DistillationBlock())
        self.c = nn.Sequential(nn.Conv2d(6 * 64, 64, 1), nn.LeakyReLU(_SLOPE))
        self.LR_conv = nn.Conv2d(64, 64, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(64, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 -> [N, 3, scale H, scale W], about 0..1, not clamped."""
        shallow = features = self.fea_conv(x)
        outputs = []
        for number in range(1, 7):
            features = self.get_submodule(f"IMDB{number}")(features)
            outputs.append(features)
        deep = self.LR_conv(self.c(torch.cat(outputs, dim=1))) + shallow
        output: Tensor = self.upsampler(deep)
        return output


def imdn(scale: int = 4) -> IMDN:
    """IMDN for `imdn_x4.pt`; only scale 4 has weights."""
    return IMDN(scale)
