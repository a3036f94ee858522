"""Noisy, compressed or blurred image in 0..1 -> the clean image, by the DnCNN networks."""

from itertools import pairwise

from torch import Tensor, nn


class DnCNN(nn.Module):
    """Convolutions with ReLU between them that predict what is wrong with the image.

    Source:
        Zhang et al., "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
        Denoising", IEEE TIP 2017; batch normalisation already folded into the weights.
    """

    def __init__(self, channels: int = 1, depth: int = 17, features: int = 64) -> None:
        """Build the network.

        Args:
            channels: 1 for grey, 3 for RGB images.
            depth: number of convolutions.
            features: channels between them.
        """
        super().__init__()
        widths = [channels, *[features] * (depth - 1), channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in pairwise(widths)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] in 0..1 -> [N, C, H, W], about 0..1, not clamped."""
        noise: Tensor = self.convs[0](x)
        for conv in self.convs[1:]:
            noise = conv(self.relu(noise))
        return x - noise


class BatchNormDnCNN(nn.Module):
    """The grey 17-layer DnCNN with its batch normalisation left in place and no conv bias.

    Source:
        As `DnCNN`; tensor names of SaoYan/DnCNN-PyTorch.
    """

    def __init__(self) -> None:
        """Build the layers: conv, ReLU, 15 x (conv, batch norm, ReLU), conv."""
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, 64, 3, padding=1, bias=False),
            nn.ReLU(),
        ]
        for _ in range(15):
            layers.append(nn.Conv2d(64, 64, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(64), nn.ReLU()]
        layers.append(nn.Conv2d(64, 1, 3, padding=1, bias=False))
        self.dncnn = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] in 0..1 -> [N, 1, H, W], about 0..1, not clamped."""
        noise: Tensor = self.dncnn(x)
        return x - noise


def dncnn(channels: int = 1, depth: int = 17) -> DnCNN:
    """DnCNN for `dncnn_gray_s25_merged.pt`; depth 20 is for `dncnn3_gray_multitask.pt`."""
    return DnCNN(channels, depth)


def cdncnn() -> DnCNN:
    """The colour DnCNN of 20 layers for `cdncnn_color_s25.pt`."""
    return DnCNN(channels=3, depth=20)


def dncnn_bn() -> BatchNormDnCNN:
    """DnCNN with batch normalisation for `dncnn_gray_s25_bn.pt`; call `.eval()` to run it."""
    return BatchNormDnCNN()
