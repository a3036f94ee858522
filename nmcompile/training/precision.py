"""What is asked for and the processor -> whether training computes in bf16."""

from __future__ import annotations

import torch

from nmcompile.errors import NmcompileError

_CHOICES = ("auto", "bf16", "fp32")


def trains_in_bf16(asked: str, device: torch.device) -> bool:
    """Whether convolutions are trained in bf16 (sums in fp32, weights kept in fp32).

    On one core of a Zen 4 with AVX512_BF16, forward and backward of eight 64 -> 64 convolutions ran
    at 100 GMAC/s in bf16 and 51 in fp32 (both channels-last, other work beside them).

    Args:
        asked: bf16, fp32, or auto: where the processor multiplies bf16 itself; elsewhere torch
            would only emulate it.
        device: where the network is trained.
    """
    if asked not in _CHOICES:
        raise NmcompileError(f"precision {asked!r}: expected {', '.join(_CHOICES)}")
    if asked != "auto":
        return asked == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
