"""Nested levels, frozen, and windows -> a difficulty head trained on their errors, calibrated.

Levels of a window differ in error and in cost. The head learns from measured errors which level a
window deserves at any price of cost, so that one head serves all efforts. The class and average
losses are ClassSR's (Kong et al., CVPR 2021), generalised; ClassPruning (arXiv 2211.05488) names
the idea of a classifier that picks one of several sparse networks, and its losses are not public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmcompile.context import Context
from nmcompile.routing.calibrating import calibrate, judge
from nmcompile.routing.head import Head, cost_of, head_for
from nmcompile.routing.learning import TINY, learn
from nmcompile.routing.nested import Nested
from nmcompile.routing.windows import Windows, draw, measure
from nmcompile.runtime.routing import image_scores
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches
from nmcompile.training.recipe import Recipe

HEAD = "head.pt"
PIXELS = 3072 << 12  # of all windows: 3072 of 64 x 64; twice as many gained nothing
LEARNT, FITTED = 2 / 3, 1 / 6  # shares of the windows; on the rest the head is judged
_SETTLED = 256  # windows
_LEAST = 96  # likewise


@dataclass(frozen=True)
class Headed:
    """A trained head, and how it decides.

    Attributes:
        head: the module; nmcompile.routing.head.head_program makes a program of it.
        bias: as the manifest's Routing has it.
        effort: the default one.
        shares: of calibration windows that each level gets at that effort.
        cost: MACs of the head over the dense network's, on a window.
        facts: for the receipt.
        notes: what the user must know.
    """

    head: Head
    bias: tuple[float, ...]
    effort: float
    shares: tuple[float, ...]
    cost: float
    facts: dict[str, Any]
    notes: tuple[str, ...]


def train_head(
    nested: Nested,
    times: Sequence[float],
    data: Patches,
    recipe: Recipe,
    ctx: Context,
    window: int,
) -> Headed:
    """Trains a head on the errors of frozen levels.

    Args:
        nested: the levels.
        times: of the levels, increasing.
        data: patches of the window's size; the first few thousand by number are the windows.
        recipe: its seed, and where checkpoints go: `head.pt` there keeps the measured errors, so
            that a run that is resumed goes on after them.
        ctx: task and reporter.
        window: side of a window in input pixels, overlap included.

    Raises:
        NmcompileError: the network is too small for a head; patches of another size; a checkpoint
            of another network.
    """
    head = head_for(nested, recipe.seed)
    windows = measured(nested, data, recipe, ctx, window)
    head.settle(windows.images[:_SETTLED])
    return fit(head, nested, times, windows, recipe, ctx)


def fit(
    head: Head,
    nested: Nested,
    times: Sequence[float],
    windows: Windows,
    recipe: Recipe,
    ctx: Context,
) -> Headed:
    """Trains a head from where it stands, calibrates it, and judges it; see train_head."""
    costs = np.asarray(times)
    first = round(LEARNT * len(windows))
    last = first + round(FITTED * len(windows))
    errors = by_image(windows)
    learn(head, windows.part(0, first), errors[:first], costs, recipe.seed, ctx.reporter)
    scores = scores_of(head, windows)
    found = calibrate(scores[first:last], errors[first:last].numpy(), costs)
    judged = judge(scores[last:], errors[last:].numpy(), costs)
    window = windows.images.shape[2]
    share = cost_of(head, nested.program, window)
    facts = {
        "windows": len(windows), "window": window, "width": head.width,
        "cost": round(share, 5), "level_psnr": _psnrs(errors[last:]), **found.facts,
        "held_out": judged,
    }  # fmt: skip
    return Headed(head, found.bias, found.effort, found.shares, share, facts, found.notes)


def measured(nested: Nested, data: Patches, recipe: Recipe, ctx: Context, window: int) -> Windows:
    """The windows; their errors from a checkpoint of the same levels where a run is resumed."""
    count = max(_LEAST, PIXELS // window**2)
    asked = f"{_digest(nested, recipe)} {window} {count} {ctx.task}"
    path = None if recipe.checkpoint is None else recipe.checkpoint / HEAD
    if recipe.resume and path is not None and path.is_file():
        return draw(data, window, checkpoint.read_for(path, asked)["errors"])
    windows = measure(nested, data, window, count, ctx)
    if path is not None:
        _keep(path, {"digest": asked, "errors": windows.errors}, ctx)
    return windows


def by_image(windows: Windows) -> Tensor:
    """[N, K] errors over what the last level errs on the same image, times what it errs on all.

    Quality is a mean of PSNR, and PSNR changes by a share of an image's error: what is gained on a
    smooth image counts as much as a hundred times of it on a rough one. Within an image errors add
    up as they are. One window of the average error stands beside those of each image, as there may
    be few.
    """
    last = windows.errors[:, -1]
    _, places, counts = windows.sources.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=last.dtype).index_add(0, places, last)
    means = (sums + last.mean()) / (counts + 1)
    weights = last.mean() / means.clamp_min(TINY)
    errors: Tensor = windows.errors * weights[places, None]
    return errors


def _keep(path: Path, content: dict[str, Any], ctx: Context) -> None:
    """Writes a checkpoint; a full disk is no end."""
    try:
        checkpoint.write(path, content)
    except OSError as error:
        ctx.reporter.note(
            f"note: {path} could not be written ({error.strerror or error}): a resumed run will "
            "measure the levels again"
        )


def scores_of(head: Head, windows: Windows) -> NDArray[np.float64]:
    """[N, K] scores of windows, each among all that are of its image."""
    with torch.no_grad():
        said = torch.cat([head(part).flatten(1) for part in windows.images.split(256)])
    known, sources = said.double().numpy(), windows.sources.numpy()
    found = np.empty((len(known), known.shape[1] - 1))
    for source in np.unique(sources):
        found[sources == source] = image_scores(known[sources == source], found.shape[1])
    return found


def _psnrs(errors: Tensor) -> list[float]:
    """Of each level on the windows taken together, dB."""
    return [round(float(-10 * torch.log10(error)), 3) for error in errors.mean(0)]


def _digest(nested: Nested, recipe: Recipe) -> str:
    """Equal for equal levels and seeds."""
    found = hashlib.sha256(checkpoint.weights_digest(nested.program).encode())
    for name, least in sorted(nested.least.items()):
        found.update(name.encode() + least.contiguous().numpy().tobytes())
    return f"{found.hexdigest()} {recipe.seed}"
