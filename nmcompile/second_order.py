"""A layer's weight and its input statistics -> the weight pruned to a pattern with least error."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nmcompile.convs import Conv, columns
from nmcompile.pattern import Pattern

_DAMPING = 0.01
_BLOCK = 128


class Hessian:
    """H = X Xᵀ of a layer's im2col'd inputs, one matrix per convolution group.

    Columns are ordered (kh, kw, in), so that the groups of a pattern are consecutive.

    Attributes:
        matrix: H, [groups, k, k].
        shift: (X' - X) Xᵀ, the same shape, of the inputs X' that the layer has in the original
            network; None where they are X.
    """

    def __init__(self, conv: Conv, shape: tuple[int, int, int, int], positions: int) -> None:
        """Args: conv: the call; shape: (out, in/groups, kh, kw); positions: columns to draw."""
        self._conv, self._shape, self._positions = conv, shape, positions
        size = shape[1] * shape[2] * shape[3]
        self.matrix = torch.zeros(conv.groups, size, size)
        self.shift: Tensor | None = None
        self._generator = torch.Generator().manual_seed(0)

    def add(self, x: Tensor, conv: Conv | None = None, original: Tensor | None = None) -> None:
        """Adds a batch of the layer's inputs; positions are drawn evenly over the images.

        Args:
            x: the inputs.
            conv: the call that takes them, where it is not the first one.
            original: what the original network gives in their place.
        """
        pairs = [(x, x if original is None else original)]
        if x.dim() == 4:
            pairs = list(zip(*(both.split(1) for both in pairs[0]), strict=True))
        per_image = max(1, self._positions // len(pairs))
        for image, meant in pairs:
            drawn = self._ordered(image, conv)
            places = None
            if drawn.shape[-1] > per_image:
                places = torch.randperm(drawn.shape[-1], generator=self._generator)[:per_image]
                drawn = drawn[..., places]
            self.matrix += drawn @ drawn.transpose(1, 2)
            if original is not None:
                wanted = self._ordered(meant, conv)
                wanted = wanted if places is None else wanted[..., places]
                more = (wanted - drawn) @ drawn.transpose(1, 2)
                self.shift = more if self.shift is None else self.shift + more

    def _ordered(self, image: Tensor, conv: Conv | None) -> Tensor:
        """[groups, k, positions] of one image."""
        _, inputs, height, width = self._shape
        unfolded = columns(image, conv or self._conv, (height, width))[0]
        ordered = unfolded.reshape(unfolded.shape[0], inputs, height * width, -1)
        return ordered.transpose(1, 2).flatten(1, 2)

    @cached_property
    def factors(self) -> Tensor:
        """Upper Cholesky factors U of the damped inverses, H⁻¹ = Uᵀ U ([groups, k, k])."""
        return _inverse_factors(self.matrix.double()).float()

    @cached_property
    def kernel_factors(self) -> Tensor:
        """The same for columns ordered (in, kh, kw), whole kernels together; double precision."""
        _, inputs, height, width = self._shape
        order = torch.arange(height * width * inputs).reshape(-1, inputs).T.flatten()
        return _inverse_factors(self.matrix.double()[:, order[:, None], order])


def _inverse_factors(matrix: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(matrix)))
    factors: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factors


def damped(matrix: Tensor) -> Tensor:
    """H with a hundredth of its mean diagonal added, so that it can be inverted."""
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    damping = (_DAMPING * mean)[:, None].expand(-1, matrix.shape[1])
    return matrix + torch.diag_embed(damping.contiguous())


def aimed(weight: Tensor, hessian: Hessian) -> Tensor:
    """The weight V that on the inputs X gives most nearly what `weight` W gave on the original X'.

    The least squares of V X - W X' are V = W + W (X' - X) Xᵀ H⁻¹: a layer makes up for what the
    layers before it lost (asymmetric reconstruction: Zhang et al., TPAMI 2016, arXiv 1505.06798).

    Args:
        weight: [out, in/groups, kh, kw], of the original network.
        hessian: of the layer's inputs.

    Returns:
        The same shape; the weight itself where the inputs are the original ones.
    """
    if hessian.shift is None:
        return weight
    rows = to_rows(weight, len(hessian.matrix)).double()
    error = rows @ hessian.shift.double()
    more = torch.linalg.solve(damped(hessian.matrix.double()), error.transpose(1, 2))
    return from_rows((rows + more.transpose(1, 2)).to(weight.dtype), weight)


def prune_second_order(weight: Tensor, hessian: Hessian, pattern: Pattern) -> Tensor:
    """Optimal-Brain-Surgeon pruning, N:M group by N:M group, weights after each updated.

    In a group the weights of least w² / U_jj² go (Optimal Brain Compression, NeurIPS 2022;
    SparseGPT, ICML 2023, algorithm 1); for v > 1 the scores of v output channels are added.
    Whole kernels go one at a time, each time the block B of least w_Bᵀ (H⁻¹_BB)⁻¹ w_B, which is
    the error that its loss adds once all weights not yet decided on make up for it.

    Args:
        weight: [out, in/groups, kh, kw].
        hessian: of the layer's inputs.
        pattern: any v x n:m that the layer can take.

    Returns:
        The pruned weight, same shape.
    """
    groups, inputs = hessian.matrix.shape[0], weight.shape[1]
    if pattern.whole:
        kernels = weight.reshape(groups, len(weight) // groups, inputs, -1).double()
        parts = [
            _prune_kernels(w, u, pattern)
            for w, u in zip(kernels, hessian.kernel_factors, strict=True)
        ]
        return torch.stack(parts).reshape(weight.shape).to(weight.dtype)
    rows = to_rows(weight, groups)
    pruned = [
        _prune_rows(w, u, pattern, inputs) for w, u in zip(rows, hessian.factors, strict=True)
    ]
    return from_rows(torch.stack(pruned), weight)


def prune_magnitude(weight: Tensor, groups: int, pattern: Pattern) -> Tensor:
    """Keeps the n largest |w| of every group (for v > 1: the largest sums of squares)."""
    if pattern.whole:
        masks = [pattern.largest(part.numpy()) for part in weight.detach().cpu().chunk(groups)]
        return weight * torch.from_numpy(np.concatenate(masks)).to(weight.device)
    rows = to_rows(weight, groups)
    for group in rows:
        for start, stop, kept in _column_groups(pattern, weight.shape[1], group.shape[1]):
            part = group[:, start:stop]
            part *= _keep(part**2, pattern.v, kept)
    return from_rows(rows, weight)


def to_rows(weight: Tensor, groups: int) -> Tensor:
    """[out, in/groups, kh, kw] -> [groups, out/groups, k], columns ordered as a Hessian's."""
    return weight.permute(0, 2, 3, 1).reshape(groups, weight.shape[0] // groups, -1).clone()


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Back to the shape of `like`."""
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


def _prune_kernels(weight: Tensor, factor: Tensor, pattern: Pattern) -> Tensor:
    """One convolution group [out, in, positions]; factor of columns ordered (in, position)."""
    positions = weight.shape[2]
    rows = weight.flatten(1).clone()
    for first, length, kept in pattern.group_sizes(weight.shape[1]):
        start, stop = first * positions, (first + length) * positions
        # The group's rows of the inverse that is left once all columns before it are settled.
        inverse = factor[start:stop, start:stop].T @ factor[start:stop, start:]
        for part in rows.split(pattern.v):
            part[:, start:] = _without(part[:, start:], inverse, positions, length - kept)
    return rows


def _without(weight: Tensor, inverse: Tensor, positions: int, count: int) -> Tensor:
    """Rows that share a choice, `count` kernels of a group gone and the other columns updated.

    Args:
        weight: [rows, columns from the group's first].
        inverse: H⁻¹ of those columns, the group's rows.
        positions: columns of a kernel.
        count: how many kernels go.
    """
    kernels = torch.arange(len(inverse)).reshape(-1, positions)
    gone = kernels[:0]
    for _ in range(count):
        own = inverse[kernels[:, :, None], kernels[:, None, :]]
        values = weight[:, kernels].permute(1, 2, 0)
        least = int((values * torch.linalg.solve(own, values)).sum((1, 2)).argmin())
        columns = kernels[least]
        gain = torch.linalg.solve(own[least], inverse[columns])
        weight = weight - weight[:, columns] @ gain
        inverse = inverse - inverse[:, columns] @ gain
        gone = torch.cat((gone, columns[None]))
        kernels = torch.cat((kernels[:least], kernels[least + 1 :]))
    return weight.index_fill(1, gone.flatten(), 0.0)
