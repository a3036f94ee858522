"""For each weight, by name, the least level that keeps it -> a convolution's, checked, packed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import MOST_LEVELS, level_data

NEVER = 255
_Data = tuple[NDArray[np.generic] | None, ...]


@dataclass(frozen=True)
class Levels:
    """Nested levels of one set of weights; the last keeps all of them.

    Attributes:
        named: weight name -> uint8 [out, in/groups, kh, kw], the least level that keeps each
            weight, 255 for zeros. Weights that are not named are the same at all levels.
    """

    named: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many levels there are: one more than the last that is named."""
        return 1 + max((_last(least) for least in self.named.values()), default=0)

    def check(self, weights: Collection[str]) -> None:
        """Refuses, as NmcompileError, too many levels and those of weights that are not there."""
        for name, least in self.named.items():
            if name not in weights:
                raise NmcompileError(
                    f"levels of {name}, which the network does not have; name weights of its "
                    "convolutions"
                )
            if least.dtype != np.uint8 or _last(least) >= MOST_LEVELS:
                raise NmcompileError(
                    f"levels of {name}: {least.dtype} up to {_last(least)}, expected uint8, 0 "
                    f"to {MOST_LEVELS - 1}, or {NEVER}; use at most {MOST_LEVELS} levels"
                )

    def of(self, name: str, weight: NDArray[np.float32]) -> NDArray[np.uint8] | None:
        """The levels of a weight [out, in/groups, kh, kw]; None if it has none.

        Raises:
            NmcompileError: they are of another shape, or leave out a weight that is not zero.
        """
        least = self.named.get(name)
        if least is None:
            return None
        if least.shape != weight.shape:
            raise NmcompileError(
                f"levels of {name} have shape {least.shape}, expected {weight.shape}; "
                "give each weight one"
            )
        if (weight[least == NEVER] != 0).any():
            raise NmcompileError(
                f"levels of {name}: {NEVER} for a weight that is not zero, expected 0 to "
                f"{MOST_LEVELS - 1}; prune it, or give it a level"
            )
        return least

    def packed(
        self, data: _Data, weight: NDArray[np.float32], least: NDArray[np.uint8] | None
    ) -> _Data:
        """A convolution's data with its levels; `weight` and `least` as it has them."""
        if least is None:
            return data
        return (*data, level_data(weight, least, self.count))


def _last(least: NDArray[np.uint8]) -> int:
    """The greatest level that some weight has."""
    return int(least.max(where=least != NEVER, initial=0))


NO_LEVELS = Levels()
