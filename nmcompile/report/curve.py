"""The points of a training run -> a picture of its loss and of its PSNR on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nmcompile.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (620.0, 220.0)
_FONT = 11


def training_curve(points: Sequence[dict[str, Any]]) -> str:
    """Loss (left) and PSNR (right) over the steps; "" without points.

    Args:
        points: dictionaries with step, loss and psnr (None where not known).
    """
    if not points:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0] / 72, _SIZE[1] / 72), dpi=72)
    for place, key, title in ((0.09, "loss", "loss"), (0.59, "psnr", "PSNR, dB")):
        known = [p for p in points if p.get(key) is not None]
        axes = figure.add_axes((place, 0.16, 0.38, 0.68))
        axes.plot([p["step"] for p in known], [p[key] for p in known], color=canvas.ACCENT)
        axes.set_title(title, color=canvas.INK, fontsize=_FONT, loc="left")
        _calm(axes)
    return canvas.svg(figure, _SIZE, "Loss and PSNR while training")


def _calm(axes: Axes) -> None:
    """The page's colours, few ticks, whole numbers of steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(colors=canvas.QUIET, labelsize=_FONT)
    axes.grid(color=canvas.LINE, linewidth=1)
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
