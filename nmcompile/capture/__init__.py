"""An eager module or ExportedProgram -> a Program: functional ATen graph, dynamic N, H and W."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.export import ExportedProgram

from nmcompile.capture.archive import read_archive
from nmcompile.capture.module import read_module
from nmcompile.capture.tracing import quiet
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Program
from nmcompile.sizes import Size

CHANNELS = (3, 1)


def capture(
    model: nn.Module | ExportedProgram,
    channels: int | None = None,
    size: Size | None = None,
    extras: Sequence[ExtraInput] | None = None,
    value_range: float = 1.0,
) -> Program:
    """Reads a network into a Program.

    Args:
        model: takes an image batch [N, C, H, W] (and perhaps further inputs), gives [N, C, sH, sW].
        channels: image channels; found by trial if None.
        size: (H, W) that the network takes; found by trial if None.
        extras: further inputs in order; their shapes are found by trial if None.
        value_range: 1.0 or 255.0.

    Returns:
        A Program whose graph works at every size that the network itself allows.

    Raises:
        NmcompileError: the network cannot be exported, or is no image-to-image network.
    """
    if channels not in (None, *CHANNELS):
        raise NmcompileError(
            f"{channels} image channels; nmcompile takes grey (1) and RGB (3) images: give what is "
            "more as a further input, by a module such as forward(self, image, noise_map) that "
            "concatenates them"
        )
    with quiet():
        if isinstance(model, ExportedProgram):
            return read_archive(model, extras, value_range)
        tried = (channels,) if channels else CHANNELS
        return read_module(_bare(model).eval(), tried, size, extras, value_range)


def _bare(model: nn.Module) -> nn.Module:
    """The network itself, checked to be one that runs here, without what it is wrapped in."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if isinstance(model, torch.jit.ScriptModule):
        raise NmcompileError("this is TorchScript, which torch.export refuses; give the nn.Module")
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise NmcompileError(f"weight {name} is {weight.dtype}; call model.float() before")
        if weight.device.type != "cpu":
            raise NmcompileError(f"weight {name} is on {weight.device}; call model.cpu() before")
    return model
