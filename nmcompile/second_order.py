"""A layer's weight and its input statistics -> the weight pruned to a pattern with least error."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from nmcompile.convs import Conv, columns
from nmcompile.pattern import Pattern

_DAMPING = 0.01
_BLOCK = 128


class Hessian:
    """H = X Xᵀ of a layer's im2col'd inputs, one matrix per convolution group.

    Columns are ordered (kh, kw, in), so that the groups of a pattern are consecutive.
    """

    def __init__(self, conv: Conv, shape: tuple[int, int, int, int], positions: int) -> None:
        """Args: conv: the call; shape: (out, in/groups, kh, kw); positions: columns to draw."""
        self._conv, self._shape, self._positions = conv, shape, positions
        size = shape[1] * shape[2] * shape[3]
        self.matrix = torch.zeros(conv.groups, size, size)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, x: Tensor, conv: Conv | None = None) -> None:
        """Adds a batch of the layer's inputs; positions are drawn evenly over the images.

        Args:
            x: the inputs.
            conv: the call that takes them, where it is not the first one.
        """
        images = x.split(1) if x.dim() == 4 else (x,)
        per_image = max(1, self._positions // len(images))
        _, inputs, height, width = self._shape
        for image in images:
            unfolded = columns(image, conv or self._conv, (height, width))[0]
            if unfolded.shape[-1] > per_image:
                drawn = torch.randperm(unfolded.shape[-1], generator=self._generator)[:per_image]
                unfolded = unfolded[..., drawn]
            ordered = unfolded.reshape(unfolded.shape[0], inputs, height * width, -1)
            ordered = ordered.transpose(1, 2).flatten(1, 2)
            self.matrix += ordered @ ordered.transpose(1, 2)

    @cached_property
    def factors(self) -> Tensor:
        """Upper Cholesky factors U of the damped inverses, H⁻¹ = Uᵀ U ([groups, k, k])."""
        matrix = self.matrix.double()
        mean = matrix.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        damping = (_DAMPING * mean)[:, None].expand(-1, matrix.shape[1])
        damped = matrix + torch.diag_embed(damping.contiguous())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        factors: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
        return factors


def prune_second_order(weight: Tensor, factors: Tensor, pattern: Pattern) -> Tensor:
    """Optimal-Brain-Surgeon pruning, N:M group by N:M group, weights after each updated.

    In a group the weights of least w² / U_jj² go (Optimal Brain Compression, NeurIPS 2022;
    SparseGPT, ICML 2023, algorithm 1); for v > 1 the scores of v output channels are added.

    Args:
        weight: [out, in/groups, kh, kw].
        factors: Hessian.factors, columns ordered (kh, kw, in).
        pattern: any v x n:m that the layer can take.

    Returns:
        The pruned weight, same shape.
    """
    rows = _to_rows(weight, factors.shape[0])
    pruned = torch.stack(
        [_prune_rows(w, u, pattern, weight.shape[1]) for w, u in zip(rows, factors, strict=True)]
    )
    return _from_rows(pruned, weight)


def prune_magnitude(weight: Tensor, groups: int, pattern: Pattern) -> Tensor:
    """Keeps the n largest |w| of every group (for v > 1: the largest sums of squares)."""
    rows = _to_rows(weight, groups)
    for group in rows:
        for start, stop, kept in _column_groups(pattern, weight.shape[1], group.shape[1]):
            part = group[:, start:stop]
            part *= _keep(part**2, pattern.v, kept)
    return _from_rows(rows, weight)


def _to_rows(weight: Tensor, groups: int) -> Tensor:
    return weight.permute(0, 2, 3, 1).reshape(groups, weight.shape[0] // groups, -1).clone()


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    outputs, inputs, height, width = like.shape
    return rows.reshape(outputs, height, width, inputs).permute(0, 3, 1, 2).contiguous()


def _column_groups(pattern: Pattern, inputs: int, size: int) -> list[tuple[int, int, int]]:
    """(start, stop, kept) of the pattern's groups over columns ordered (kh, kw, in)."""
    return [
        (base + start, base + start + length, kept)
        for base in range(0, size, inputs)
        for start, length, kept in pattern.group_sizes(inputs)
    ]


def _keep(score: Tensor, v: int, kept: int) -> Tensor:
    """1 for the `kept` best columns of each v rows, else 0."""
    if v > 1:
        blocks = torch.arange(len(score)) // v
        summed = score.new_zeros(int(blocks[-1]) + 1, score.shape[1]).index_add(0, blocks, score)
        score = summed[blocks]
    chosen = score.topk(kept, dim=1).indices
    return torch.zeros_like(score).scatter_(1, chosen, 1.0)


def _prune_rows(weight: Tensor, factor: Tensor, pattern: Pattern, inputs: int) -> Tensor:
    """One convolution group; errors are passed on inside blocks at once, beyond them in bulk."""
    diagonal = factor.diagonal()
    pending = _column_groups(pattern, inputs, weight.shape[1])
    while pending:
        first = pending[0][0]
        block = [g for g in pending if g[1] <= first + _BLOCK] or pending[:1]
        pending = pending[len(block) :]
        last = block[-1][1]
        errors = torch.zeros(len(weight), last - first)
        for start, stop, kept in block:
            keep = _keep((weight[:, start:stop] / diagonal[start:stop]) ** 2, pattern.v, kept)
            for column in range(start, stop):
                lost = weight[:, column] * (1 - keep[:, column - start])
                error = lost / diagonal[column]
                weight[:, column] -= lost
                weight[:, column + 1 : last] -= torch.outer(
                    error, factor[column, column + 1 : last]
                )
                errors[:, column - first] = error
        weight[:, last:] -= errors @ factor[first:last, last:]
    return weight
