"""A restored and a clean image -> PSNR and SSIM by the standard protocol of their task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmcompile.tasks import Bytes, Floats, Task, luma, to_bytes

PROTOCOL = (
    "output clipped and rounded to 8 bits; super-resolution: Y of BT.601 (16..235, not rounded), "
    "border of `scale` pixels left out; other tasks: all pixels and channels; SSIM: Gaussian "
    "window, sigma 1.5, 11x11; mean over images"
)
_HUGE = 1e6


@dataclass(frozen=True)
class Quality:
    """PSNR in dB and SSIM of one image, or the mean over several."""

    psnr: float
    ssim: float


def compare(task: Task, restored: Floats, clean: Bytes) -> Quality:
    """Quality of `restored` (H x W x C in 0..1) against `clean` (uint8, C' = C, or 3 if C = 1).

    A one-channel network under super-resolution works on luma; it is compared with the clean
    image's luma rounded to 8 bits.
    """
    ours, theirs = _comparable(task, restored, clean)
    border = task.border
    if border:
        ours, theirs = (x[border:-border, border:-border] for x in (ours, theirs))
    return Quality(_psnr(ours, theirs), _ssim(ours, theirs))


def countable(x: Floats) -> Floats:
    """The same with numbers for what is none, so large that no comparison overlooks them."""
    return np.nan_to_num(x, nan=_HUGE, posinf=_HUGE, neginf=-_HUGE)


def _comparable(
    task: Task, restored: Floats, clean: Bytes
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shown = to_bytes(restored)
    if not task.on_luma:
        return shown.astype(np.float64), clean.astype(np.float64)
    if restored.shape[2] == 1:
        target = np.floor(luma(clean) + 0.5) if clean.shape[2] == 3 else clean[..., 0]
        return shown[..., 0].astype(np.float64), target.astype(np.float64)
    return luma(shown), luma(clean)


def _psnr(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    error = float(np.mean((ours - theirs) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _ssim(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    from skimage.metrics import structural_similarity

    if min(ours.shape[:2]) < 11:
        return float("nan")
    return float(
        structural_similarity(
            ours, theirs, data_range=255, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, channel_axis=2 if ours.ndim == 3 else None,
        )
    )  # fmt: skip
