"""Small untrained restoration networks with gates, normalisation over channels, and attention."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo_convolutions import conv, shuffled


class SpatialGate(nn.Module):
    """CBAM: a gate from the largest and the mean channel; channels shuffled among groups."""

    def __init__(self):
        super().__init__()
        self.head, self.groups, self.tail = conv(3, 8), conv(8, 8, groups=4), conv(8, 3)
        self.gate = conv(2, 1, 7)

    def forward(self, x):
        features = self.groups(self.head(x))
        batch, channels, height, width = features.shape
        mixed = features.view(batch, 4, channels // 4, height, width).transpose(1, 2)
        features = mixed.reshape(batch, channels, height, width)
        seen = torch.cat((features.max(1, keepdim=True)[0], features.mean(1, keepdim=True)), 1)
        return self.tail(features * self.gate(seen).sigmoid())


class SpatialAttention(nn.Module):
    """ESA: strided, pooled, resized back to the size the image happens to have."""

    def __init__(self):
        super().__init__()
        self.head, self.narrow, self.wide = conv(3, 8), conv(8, 4, 1), conv(4, 8, 1)
        self.depth, self.point = conv(8, 8, groups=8), conv(8, 8, 1, bias=False)
        self.stride, self.tail = nn.Conv2d(4, 4, 3, stride=2), shuffled(3)

    def forward(self, x):
        features = F.gelu(self.depth(self.point(self.head(x))))
        coarse = F.max_pool2d(self.stride(self.narrow(features)), 7, stride=3)
        wide = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
        return self.tail(features * torch.sigmoid(self.wide(wide)))


class NonLocal(nn.Module):
    """Every pixel attends to every other."""

    def __init__(self):
        super().__init__()
        self.head, self.query, self.key, self.tail = (
            conv(3, 8),
            conv(8, 4, 1),
            conv(8, 4, 1),
            conv(8, 3),
        )

    def forward(self, x):
        features = self.head(x)
        scores = torch.einsum(
            "ncq,nck->nqk", self.query(features).flatten(2), self.key(features).flatten(2)
        )
        mixed = scores.div(math.sqrt(4)).softmax(-1) @ features.flatten(2).transpose(1, 2)
        return x + self.tail(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class ChannelNorm(torch.autograd.Function):
    """Layer norm over channels with a gradient of its own, as NAFNet has it."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        y = (x - mean) / (variance + eps).sqrt()
        ctx.save_for_backward(y, variance, weight)
        return weight.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


class LayerNorm2d(nn.Module):
    """Normalises each pixel over its channels."""

    def __init__(self, size):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return ChannelNorm.apply(x, self.weight, self.bias, 1e-6)


class SimpleGate(nn.Module):
    """Half of the channels times the other half."""

    def forward(self, x):
        first, second = x.chunk(2, dim=1)
        return first * second


class NafBlock(nn.Module):
    """Depthwise convolution, simple gate, simplified channel attention; then a gated MLP."""

    def __init__(self, size):
        super().__init__()
        self.mix = nn.Sequential(
            LayerNorm2d(size), conv(size, 2 * size, 1),
            conv(2 * size, 2 * size, groups=2 * size), SimpleGate(),
        )  # fmt: skip
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(size, size, 1))
        self.project = conv(size, size, 1)
        self.mlp = nn.Sequential(
            LayerNorm2d(size), conv(size, 2 * size, 1), SimpleGate(), conv(size, size, 1)
        )
        self.beta = nn.Parameter(torch.full((1, size, 1, 1), 0.5))
        self.gamma = nn.Parameter(torch.full((1, size, 1, 1), 0.5))

    def forward(self, x):
        mixed = self.mix(x)
        x = x + self.beta * self.project(mixed * self.attention(mixed))
        return x + self.gamma * self.mlp(x)


class NafNet(nn.Module):
    """Pads the image to whole multiples of 4 by itself, and cuts the result."""

    def __init__(self):
        super().__init__()
        self.intro, self.ending = conv(3, 8), conv(8, 3)
        self.encoders = nn.ModuleList(NafBlock(c) for c in (8, 16))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in (8, 16))
        self.middle = NafBlock(32)
        self.ups = nn.ModuleList(
            nn.Sequential(conv(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in (32, 16)
        )
        self.decoders = nn.ModuleList(NafBlock(c) for c in (16, 8))

    def forward(self, image):
        height, width = image.shape[2:]
        padded = F.pad(image, (0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4))
        x, skips = self.intro(padded), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle(x)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + skips.pop())
        return (self.ending(x) + padded)[:, :, :height, :width]


class TransposedAttention(nn.Module):
    """Restormer: channels attend to channels over the whole image."""

    def __init__(self, size, heads):
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv(size, 3 * size, 1, bias=False)
        self.depth = conv(3 * size, 3 * size, groups=3 * size, bias=False)
        self.project = conv(size, size, 1, bias=False)

    def forward(self, x):
        batch, channels, height, width = x.shape
        parts = self.depth(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (p.reshape(batch, self.heads, -1, height * width) for p in parts)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        mixed = (scores * self.temperature).softmax(dim=-1) @ v
        return self.project(mixed.reshape(batch, channels, height, width))


class FlatNorm(nn.Module):
    """Layer norm over channels after folding rows and columns into one axis."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        height, width = x.shape[-2:]
        flat = x.flatten(2).transpose(1, 2)
        flat = flat / torch.sqrt(flat.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.weight
        return flat.transpose(1, 2).reshape(x.shape[0], -1, height, width)


class GatedFeedForward(nn.Module):
    """GELU of one half of the channels gates the other."""

    def __init__(self, size):
        super().__init__()
        self.wide, self.narrow = conv(size, 4 * size, 1), conv(2 * size, size, 1)
        self.depth = conv(4 * size, 4 * size, groups=4 * size)

    def forward(self, x):
        first, second = self.depth(self.wide(x)).chunk(2, dim=1)
        return self.narrow(F.gelu(first) * second)


class RestormerBlock(nn.Module):
    """Attention and feed-forward, each after its norm and beside its skip."""

    def __init__(self, size):
        super().__init__()
        self.attend = nn.Sequential(FlatNorm(size), TransposedAttention(size, 2))
        self.feed = nn.Sequential(FlatNorm(size), GatedFeedForward(size))

    def forward(self, x):
        x = x + self.attend(x)
        return x + self.feed(x)


class Restormer(nn.Module):
    """One level down by pixel unshuffle, up by pixel shuffle."""

    def __init__(self):
        super().__init__()
        self.embed, self.output = conv(3, 8, bias=False), conv(16, 3, bias=False)
        self.encoder, self.latent = RestormerBlock(8), RestormerBlock(16)
        self.down = nn.Sequential(conv(8, 4, bias=False), nn.PixelUnshuffle(2))
        self.up = nn.Sequential(conv(16, 32, bias=False), nn.PixelShuffle(2))
        self.decoder = RestormerBlock(16)

    def forward(self, x):
        first = self.encoder(self.embed(x))
        wide = self.up(self.latent(self.down(first)))
        return self.output(self.decoder(torch.cat([wide, first], 1))) + x


def window_partition(x, side):
    """[N, H, W, C] -> [windows, side, side, C]."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side, side, channels)


def window_reverse(windows, side, height, width):
    """[windows, side, side, C] -> [N, H, W, C]."""
    batch = int(windows.shape[0] / (height * width / side / side))
    x = windows.view(batch, height // side, width // side, side, side, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, height, width, -1)


class WindowAttention(nn.Module):
    """Pixels of a window attend to each other, biased by where they stand."""

    def __init__(self, size, side, heads):
        super().__init__()
        self.side, self.heads, self.scale = side, heads, (size // heads) ** -0.5
        self.table = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads) * 0.1)
        places = torch.stack(torch.meshgrid([torch.arange(side)] * 2, indexing="ij")).flatten(1)
        relative = (places[:, :, None] - places[:, None, :] + side - 1).permute(1, 2, 0)
        index = relative[..., 0] * (2 * side - 1) + relative[..., 1]
        self.register_buffer("index", index)
        self.qkv, self.project = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x, mask=None):
        windows, count, size = x.shape
        qkv = self.qkv(x).reshape(windows, count, 3, self.heads, size // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(count, count, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            each = mask.shape[0]
            scores = scores.view(windows // each, each, self.heads, count, count)
            scores = (scores + mask.unsqueeze(1).unsqueeze(0)).view(-1, self.heads, count, count)
        mixed = self.softmax(scores) @ v
        return self.project(mixed.transpose(1, 2).reshape(windows, count, size))


class SwinBlock(nn.Module):
    """Window attention, shifted or not, and an MLP; tokens [N, H * W, C]."""

    def __init__(self, size, side, shift):
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = WindowAttention(size, side, 2)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def _mask(self, height, width):
        """Which pixels of a shifted window come from different sides of the image."""
        regions, count = torch.zeros((1, height, width, 1)), 0
        parts = slice(0, -self.side), slice(-self.side, -self.shift), slice(-self.shift, None)
        for rows in parts:
            for columns in parts:
                regions[:, rows, columns, :] = count
                count += 1
        windows = window_partition(regions, self.side).view(-1, self.side**2)
        apart = windows.unsqueeze(1) - windows.unsqueeze(2)
        return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)

    def forward(self, x, size):
        height, width = size
        batch, _, channels = x.shape
        shifted, mask = self.norm1(x).view(batch, height, width, channels), None
        if self.shift > 0:
            shifted = torch.roll(shifted, shifts=(-self.shift, -self.shift), dims=(1, 2))
            mask = self._mask(height, width).to(x.device)
        windows = window_partition(shifted, self.side).view(-1, self.side**2, channels)
        attended = self.attention(windows, mask).view(-1, self.side, self.side, channels)
        attended = window_reverse(attended, self.side, height, width)
        if self.shift > 0:
            attended = torch.roll(attended, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + attended.view(batch, height * width, channels)
        return x + self.mlp(self.norm2(x))


class SwinIr(nn.Module):
    """Pads to whole windows by reflection, mean colour off, x2 by pixel shuffle."""

    def __init__(self, side=4):
        super().__init__()
        self.side, self.mean = side, torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        self.first, self.after, self.up = conv(3, 8), conv(8, 8), shuffled(2)
        self.norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleList([SwinBlock(8, side, 0), SwinBlock(8, side, side // 2)])

    def _whole_windows(self, x):
        _, _, height, width = x.size()
        below = (self.side - height % self.side) % self.side
        right = (self.side - width % self.side) % self.side
        return F.pad(x, (0, right, 0, below), "reflect")

    def forward(self, image):
        height, width = image.shape[2:]
        mean = self.mean.type_as(image)
        x = first = self.first(self._whole_windows(image) - mean)
        size = (x.shape[2], x.shape[3])
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, size)
        x = self.norm(tokens).transpose(1, 2).view(-1, 8, size[0], size[1])
        x = self.up(self.after(x) + first) + mean
        return x[:, :, : height * 2, : width * 2]


class ConvNext(nn.Module):
    """7 x 7 depthwise, then linear layers on channels-last values."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = conv(3, 8), conv(8, 3)
        self.depth, self.norm = conv(8, 8, 7, groups=8), nn.LayerNorm(8, eps=1e-6)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x):
        features = self.head(x)
        mixed = self.norm(self.depth(features).permute(0, 2, 3, 1))
        mixed = self.gamma * self.narrow(F.gelu(self.wide(mixed)))
        return x + self.tail(features + mixed.permute(0, 3, 1, 2))


class Safm(nn.Module):
    """SAFMN: channels pooled to coarser and coarser maps, and resized back."""

    def __init__(self):
        super().__init__()
        self.head, self.join, self.tail = conv(3, 8), conv(8, 8, 1), shuffled(2)
        self.parts = nn.ModuleList(conv(4, 4, groups=4) for _ in range(2))

    def forward(self, x):
        features = self.head(x)
        height, width = features.shape[-2:]
        fine, coarse = features.chunk(2, dim=1)
        small = F.adaptive_max_pool2d(coarse, (height // 2, width // 2))
        wide = F.interpolate(self.parts[1](small), size=(height, width), mode="nearest")
        mixed = self.join(torch.cat([self.parts[0](fine), wide], 1))
        return self.tail(F.gelu(mixed) * features)
