"""RGB image in 0..1 with motion blur -> the sharp image, by the DMPHN (1-2-4) network."""

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """x + conv(ReLU(conv(x))), both convolutions 3 x 3."""

    def __init__(self, features: int) -> None:
        """Build the block for `features` channels in and out."""
        super().__init__(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        residual: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + residual


class Encoder(nn.Module):
    """RGB patch -> 128 features at a quarter of its size; numbers as in the weight file."""

    def __init__(self) -> None:
        """Build three stages of one convolution and two residual blocks."""
        super().__init__()
        self.layer1 = nn.Conv2d(3, 32, 3, padding=1)
        self.layer2, self.layer3 = Residual(32), Residual(32)
        self.layer5 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.layer6, self.layer7 = Residual(64), Residual(64)
        self.layer9 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.layer10, self.layer11 = Residual(128), Residual(128)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 128, H / 4, W / 4]; H and W multiples of 4."""
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.layer7(self.layer6(self.layer5(x)))
        output: Tensor = self.layer11(self.layer10(self.layer9(x)))
        return output


class Decoder(nn.Module):
    """128 features at a quarter of the size -> RGB patch; numbers as in the weight file."""

    def __init__(self) -> None:
        """Build three stages of two residual blocks and one convolution."""
        super().__init__()
        self.layer13, self.layer14 = Residual(128), Residual(128)
        self.layer16 = nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1)
        self.layer17, self.layer18 = Residual(64), Residual(64)
        self.layer20 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
        self.layer21, self.layer22 = Residual(32), Residual(32)
        self.layer24 = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 128, h, w] -> [N, 3, 4 h, 4 w]."""
        x = self.layer16(self.layer14(self.layer13(x)))
        x = self.layer20(self.layer18(self.layer17(x)))
        output: Tensor = self.layer24(self.layer22(self.layer21(x)))
        return output


class DMPHN(nn.Module):
    """Three encoder-decoders on 4, 2 and 1 patches, each correcting the next coarser one.

    Source:
        Zhang et al., "Deep Stacked Hierarchical Multi-Patch Network for Image Deblurring",
        CVPR 2019; weight file of HongguangZhang/DMPHN-cvpr19-master.
    """

    def __init__(self) -> None:
        """Build one encoder and decoder per level."""
        super().__init__()
        self.encoder_lv1, self.decoder_lv1 = Encoder(), Decoder()
        self.encoder_lv2, self.decoder_lv2 = Encoder(), Decoder()
        self.encoder_lv3, self.decoder_lv3 = Encoder(), Decoder()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 -> [N, 3, H, W], not clamped; H and W multiples of 8."""
        x = x - 0.5
        halves = torch.chunk(x, 2, dim=2)
        fine = [
            torch.cat(
                [self.encoder_lv3(quarter) for quarter in torch.chunk(half, 2, dim=3)],
                dim=3,
            )
            for half in halves
        ]
        middle = torch.cat(
            [
                self.encoder_lv2(half + self.decoder_lv3(features))
                for half, features in zip(halves, fine, strict=True)
            ],
            dim=2,
        )
        middle = middle + torch.cat(fine, dim=2)
        coarse = self.encoder_lv1(x + self.decoder_lv2(middle)) + middle
        output: Tensor = self.decoder_lv1(coarse)
        return output + 0.5


def dmphn() -> DMPHN:
    """DMPHN for `dmphn_1_2_4_gopro.pt`."""
    return DMPHN()
