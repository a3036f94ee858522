"""The text `3`, `0.2,0.4,0.7` or `latency=0.4,0.6,1` -> the levels that a network gets."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import MOST_LEVELS

ROUTES = ("tile", "image")
_EXAMPLES = "3, 0.2,0.4,0.7 or latency=0.4,0.6,1"


@dataclass(frozen=True)
class RouteSpec:
    """What `--route` and `--route-by` ask for.

    Attributes:
        count: how many levels.
        shares: of what the dense network costs, what each level may, increasing, in (0, 1]; empty
            where only their number is given.
        quantity: what they are shares of: `macs` or `latency`, which a target's kernels decide.
        by: what a level is chosen for: `tile` or `image`.
    """

    count: int
    shares: tuple[float, ...] = ()
    quantity: str = "macs"
    by: str = "tile"

    @classmethod
    def parse(cls, text: str, by: str = "tile") -> RouteSpec:
        """Reads a number of levels, or their shares separated by commas, of MACs or of time.

        Raises:
            NmcompileError: one level or more than libnmk takes; shares that do not increase or are
                not above 0 and at most 1; no numbers.
        """
        if by not in ROUTES:
            raise NmcompileError(f"--route-by {by}: expected tile or image")
        counted = re.fullmatch(r"\s*(\d{1,9})\s*", text)
        if counted:
            count = int(counted[1])
            _check_count(text, count)
            return cls(count, by=by)
        quantity, equals, values = text.rpartition("=")
        try:
            given = tuple(float(item) for item in values.split(","))
        except ValueError:
            given = ()
        if not given or (equals and quantity not in ("macs", "latency")):
            raise NmcompileError(
                f"--route {text!r}: expected a number of levels or their shares of the MACs or of "
                f"the time, such as {_EXAMPLES}"
            )
        _check_count(text, len(given))
        if not all(0 < share <= 1 for share in given):
            raise NmcompileError(f"--route {text}: each share must be above 0 and at most 1")
        if not all(a < b for a, b in itertools.pairwise(given)):
            raise NmcompileError(f"--route {text}: the shares must increase from level to level")
        return cls(len(given), given, quantity or "macs", by)

    def __str__(self) -> str:
        if not self.shares:
            return str(self.count)
        return f"{self.quantity}={','.join(f'{share:g}' for share in self.shares)}"


def _check_count(text: str, count: int) -> None:
    if not 2 <= count <= MOST_LEVELS:
        raise NmcompileError(
            f"--route {text}: {count} level{'s' * (count != 1)}; expected 2 to {MOST_LEVELS}, such "
            f"as {_EXAMPLES}"
        )
