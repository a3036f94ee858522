"""A convolution with what follows it, as one operator: its meaning in torch, its schema in ONNX.

In words: y = pixel_shuffle(conv(x, weight) + bias); y += residual, if it is added before the
activation; y = activation(y); y += residual, if it is added after it. A level applies the weights
that it keeps. What runtime/native/ has (cuda/, ort/, trt/) computes the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from nmcompile.runtime.native.blob import Activation, Residual

DOMAIN = "nmcompile"
OPERATOR = "NMConv"
VERSION = 1
LAYOUTS = ("NCHW", "NHWC")
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@torch.library.custom_op("nmcompile::nm_conv2d", mutates_args=())
def nm_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    level: Tensor | None,
    least: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: int,
    slope: float,
    residual_place: int,
    shuffle: int,
    layout: str,
    name: str,  # noqa: ARG001  (carried to the file that is written)
) -> Tensor:
    """The plain reference that every implementation of the operator is tested against.

    Args:
        x: [N, C, H, W], or [N, H, W, C], as `layout` says of all images here.
        weight: [out, in / groups, kh, kw], zeros where a pattern keeps nothing.
        bias: [out], or None.
        residual: of the output's shape; None where `residual_place` is 0.
        level: one int32, from 0, which weights to apply; None for all of them.
        least: uint8 of the weight's shape, the least level that keeps each; None: all levels do.
        stride: (y, x).
        padding: zeros at (left, right, top, bottom).
        dilation: (y, x).
        groups: of the convolution.
        activation: NONE, RELU or LEAKY_RELU (runtime.native.blob.Activation).
        slope: of LEAKY_RELU.
        residual_place: runtime.native.blob.Residual.
        shuffle: factor of the pixel shuffle; 1 for none.
        layout: NCHW or NHWC.
        name: what errors call the layer.

    Returns:
        [N, out / shuffle^2, H', W'], or [N, H', W', out / shuffle^2].
    """
    if level is not None and least is not None:
        weight = torch.where(least <= level, weight, torch.zeros((), dtype=weight.dtype))
    last = layout == "NHWC"
    image = x.permute(_TO_NCHW) if last else x
    y = F.conv2d(F.pad(image, list(padding)), weight, bias, stride, 0, dilation, groups)
    y = F.pixel_shuffle(y, shuffle)
    added = residual.permute(_TO_NCHW) if last and residual is not None else residual
    if added is not None and residual_place == Residual.BEFORE_ACTIVATION:
        y = y + added
    if activation != Activation.NONE:
        y = F.relu(y) if activation == Activation.RELU else F.leaky_relu(y, slope)
    if added is not None and residual_place == Residual.AFTER_ACTIVATION:
        y = y + added
    return (y.permute(_TO_NHWC) if last else y).contiguous()


@nm_conv2d.register_fake
def _shape(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """The result's shape alone, by formula: H and W may be symbols."""
    *_, stride, padding, dilation, _, _, _, _, shuffle, layout, _ = rest
    last = layout == "NHWC"
    height, width = x.shape[1:3] if last else x.shape[2:4]
    left, right, top, bottom = padding
    tall, wide = (
        (size + before + after - reach * (side - 1) - 1) // step + 1 if step > 1
        else size + before + after - reach * (side - 1)
        for size, before, after, reach, side, step in (
            (height, top, bottom, dilation[0], weight.shape[2], stride[0]),
            (width, left, right, dilation[1], weight.shape[3], stride[1]),
        )
    )  # fmt: skip
    channels = weight.shape[0] // shuffle**2
    tall, wide = tall * shuffle, wide * shuffle
    shape = (tall, wide, channels) if last else (channels, tall, wide)
    return x.new_empty((x.shape[0], *shape))


@functools.cache
def register_schema() -> None:
    """Tells the onnx package of the operator, so that models with it can be written and checked.

    Inputs are X, then `residual` (T) where that attribute is not 0, then `level` (int32, one
    element) where `routed` is 1; none is left out in between.
    """
    schema, kinds = onnx.defs.OpSchema, onnx.defs.OpSchema.AttrType
    images = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    option = onnx.defs.OpSchema.FormalParameterOption.Optional
    attributes = {
        "weights": (kinds.TENSOR, "the packed bytes, as 1-D int32, zeros up to a multiple of 4"),
        "bytes": (kinds.INT, "how many they are"),
        "format": (kinds.STRING, "cpu: a libnmk program of one convolution; cuda: libnmk_cuda's"),
        "residual": (kinds.INT, "0 none, 1 added before the activation, 2 after it"),
        "routed": (kinds.INT, "1 if the last input is the level"),
        "layout": (kinds.STRING, "the order of an image's axes: NCHW or NHWC"),
        "sizes": (
            kinds.INTS,
            "channels, shuffle r, strides s and losses l: ((size - l) / s + 1) * r are left",
        ),
        "name": (kinds.STRING, "what errors call the layer"),
        "pattern": (kinds.STRING, "the N:M pattern of its weights, for readers"),
    }
    onnx.defs.register_schema(
        schema(
            OPERATOR, DOMAIN, VERSION,
            doc="A convolution with N:M weights, residual, activation and pixel shuffle fused.",
            inputs=[
                schema.FormalParameter("X", "T"),
                schema.FormalParameter("second", "M1", param_option=option),
                schema.FormalParameter("third", "M2", param_option=option),
            ],
            outputs=[schema.FormalParameter("Y", "T")],
            type_constraints=[
                ("T", images, "an image"),
                ("M1", [*images, "tensor(int32)"], "the residual; or the level, if none is added"),
                ("M2", ["tensor(int32)"], "the level, where a residual is added"),
            ],
            attributes=[
                schema.Attribute(name, kind, about) for name, (kind, about) in attributes.items()
            ],
        )
    )  # fmt: skip
