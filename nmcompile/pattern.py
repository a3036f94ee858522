"""`2:4`, `64x2:4`, `8x2:4k`, `2:4c` or `skip` -> an N:M pattern, and which weights it keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError

_TEXT = re.compile(r"(?:(\d+)x)?(\d+):(\d+)(k)?|(\d+):(\d+)c")
_LARGEST_M = 256
ALL_OUTPUTS = 1 << 16  # as V: more than any layer has
_SKIPPED = (ALL_OUTPUTS, 0, 1, True)


@dataclass(frozen=True, order=True)
class Pattern:
    """Along input channels, at each kernel position, `n` of every `m` consecutive are kept.

    The choice is shared by `v` consecutive output channels (v = 1: element-wise N:M; v > 1:
    vector-wise) and, if `whole`, by all kernel positions, so that whole kernels are kept or go
    (connectivity pruning in the form of N:M). With v = ALL_OUTPUTS and `whole` (`2:4c`) the layer
    reads n of every m channels and no more: the layer before need not compute the others (channel
    pruning in the form of N:M). A ragged last group of r < m channels keeps ceil(n * r / m) of
    them, so the density holds and no group ever keeps more than n.

    `skip` keeps nothing (SKIP: 0:1c): the layer gives its bias, and what serves it alone is not
    computed. At the end of a residual branch that is depth pruning in the form of N:M.
    """

    v: int
    n: int
    m: int
    whole: bool = False

    def __post_init__(self) -> None:
        dense = (self.v, self.n, self.m, self.whole) == (1, 1, 1, False)
        skips = (self.v, self.n, self.m, self.whole) == _SKIPPED
        if not dense and not skips and not (self.v >= 1 and 1 <= self.n < self.m <= _LARGEST_M):
            raise NmcompileError(
                f"pattern {self._text()}: expected N:M, VxN:M, VxN:Mk or N:Mc with 1 <= N < M <= "
                f"{_LARGEST_M} and V >= 1, for example 2:4, 8:16, 64x2:4, 8x2:4k or 2:4c"
            )

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads `dense`, `skip`, `N:M`, `VxN:M`, both with a `k`, `N:Mc`; else NmcompileError."""
        if named := {"dense": DENSE, "skip": SKIP}.get(text.strip()):
            return named
        found = _TEXT.fullmatch(text.strip())
        if not found:
            raise NmcompileError(
                f"unknown pattern {text!r}: expected N:M, VxN:M, VxN:Mk, N:Mc, skip or dense, "
                "for example 2:4, 64x2:4, 8x2:4k, 2:4c"
            )
        v, n, m, whole, channels_n, channels_m = found.groups()
        if channels_n:
            return cls(ALL_OUTPUTS, int(channels_n), int(channels_m), whole=True)
        return cls(int(v or 1), int(n), int(m), whole is not None)

    def __str__(self) -> str:
        return "dense" if self.is_dense else self._text()

    @property
    def of_channels(self) -> bool:
        """Whether all outputs read the same channels, and no others."""
        return self.v == ALL_OUTPUTS

    def _text(self) -> str:
        if self == SKIP:
            return "skip"
        if self.of_channels:
            return f"{self.n}:{self.m}c"
        shared = f"{self.v}x" if self.v != 1 else ""
        return f"{shared}{self.n}:{self.m}" + ("k" if self.whole else "")

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

    def obstacle(self, out_per_group: int, in_per_group: int, positions: int) -> str | None:
        """Why a layer of these channels per convolution group, kernel height x width cannot."""
        if self.is_dense:
            return None
        if self.of_channels:  # a share of whatever a layer reads
            least = -(-self.m // (self.m - self.n))
            need = f"{in_per_group} input channels per group, pattern {self} needs {least}"
            return need if self.kept(in_per_group) == in_per_group else None
        if in_per_group < self.m:
            return f"{in_per_group} input channels per group, pattern {self} needs {self.m}"
        if out_per_group < self.v:
            return f"{out_per_group} output channels per group, pattern {self} shares over {self.v}"
        if self.whole and positions == 1:
            return f"kernels of one weight, for which {self} is {str(self).removesuffix('k')}"
        return None

    def allows(self, mask: NDArray[np.bool_], groups: int = 1) -> bool:
        """Whether `mask` [out, in/groups, kh, kw] keeps no more than the pattern permits.

        A weight that is kept may happen to be zero, so that rows which share a choice count
        together: what any of them keeps.
        """
        if self.is_dense:
            return True
        if self.whole:
            mask = mask.max((2, 3), keepdims=True)
        by_group = mask.reshape(groups, -1, *mask.shape[1:])
        shared = np.logical_or.reduceat(by_group, range(0, by_group.shape[1], self.v), axis=1)
        return all(
            bool((shared[:, :, start : start + size].sum(2) <= kept).all())
            for start, size, kept in self.group_sizes(mask.shape[1])
        )

    def largest(self, weight: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The mask [out, in, kh, kw] of what is kept of one convolution group by magnitude."""
        mask = np.ones(weight.shape, bool)
        for first in range(0, len(weight), self.v):
            for start, size, kept in self.group_sizes(weight.shape[1]):
                place = np.s_[first : first + self.v, start : start + size]
                score = np.square(weight[place]).sum(0)
                if self.whole:
                    score = score.sum((1, 2), keepdims=True)
                mask[place] = score.argsort(0).argsort(0) >= size - kept
        return mask


DENSE = Pattern(1, 1, 1)
SKIP = Pattern(*_SKIPPED)
