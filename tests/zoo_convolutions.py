"""Small untrained restoration networks of convolutions: enlargers, denoisers, U-nets."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class Residual(nn.Sequential):
    """x + scale * layers(x)."""

    def __init__(self, *layers, scale=1.0):
        super().__init__(*layers)
        self.scale = scale

    def forward(self, x):
        return x + super().forward(x) * self.scale


class Gate(nn.Sequential):
    """x * layers(x)."""

    def forward(self, x):
        return x * super().forward(x)


class Sum(nn.ModuleList):
    """The sum of what the layers make of the same input."""

    def __init__(self, *layers):
        super().__init__(layers)

    def forward(self, x):
        return sum(layer(x) for layer in self)


def shuffled(scale, channels=3, inputs=8):
    return nn.Sequential(conv(inputs, channels * scale**2), nn.PixelShuffle(scale))


def body(*layers):
    """Layers between the first convolution and the last."""
    return nn.Sequential(conv(3, 8), *layers, conv(8, 3))


def channel_attention():
    return Gate(nn.AdaptiveAvgPool2d(1), conv(8, 4, 1), nn.ReLU(True), conv(4, 8, 1), nn.Sigmoid())


class MeanShift(nn.Conv2d):
    """Takes the mean colour off, or adds it, in 0..255."""

    def __init__(self, sign):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3)[:, :, None, None]
        self.bias.data = sign * 255.0 * torch.tensor([0.4488, 0.4371, 0.4040])


def rcan():
    block = Residual(conv(8, 8), nn.ReLU(True), conv(8, 8), channel_attention())
    group = Residual(block, conv(8, 8))
    return nn.Sequential(
        MeanShift(-1), conv(3, 8), Residual(group, conv(8, 8)), shuffled(2), MeanShift(1)
    )


class Pan(nn.Module):
    """Pixel attention and nearest enlargement beside a bilinear skip."""

    def __init__(self):
        super().__init__()
        self.head, self.trunk, self.up, self.tail = (
            conv(*c) for c in ((3, 8), (8, 8), (8, 8), (8, 3))
        )
        self.attention = Gate(conv(8, 8, 1), nn.Sigmoid())

    def forward(self, x):
        features = self.head(x)
        features = features + self.attention(F.leaky_relu(self.trunk(features), 0.2))
        features = self.up(F.interpolate(features, scale_factor=2, mode="nearest"))
        output = self.tail(F.leaky_relu(self.attention(features), 0.2, inplace=True))
        return output + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def fsrcnn():
    return nn.Sequential(
        conv(1, 12, 5), nn.PReLU(12), conv(12, 8, 1), nn.PReLU(8), conv(8, 8), nn.PReLU(),
        conv(8, 12, 1), nn.PReLU(12),
        nn.ConvTranspose2d(12, 1, 9, stride=2, padding=4, output_padding=1),
    )  # fmt: skip


def srresnet():
    block = Residual(
        conv(8, 8, bias=False), nn.BatchNorm2d(8), nn.PReLU(), conv(8, 8, bias=False),
        nn.BatchNorm2d(8),
    )  # fmt: skip
    return nn.Sequential(
        conv(3, 8, 9), nn.PReLU(), Residual(block, conv(8, 8), nn.BatchNorm2d(8)),
        shuffled(2, 8), nn.PReLU(), shuffled(2, 8), nn.PReLU(), conv(8, 3, 9),
    )  # fmt: skip


def settled(network):
    """Batch norms with statistics of their own, as after training."""
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    return network


class Dense(nn.Module):
    """Each convolution sees all outputs before it; the last is scaled and added to the input."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(conv(8 + 4 * i, 4) for i in range(3))
        self.last = conv(20, 8)

    def forward(self, x):
        seen = [x]
        for layer in self.convs:
            seen.append(F.leaky_relu(layer(torch.cat(seen, 1)), 0.2, inplace=True))
        return self.last(torch.cat(seen, 1)) * 0.2 + x


class Rrdb(nn.Module):
    """ESRGAN's generator; x2 folds pixels into channels first, as Real-ESRGAN does."""

    def __init__(self, scale):
        super().__init__()
        self.unfold = 4 // scale
        self.head, self.trunk = conv(3 * self.unfold**2, 8), conv(8, 8)
        self.block = Residual(Dense(), Dense(), scale=0.2)
        self.up1, self.up2, self.high, self.tail = conv(8, 8), conv(8, 8), conv(8, 8), conv(8, 3)

    def forward(self, x):
        if self.unfold > 1:
            x = F.pixel_unshuffle(x, self.unfold)
        features = self.head(x)
        features = features + self.trunk(self.block(features))
        for layer in (self.up1, self.up2):
            wide = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.leaky_relu(layer(wide), 0.2, inplace=True)
        return self.tail(F.leaky_relu(self.high(features), 0.2, inplace=True))


class FfdNet(nn.Module):
    """Even sizes by replication, four half-size images and the noise level as a fifth map."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            conv(13, 8), nn.ReLU(True), conv(8, 8), nn.ReLU(True), conv(8, 12)
        )

    def forward(self, x, sigma):
        height, width = x.size()[-2:]
        below = int(np.ceil(height / 2) * 2 - height)
        right = int(np.ceil(width / 2) * 2 - width)
        x = F.pixel_unshuffle(nn.ReplicationPad2d((0, right, 0, below))(x), 2)
        level = sigma.repeat(1, 1, x.size()[-2], x.size()[-1])
        return F.pixel_shuffle(self.layers(torch.cat((x, level), 1)), 2)[..., :height, :width]


class DruNet(nn.Module):
    """A U-net of residual blocks, strided and transposed convolutions; a noise map beside."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = conv(4, 8, bias=False), conv(8, 3, bias=False)
        self.downs = nn.ModuleList(
            nn.Sequential(self._block(c), nn.Conv2d(c, c + 4, 2, stride=2, bias=False))
            for c in (8, 12)
        )
        self.body = self._block(16)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(c, c - 4, 2, stride=2, bias=False), self._block(c - 4))
            for c in (16, 12)
        )

    @staticmethod
    def _block(size):
        layers = conv(size, size, bias=False), nn.ReLU(True), conv(size, size, bias=False)
        return Residual(*layers)

    def forward(self, x, noise_map):
        skips = [self.head(torch.cat((x, noise_map), 1))]
        for down in self.downs:
            skips.append(down(skips[-1]))
        features = self.body(skips[-1])
        for up in self.ups:
            features = up(features + skips.pop())
        return self.tail(features + skips.pop())


class UNet(nn.Module):
    """Max-pooling down, interpolation up, skips concatenated."""

    def __init__(self, aligned=False):
        super().__init__()
        self.first, self.down, self.deep = conv(3, 8), conv(8, 8), conv(8, 8)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=aligned)
        self.join1, self.join2, self.last = conv(16, 8), conv(16, 8), conv(8, 3, 1)

    def _joined(self, deep, skip, layer):
        wide = self.up(deep)
        below, right = (skip.size(d) - wide.size(d) for d in (2, 3))
        if self.up.align_corners:  # for odd sizes, as widely copied
            wide = F.pad(wide, (right // 2, right - right // 2, below // 2, below - below // 2))
        return layer(torch.cat((skip, wide), 1)).relu()

    def forward(self, x):
        first = self.first(x).relu()
        down = self.down(self.pool(first)).relu()
        deep = self.deep(self.pool(down)).relu()
        return x + self.last(self._joined(self._joined(deep, down, self.join1), first, self.join2))


class MimoUNet(nn.Module):
    """The image enters at two scales and comes out of the finer one."""

    def __init__(self):
        super().__init__()
        self.head, self.down = conv(3, 8), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.small, self.merge = conv(3, 12), conv(12, 12)
        self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
        self.fuse, self.tail = conv(20, 8, 1), conv(8, 3)

    def forward(self, x):
        half = F.interpolate(x, scale_factor=0.5)
        fine = self.head(x).relu()
        coarse = self.down(fine)
        coarse = coarse + self.merge(coarse * self.small(half))
        both = torch.cat((fine, F.interpolate(coarse, scale_factor=2)), 1)
        return self.tail(self.up(coarse) + self.fuse(both)) + x


class Repeated(nn.Module):
    """A kernel that is summed from three at every call, as ECBSR and RepVGG train."""

    def __init__(self, size):
        super().__init__()
        self.wide, self.point, self.reduce = conv(size, size), conv(size, size, 1), conv(size, 4, 1)
        self.expand = nn.Conv2d(4, size, 3, padding=1, bias=False)
        self.register_buffer("identity", torch.eye(size)[:, :, None, None])

    def forward(self, x):
        chain = F.conv2d(self.expand.weight, self.reduce.weight.permute(1, 0, 2, 3))
        centre = F.pad(self.point.weight + self.identity, (1, 1, 1, 1))
        return F.conv2d(
            x, self.wide.weight + chain + centre, self.wide.bias + self.point.bias, padding=1
        )


def repeated():
    """ECBSR: its blocks between nothing but a pixel shuffle."""
    return nn.Sequential(conv(3, 8), nn.PReLU(8), Repeated(8), nn.PReLU(8), shuffled(2))


class NormedWeights(nn.Sequential):
    """Weight norm (old and new) and spectral norm."""

    def __init__(self):
        super().__init__(
            nn.utils.spectral_norm(conv(3, 8)), nn.ReLU(), parametrizations.weight_norm(conv(8, 8)),
            nn.ReLU(), parametrizations.spectral_norm(conv(8, 3)),
        )  # fmt: skip


class InPlace(nn.Module):
    """Writes into its own values wherever it can."""

    def __init__(self):
        super().__init__()
        self.head, self.trunk, self.tail = conv(3, 8), conv(8, 8), conv(8, 3)

    def forward(self, x):
        features = self.head(x).relu_()
        features += self.trunk(features)
        features[:, :4] *= 0.5
        features.clamp_(min=0.01).add_(1)
        output = self.tail(features)
        output[:, 1:2] = output[:, 1:2] + x[:, 1:2]
        return output.sub_(1)


class Denoised(nn.Module):
    """clamp(x - noise), with a default argument that is to stay as it is."""

    def __init__(self):
        super().__init__()
        self.noise = body(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU())

    def forward(self, x, strength=0.5, *, clamp=True):
        output = x - strength * self.noise(x)
        return torch.clamp(output, 0, 1) if clamp else output


class BackProjection(nn.Module):
    """DBPN: enlarges, shrinks again and corrects by the difference."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = conv(3, 8), conv(8, 3)
        self.up, self.again = (nn.ConvTranspose2d(8, 8, 6, stride=2, padding=2) for _ in range(2))
        self.down = nn.Conv2d(8, 8, 6, stride=2, padding=2)

    def forward(self, x):
        low = F.silu(self.head(x))
        high = F.silu(self.up(low))
        return self.tail(high + self.again(F.hardswish(self.down(high)) - low))
