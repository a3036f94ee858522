"""Soft shares of levels for windows -> what is wrong with them: losses that a head is trained by.

ClassSR (Kong et al., CVPR 2021, equations 3 and 4) has `class_loss` and `average_loss` for three
branches of equal shares; here they are for K levels and any shares. `regret` is ours.
"""

from __future__ import annotations

from torch import Tensor


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


def regret(shares: Tensor, losses: Tensor) -> Tensor:
    """What the choice is expected to lose against the best one: mean of sum_i p_i l_i - min_i l_i.

    Args:
        shares: [N, K] softmax over levels.
        losses: [N, K] what each level loses, its price included.
    """
    return ((shares * losses).sum(1) - losses.amin(1)).mean()
