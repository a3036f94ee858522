"""RGB image in 0..255 -> the image at 2 or 4 times the size, by the RLFN network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEATURES = 52
_ATTENTION = 16  # channels in which the attention map is computed
_SLOPE = 0.05


class SpatialAttention(nn.Module):
    """Features times a map from a view of them that is 6 times coarser (ESA of RFANet)."""

    def __init__(self) -> None:
        """Build the convolutions, named as in the weight file."""
        super().__init__()
        self.conv1 = nn.Conv2d(_FEATURES, _ATTENTION, 1)
        self.conv_f = nn.Conv2d(_ATTENTION, _ATTENTION, 1)
        self.conv2 = nn.Conv2d(_ATTENTION, _ATTENTION, 3, stride=2)
        self.conv3 = nn.Conv2d(_ATTENTION, _ATTENTION, 3, padding=1)
        self.conv4 = nn.Conv2d(_ATTENTION, _FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 52, H, W] -> [N, 52, H, W]; H and W at least 15."""
        narrow = self.conv1(x)
        coarse = F.max_pool2d(self.conv2(narrow), kernel_size=7, stride=3)
        coarse = self.conv3(coarse)
        wide = F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(wide + self.conv_f(narrow)))


class LocalFeatureBlock(nn.Module):
    """Three convolutions with a skip, a 1 x 1 convolution, then spatial attention."""

    def __init__(self) -> None:
        """Build the block."""
        super().__init__()
        self.c1_r = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.c2_r = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.c3_r = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.c5 = nn.Conv2d(_FEATURES, _FEATURES, 1)
        self.esa = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 52, H, W] -> [N, 52, H, W]."""
        features = x
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            features = F.leaky_relu(conv(features), _SLOPE)
        output: Tensor = self.esa(self.c5(features + x))
        return output


class RLFN(nn.Module):
    """Residual local feature network: six blocks between a first and a last convolution.

    Source:
        Kong et al., "Residual Local Feature Network for Efficient Super-Resolution", CVPRW 2022;
        tensor names of bytedance/RLFN.
    """

    def __init__(self, scale: int = 4) -> None:
        """Build the network for enlargement by `scale`."""
        super().__init__()
        self.conv_1 = nn.Conv2d(3, _FEATURES, 3, padding=1)
        for number in range(1, 7):
            self.add_module(f"block_{number}", LocalFeatureBlock())
        self.conv_2 = nn.Conv2d(_FEATURES, _FEATURES, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(_FEATURES, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..255 -> [N, 3, scale H, scale W], about 0..255; H and W >= 15."""
        shallow = features = self.conv_1(x)
        for number in range(1, 7):
            features = self.get_submodule(f"block_{number}")(features)
        output: Tensor = self.upsampler(self.conv_2(features) + shallow)
        return output


def rlfn(scale: int = 4) -> RLFN:
    """RLFN for `rlfn_x2.pt` or `rlfn_x4.pt`; `scale` is 2 or 4."""
    return RLFN(scale)
