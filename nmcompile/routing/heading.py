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
from nmcompile.progress import Reporter
from nmcompile.routing.calibrating import best_levels, calibrate, judge, price_of
from nmcompile.routing.head import Head, cost_of, head_for
from nmcompile.routing.losses import average_loss, class_loss, regression_loss
from nmcompile.routing.nested import Nested
from nmcompile.routing.windows import Windows, draw, measure
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches
from nmcompile.training.recipe import Recipe

HEAD = "head.pt"
PIXELS = 3072 << 12  # of all windows: 3072 of 64 x 64; twice as many gained nothing
LEARNT, FITTED = 2 / 3, 1 / 6  # shares of the windows; on the rest the head is judged
SHARPNESS = 10.0  # of the softmax over scores, whose unit is the first level's mean regret
CLASS, AVERAGE = 0.01, 0.1  # weights of ClassSR's losses beside the regression's 1
_TINY = 1e-20  # less than any error of 8 bits
STEPS = 1000  # twice as many overfit: on images of their own, IMDN lost 0.01 dB by them
_BATCH = 64
_RATES = Recipe(steps=STEPS, lr=3e-3)
_SETTLED = 256  # windows
_LEAST = 96  # likewise
_EFFORTS = 19  # prices that the head meets while it learns


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
    learn(head, windows.part(0, first), costs, recipe.seed, ctx.reporter)
    fitted, held = windows.part(first, last), windows.part(last, len(windows))
    found = calibrate(scores_of(head, fitted.images), fitted.errors.numpy(), costs)
    judged = judge(scores_of(head, held.images), held.errors.numpy(), costs)
    window = windows.images.shape[2]
    share = cost_of(head, nested.program, window)
    facts = {
        "windows": len(windows), "window": window, "width": head.width,
        "cost": round(share, 5), "level_psnr": _psnrs(held.errors), **found.facts,
        "held_out": judged,
    }  # fmt: skip
    return Headed(head, found.bias, found.effort, found.shares, share, facts, found.notes)


def measured(nested: Nested, data: Patches, recipe: Recipe, ctx: Context, window: int) -> Windows:
    """The windows; their errors from a checkpoint of the same levels where a run is resumed.

    The errors are weighted so that images count alike, see `by_image`.
    """
    count = max(_LEAST, PIXELS // window**2)
    asked = f"{_digest(nested, recipe)} {window} {count} {ctx.task}"
    path = None if recipe.checkpoint is None else recipe.checkpoint / HEAD
    if recipe.resume and path is not None and path.is_file():
        windows = draw(data, window, checkpoint.read_for(path, asked)["errors"])
    else:
        windows = measure(nested, data, window, count, ctx)
        if path is not None:
            _keep(path, {"digest": asked, "errors": windows.errors}, ctx)
    images = torch.tensor([data.image_of(number) for number in range(count)])
    return Windows(windows.images, by_image(windows.errors, images))


def by_image(errors: Tensor, images: Tensor) -> Tensor:
    """Errors over those that the last level makes on the same image, times what it makes on all.

    Quality is a mean of PSNR, and PSNR changes by a share of an image's error: what is gained on a
    smooth image counts as much as a hundred times of it on a rough one. Within an image errors add
    up as they are. One window of the average error stands beside those of each image, as there may
    be few.

    Args:
        errors: [N, K] of windows.
        images: [N], the image of each.
    """
    last = errors[:, -1]
    _, places, counts = images.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=errors.dtype).index_add(0, places, last)
    means = (sums + last.mean()) / (counts + 1)
    weights: Tensor = last.mean() / means.clamp_min(_TINY)
    return errors * weights[places, None]


def _keep(path: Path, content: dict[str, Any], ctx: Context) -> None:
    """Writes a checkpoint; a full disk is no end."""
    try:
        checkpoint.write(path, content)
    except OSError as error:
        ctx.reporter.note(
            f"note: {path} could not be written ({error.strerror or error}): a resumed run will "
            "measure the levels again"
        )


def learn(
    head: Head, windows: Windows, costs: NDArray[np.float64], seed: int, reporter: Reporter
) -> None:
    """Adam over the windows, turned at random, at a random effort in each step."""
    regrets = _regrets(windows.errors)
    rising = torch.from_numpy((costs - costs[0]) / (costs[-1] - costs[0])).float()
    prices, shares = _answers(regrets, rising)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(head.parameters(), lr=_RATES.lr)
    with reporter.stage("difficulty head", STEPS) as show:
        for step in range(STEPS):
            chosen = torch.randint(len(windows), (_BATCH,), generator=generator)
            effort = int(torch.randint(len(prices), (), generator=generator))
            loss = _loss(
                head(_turned(windows.images[chosen], generator)).flatten(1),
                regrets[chosen], rising, prices[effort], shares[effort],
            )  # fmt: skip
            optimiser.param_groups[0]["lr"] = _RATES.rate(step / STEPS)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            show()


def _loss(scores: Tensor, regrets: Tensor, rising: Tensor, price: Tensor, wanted: Tensor) -> Tensor:
    """Of a batch at one price of cost; `wanted` are the shares that the best choice gives there.

    The regression carries it: on EDSR's levels the other two, which ClassSR has nothing beside,
    neither gained nor lost 0.02 dB. They decide windows between two levels, and keep levels in use.
    """
    soft = (SHARPNESS * (scores - price * rising)).softmax(1)
    fitted = regression_loss(scores, regrets)
    return fitted + CLASS * class_loss(soft) + AVERAGE * average_loss(soft, wanted)


def _regrets(errors: Tensor) -> Tensor:
    """[N, K]: what each level errs beyond the last one, 1 being the first level's mean.

    Errors are compared as they are and not in dB: an image's PSNR is that of its windows' mean
    error, so that a window of little error matters little in it.
    """
    beyond = errors - errors[:, -1:]
    return (beyond / beyond[:, 0].abs().mean().clamp_min(_TINY)).float()


def _answers(regrets: Tensor, rising: Tensor) -> tuple[Tensor, Tensor]:
    """Prices at which the best choice costs shares evenly spaced over 0..1, and its shares.

    Returns:
        [E] prices and [E, K] shares of the levels.
    """
    known, costs = -regrets.double().numpy(), rising.double().numpy()
    prices, shares = [], []
    for wanted in np.linspace(0, 1, _EFFORTS + 2)[1:-1]:
        price = price_of(known, costs, float(wanted))
        best = best_levels(known, price, costs)
        prices.append(price)
        shares.append(np.bincount(best, minlength=len(costs)) / len(best))
    return torch.tensor(prices).float(), torch.tensor(np.array(shares)).float()


def _turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """The windows flipped and turned, all alike: the errors are the same but for the noise."""
    flips = torch.randint(2, (3,), generator=generator).tolist()
    images = images.flip([axis for axis in (2, 3) if flips[axis - 2]])
    return images.transpose(2, 3) if flips[2] else images


def scores_of(head: Head, images: Tensor) -> NDArray[np.float64]:
    """[N, K] scores of windows."""
    with torch.no_grad():
        found = torch.cat([head(part).flatten(1) for part in images.split(256)])
    return found.double().numpy()


def _psnrs(errors: Tensor) -> list[float]:
    """Of each level on the windows taken together, dB."""
    return [round(float(-10 * torch.log10(error)), 3) for error in errors.mean(0)]


def _digest(nested: Nested, recipe: Recipe) -> str:
    """Equal for equal levels and seeds."""
    found = hashlib.sha256(checkpoint.weights_digest(nested.program).encode())
    for name, least in sorted(nested.least.items()):
        found.update(name.encode() + least.contiguous().numpy().tobytes())
    return f"{found.hexdigest()} {recipe.seed}"
