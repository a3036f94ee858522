"""The text `2:4` or `64x2:4` -> an N:M sparsity pattern, and which weights of a layer it keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError

_TEXT = re.compile(r"(?:(\d+)x)?(\d+):(\d+)")
_LARGEST_M = 256


@dataclass(frozen=True, order=True)
class Pattern:
    """Along input channels, at each kernel position, `n` of every `m` consecutive are kept.

    The choice is shared by `v` consecutive output channels (v = 1: element-wise N:M; v > 1:
    vector-wise). A ragged last group of r < m channels keeps ceil(n * r / m) of them, so the
    density holds and no group ever keeps more than n.
    """

    v: int
    n: int
    m: int

    def __post_init__(self) -> None:
        dense = (self.v, self.n, self.m) == (1, 1, 1)
        if not dense and not (self.v >= 1 and 1 <= self.n < self.m <= _LARGEST_M):
            shared = f"{self.v}x" if self.v != 1 else ""
            raise NmcompileError(
                f"pattern {shared}{self.n}:{self.m}: expected N:M or VxN:M with "
                f"1 <= N < M <= {_LARGEST_M} and V >= 1, for example 2:4, 8:16 or 64x2:4"
            )

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads `dense`, `N:M` or `VxN:M`; raises NmcompileError for anything else."""
        if text.strip() == "dense":
            return DENSE
        found = _TEXT.fullmatch(text.strip())
        if not found:
            raise NmcompileError(
                f"unknown pattern {text!r}: expected N:M, VxN:M or dense, for example 2:4, 64x2:4"
            )
        v, n, m = found.groups()
        return cls(int(v or 1), int(n), int(m))

    def __str__(self) -> str:
        if self.is_dense:
            return "dense"
        return (f"{self.v}x" if self.v > 1 else "") + f"{self.n}:{self.m}"

    @property
    def is_dense(self) -> bool:
        """Whether every weight is kept."""
        return self.n == self.m

    def kept(self, channels: int) -> int:
        """How many of `channels` input channels are kept at each kernel position."""
        whole, rest = divmod(channels, self.m)
        return whole * self.n + -(-self.n * rest // self.m)

    def group_sizes(self, channels: int) -> list[tuple[int, int, int]]:
        """(first channel, size, kept) of every group along `channels` input channels."""
        groups = []
        for start in range(0, channels, self.m):
            size = min(self.m, channels - start)
            groups.append((start, size, -(-self.n * size // self.m)))
        return groups

    def obstacle(self, out_per_group: int, in_per_group: int) -> str | None:
        """Why a layer of these channel counts (each per convolution group) cannot take it."""
        if self.is_dense:
            return None
        if in_per_group < self.m:
            return f"{in_per_group} input channels per group, pattern {self} needs {self.m}"
        if out_per_group < self.v:
            return f"{out_per_group} output channels per group, pattern {self} shares over {self.v}"
        return None

    def allows(self, mask: NDArray[np.bool_], groups: int = 1) -> bool:
        """Whether `mask` [out, in/groups, kh, kw] keeps no more than the pattern permits.

        A weight that is kept may happen to be zero, so that rows which share a choice count
        together: what any of them keeps.
        """
        if self.is_dense:
            return True
        by_group = mask.reshape(groups, -1, *mask.shape[1:])
        shared = np.logical_or.reduceat(by_group, range(0, by_group.shape[1], self.v), axis=1)
        return all(
            bool((shared[:, :, start : start + size].sum(2) <= kept).all())
            for start, size, kept in self.group_sizes(mask.shape[1])
        )


DENSE = Pattern(1, 1, 1)
