"""Scores of levels for windows -> what is wrong with them: losses that a head is trained by.

ClassSR (Kong et al., CVPR 2021) has `class_loss` and `average_loss`, for branches of equal shares;
here they are for K levels and any shares. The other two are ours.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_TAIL = 0.3
_LEAST_VARIANCE = 0.01  # where errors differ by less than a tenth, they are alike


def class_loss(shares: Tensor) -> Tensor:
    """How undecided the windows are: mean of (K - 1) - sum_{i<j} |p_i - p_j|; 0 if one-hot.

    Args:
        shares: [N, K] softmax over levels.
    """
    count = shares.shape[1]
    apart = (shares[:, :, None] - shares[:, None, :]).abs().sum((1, 2)) / 2
    return (count - 1 - apart).mean()


def average_loss(shares: Tensor, wanted: Tensor) -> Tensor:
    """How far the batch is from the wanted shares; 1 where it all is of the least wanted level.

    sum_i |sum_b p_bi - N t_i| / (2 N (1 - min_i t_i)); ClassSR's where t_i = 1 / K.

    Args:
        shares: [N, K] softmax over levels.
        wanted: [K], t, of sum 1.
    """
    return (shares.mean(0) - wanted).abs().sum() / (2 * (1 - wanted.min()))


def regression_loss(scores: Tensor, regrets: Tensor) -> Tensor:
    """How far scores are from -regrets, less the last level's: Huber's, mean over levels.

    Regrets have a long tail, which a square would let decide; Huber's loss is a square below
    0.3 of the first level's mean regret.

    Args:
        scores: [N, K].
        regrets: [N, K], 0 at the last level.
    """
    return F.smooth_l1_loss(scores - scores[:, -1:], -regrets, beta=_TAIL)


def difficulty_loss(said: Tensor, difficulty: Tensor, variance: float) -> Tensor:
    """How far a window's difficulty is from what the head says: 1 if it says always the mean.

    Args:
        said: [N].
        difficulty: [N].
        variance: of the difficulty over all windows.
    """
    return F.mse_loss(said, difficulty) / max(variance, _LEAST_VARIANCE)
