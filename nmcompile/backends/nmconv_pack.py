"""A convolution and what is fused into it -> the bytes that an NMConv node holds, by format."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from nmcompile.backends.as_conv import LARGEST_FACTOR
from nmcompile.backends.levels import Levels
from nmcompile.backends.nmconv_fuse import Fused, Takes
from nmcompile.convs import get_tensor
from nmcompile.pattern import Pattern
from nmcompile.runtime.native import cuda_pack
from nmcompile.runtime.native.blob import (
    Activation,
    Family,
    Kind,
    Operation,
    Value,
    conv_data,
    family_of,
    pack,
)
from nmcompile.runtime.native.cuda_pack import Half


def _cpu_obstacle(fused: Fused) -> str | None:
    shape = fused.conv_shape
    reach = [d * (k - 1) for d, k in zip(shape.dilation, shape.kernel, strict=True)]
    left, right, top, bottom = shape.padding
    if max(left, right) > reach[1] or max(top, bottom) > reach[0]:
        return "padding beyond its kernel's reach; supported is up to that"
    return None


def _cuda_obstacle(fused: Fused) -> str | None:
    outputs, inputs = fused.shape[:2]
    return cuda_pack.obstacle(
        fused.conv_shape, Activation.NONE, inputs * fused.conv.groups, outputs
    )


TAKES = {
    "cpu": Takes(_cpu_obstacle, LARGEST_FACTOR, shuffled_residual=False),
    "cuda": Takes(_cuda_obstacle, cuda_pack.LARGEST_SHUFFLE, shuffled_residual=True),
}


def pack_cpu(module: fx.GraphModule, fused: Fused, pattern: Pattern, levels: Levels) -> bytes:
    """A libnmk program of that one convolution, in fp32."""
    weight, bias = _arrays(module, fused)
    family = family_of(pattern.v, dense=pattern.is_dense)
    data = conv_data(weight, bias, family is not Family.DENSE)
    data = levels.packed(data, weight, levels.of(fused.layer, weight))
    step = Operation(
        Kind.CONV2D,
        (0,) if fused.residual is None else (0, 1),
        1 if fused.residual is None else 2,
        fused.conv_shape.params(fused.place, family),
        (fused.slope, 0.0, 1.0, 1.0),
        data,
        fused.activation,
        fused.shuffle,
    )
    outputs = len(weight) // fused.shuffle**2
    channels = [weight.shape[1] * fused.conv.groups, outputs, outputs]
    channels = channels if fused.residual is not None else channels[:2]
    values = [Value(index, 0, count) for index, count in enumerate(channels)]
    last = len(channels) - 1
    return pack(channels, values, [step], last, [last], levels=levels.count)


def pack_cuda(module: fx.GraphModule, fused: Fused, half: Half, levels: Levels) -> bytes:
    """What libnmk_cuda's kernels read; NmcompileError where a weight is too large for fp16."""
    weight, bias = _arrays(module, fused)
    least = levels.of(fused.layer, weight)
    return cuda_pack.pack(
        weight, bias, fused.conv_shape, half,
        activation=fused.activation, slope=fused.slope, residual=fused.place,
        shuffle=fused.shuffle, least=least, levels=1 if least is None else levels.count,
        name=fused.name,
    )  # fmt: skip


def _arrays(module: fx.GraphModule, fused: Fused) -> tuple[np.ndarray, np.ndarray | None]:
    def read(node: fx.Node) -> np.ndarray:
        return get_tensor(module, str(node.target)).to(torch.float32).numpy()

    bias = fused.conv.bias
    return read(fused.conv.weight), None if bias is None else read(bias)
