"""Shapes and patterns -> our layers, PyTorch's of the same shapes, and graphs of their calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import Activation, ConvShape, Residual
from nmcompile.runtime.native.cuda_conv import CudaBlock, CudaConv
from nmcompile.runtime.native.cuda_pack import Half, pack

SAME = ConvShape((3, 3), padding=(1, 1, 1, 1))
BLOCKS, FEATURES = 16, 64
DEVICE = torch.device("cuda")
_REPLAYS = 3
Call = Callable[[int], object]


def images(count: int, channels: int, height: int, width: int, half: torch.dtype) -> list[Tensor]:
    """Random images, channels last."""
    shape = (1, channels, height, width)
    return [
        torch.randn(shape, device=DEVICE).to(half).to(memory_format=torch.channels_last)
        for _ in range(count)
    ]


def random_weight(pattern: str, outputs: int, inputs: int, kernel: int = 3) -> np.ndarray:
    """Weights [out, in, kernel, kernel] that keep a pattern and keep values near 1."""
    random = np.random.default_rng(outputs + inputs)
    weight = random.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32)
    weight *= Pattern.parse(pattern).largest(weight)
    return weight / np.sqrt((weight**2).sum((1, 2, 3)).mean())


class Conv:
    """One of our convolutions on torch tensors, and its weights."""

    def __init__(
        self,
        library: ctypes.CDLL,
        weight: np.ndarray,
        shape: ConvShape = SAME,
        *,
        half: torch.dtype = torch.float16,
        activation: Activation = Activation.NONE,
        residual: Residual = Residual.NONE,
        shuffle: int = 1,
        name: str = "conv",
    ) -> None:
        """Packs the weights and copies them to the GPU."""
        self.weight, self.shuffle = torch.from_numpy(weight), shuffle
        self.bias = torch.linspace(-0.1, 0.1, len(weight))
        own_half = Half.FP16 if half is torch.float16 else Half.BF16
        packed = pack(
            weight, self.bias.numpy(), shape, own_half, activation=activation, residual=residual,
            shuffle=shuffle, name=name,
        )  # fmt: skip
        self.conv = CudaConv(library, packed, name)

    def output(self, x: Tensor) -> Tensor:
        """Memory for what it makes of an image."""
        height, width, channels = self.conv.output_shape(*x.shape[2:])
        return torch.full(
            (len(x), channels, height, width), torch.nan, dtype=x.dtype, device=DEVICE
        ).to(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, y: Tensor, residual: Tensor | None = None) -> Tensor:
        """Queues it on PyTorch's stream."""
        added = 0 if residual is None else residual.data_ptr()
        self.conv.run(x.data_ptr(), y.data_ptr(), _size(x), residual=added, stream=_stream())
        return y


class Block:
    """Two convolutions and a residual: fused where `fused`, else one after the other."""

    def __init__(self, library: ctypes.CDLL, pattern: str, *, fused: bool = True) -> None:
        """Packs random weights; ReLU between the two."""
        weight = random_weight(pattern, FEATURES, FEATURES)
        self.first = Conv(library, weight, activation=Activation.RELU, name="first")
        self.second = Conv(
            library, 0.2 * weight[::-1].copy(), residual=Residual.AFTER_ACTIVATION, name="second"
        )
        self.fused = CudaBlock(library, self.first.conv, self.second.conv) if fused else None
        self.kernel = self.fused.kernel() if self.fused else self.first.conv.kernel()

    def __call__(self, x: Tensor, middle: Tensor, y: Tensor) -> Tensor:
        """Queues it; `middle` is memory that a fused one leaves alone."""
        if self.fused:
            self.fused.run(x.data_ptr(), y.data_ptr(), _size(x), stream=_stream())
        else:
            self.second(self.first(x, middle), y, x)
        return y


class Edsr:
    """EDSR's baseline (16 blocks of 64 features, x2), head and tail dense, by our kernels."""

    def __init__(self, library: ctypes.CDLL, pattern: str, *, fused: bool) -> None:
        """Packs random weights."""
        self.head = Conv(library, random_weight("dense", FEATURES, 3), name="head")
        self.blocks = [Block(library, pattern, fused=fused) for _ in range(BLOCKS)]
        body = random_weight(pattern, FEATURES, FEATURES)
        self.body = Conv(library, body, residual=Residual.AFTER_ACTIVATION, name="body")
        self.up = Conv(
            library, random_weight(pattern, 4 * FEATURES, FEATURES), shuffle=2, name="up"
        )
        self.tail = Conv(library, random_weight("dense", 3, FEATURES), name="tail")
        self.kernel = self.blocks[0].kernel

    def buffers(self, x: Tensor) -> list[Tensor]:
        """Memory for all that is between."""
        features = [self.head.output(x) for _ in range(4)]
        wide = self.up.output(features[0])
        return [*features, wide, self.tail.output(wide)]

    def __call__(self, x: Tensor, buffers: list[Tensor]) -> Tensor:
        """Queues the network."""
        skip, middle, one, other, wide, y = buffers
        now = self.head(x, skip)
        for block in self.blocks:
            now = block(now, middle, one if now is not one else other)
        now = self.body(now, one if now is not one else other, skip)
        return self.tail(self.up(now, wide), y)


def edsr_reference(net: Edsr, x: Tensor) -> Tensor:
    """The same network in PyTorch, with the same weights, in x's type."""

    def conv(layer: Conv, value: Tensor) -> Tensor:
        weight = layer.weight.to(x).to(memory_format=torch.channels_last)
        return F.conv2d(value, weight, layer.bias.to(x), padding=1)

    now = skip = conv(net.head, x)
    for block in net.blocks:
        now = now + conv(block.second, F.relu(conv(block.first, now)))
    now = skip + conv(net.body, now)
    return conv(net.tail, F.pixel_shuffle(conv(net.up, now), 2))


class TorchEdsr(torch.nn.Module):
    """EDSR's baseline in PyTorch, dense, as a peer."""

    def __init__(self) -> None:
        """Default weights."""
        super().__init__()

        def conv(inputs: int, outputs: int) -> torch.nn.Conv2d:
            return torch.nn.Conv2d(inputs, outputs, 3, padding=1)

        self.head, self.body = conv(3, FEATURES), conv(FEATURES, FEATURES)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(conv(FEATURES, FEATURES), torch.nn.ReLU(), conv(FEATURES, FEATURES))
            for _ in range(BLOCKS)
        )
        self.up, self.tail = conv(FEATURES, 4 * FEATURES), conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        """An image of twice the size."""
        now = skip = self.head(x)
        for block in self.blocks:
            now = now + block(now)
        return self.tail(F.pixel_shuffle(self.up(skip + self.body(now)), 2))


def conv_peers(x: Tensor, outputs: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """cuDNN's bare convolution, and its fused one with bias and ReLU, which is what ours does."""
    weight = torch.randn((outputs, x.shape[1], 3, 3), device=DEVICE, dtype=x.dtype)
    weight = weight.to(memory_format=torch.channels_last)
    bias, one = torch.zeros(outputs, device=DEVICE, dtype=x.dtype), (1, 1)
    return {
        "cudnn": lambda x: F.conv2d(x, weight, padding=1),
        "cudnn+relu": lambda x: torch.cudnn_convolution_relu(x, weight, bias, one, one, one, 1),
        "compile": lambda x: F.relu(F.conv2d(x, weight, bias, padding=1)),
    }


def block_peers(x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Two of cuDNN's convolutions (the first with ReLU) and an addition."""
    shape, one = (FEATURES, FEATURES, 3, 3), (1, 1)
    first, second = (
        torch.randn(shape, device=DEVICE, dtype=x.dtype).to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    bias = torch.zeros(FEATURES, device=DEVICE, dtype=x.dtype)

    def cudnn(x: Tensor) -> Tensor:
        middle = torch.cudnn_convolution_relu(x, first, bias, one, one, one, 1)
        return F.conv2d(middle, second, padding=1) + x

    def plain(x: Tensor) -> Tensor:
        return F.conv2d(F.relu(F.conv2d(x, first, bias, padding=1)), second, bias, padding=1) + x

    return {"cudnn": cudnn, "compile": plain}


def measure(calls: Mapping[str, Call], sets: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one call, by CUDA graphs that go round the sets of inputs, interleaved."""
    length = sets * max(1, 12 // sets)
    graphs = {name: _graph(call, sets, length) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(_REPLAYS):
                graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / (length * _REPLAYS))
    return times


def _graph(call: Call, sets: int, length: int) -> torch.cuda.CUDAGraph:
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for index in range(max(3, sets)):
            call(index % sets)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(length):
            call(index % sets)
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _size(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[2], x.shape[3]


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream) if DEVICE.type == "cuda" else 0
