"""Windows and the errors of levels on them -> a difficulty head that has learnt which deserve what.

The class and average losses are ClassSR's (Kong et al., CVPR 2021), see losses.py.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmcompile.progress import Reporter
from nmcompile.routing.calibrating import best_levels, price_of
from nmcompile.routing.head import Head
from nmcompile.routing.losses import (
    average_loss,
    class_loss,
    difficulty_loss,
    regression_loss,
)
from nmcompile.routing.windows import Windows
from nmcompile.training.recipe import Recipe

STEPS = 1000  # twice as many overfit: on images of their own, IMDN lost 0.01 dB by them
SHARPNESS = 10.0  # of the softmax over scores, whose unit is the first level's mean regret
CLASS, AVERAGE = 0.01, 0.1  # weights of ClassSR's losses beside the regression's 1
TINY = 1e-20  # less than any error of 8 bits
_LEAST_ERROR = 1e-4  # of the mean: windows of less are alike
_BATCH = 64
_RATES = Recipe(steps=STEPS, lr=3e-3)
_EFFORTS = 19  # prices that the head meets while it learns


def learn(
    head: Head,
    windows: Windows,
    errors: Tensor,
    costs: NDArray[np.float64],
    seed: int,
    reporter: Reporter,
) -> None:
    """Adam over the windows, turned at random, at a random effort in each step.

    Args:
        head: learns in place.
        windows: what it sees, and how difficult each is.
        errors: [N, K], those that it is to keep low, see `by_image`.
        costs: [K] of the levels, increasing.
        seed: of all that is random.
        reporter: shows the steps.
    """
    regrets, weights = _regrets(errors), (errors[:, -1:] / errors[:, -1].mean()).float()
    difficulty = _difficulty(windows.errors)
    variance = float(difficulty.var())
    rising = torch.from_numpy((costs - costs[0]) / (costs[-1] - costs[0])).float()
    prices, shares = _answers(regrets, rising)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(head.parameters(), lr=_RATES.lr)
    with reporter.stage("difficulty head", STEPS) as show:
        for step in range(STEPS):
            chosen = torch.randint(len(windows), (_BATCH,), generator=generator)
            effort = int(torch.randint(len(prices), (), generator=generator))
            said = head(_turned(windows.images[chosen], generator)).flatten(1)
            loss = _loss(
                said[:, :-1] * weights[chosen], regrets[chosen], rising, prices[effort],
                shares[effort],
            ) + difficulty_loss(said[:, -1], difficulty[chosen], variance)  # fmt: skip
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
    return (beyond / beyond[:, 0].abs().mean().clamp_min(TINY)).float()


def _difficulty(errors: Tensor) -> Tensor:
    """[N]: the logarithm of the last level's errors, 0 on average; near 0 errors tell no more."""
    last = errors[:, -1]
    logs = last.clamp_min(max(_LEAST_ERROR * float(last.mean()), TINY)).log()
    return (logs - logs.mean()).float()


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
