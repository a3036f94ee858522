"""The text `3`, `0.2,0.4,0.7` or `latency=0.4,0.6,1` -> the levels that a network gets."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.blob import MOST_LEVELS

ROUTES = ("tile", "image")
_EXAMPLES = "3, 0.2,0.4,0.7 or latency=0.4,0.6,1"


@dataclass(frozen=True)
class RouteSpec:
    """What `--route`, `--route-by` and `--effort` ask for.

    Attributes:
        count: how many levels.
        shares: of what the dense network costs, what each level may, increasing, in (0, 1]; empty
            where only their number is given.
        quantity: what they are shares of: `macs` or `latency`, which a target's kernels decide.
        by: what a level is chosen for: `tile` or `image`.
        effort: what the engine takes unless told otherwise, 0..1; None: what calibration finds.
    """

    count: int
    shares: tuple[float, ...] = ()
    quantity: str = "macs"
    by: str = "tile"
    effort: float | None = None

    @classmethod
    def parse(cls, text: str, by: str = "tile", effort: str | None = None) -> RouteSpec:
        """Reads a number of levels, or their shares separated by commas, of MACs or of time.

        Raises:
            NmcompileError: one level or more than libnmk takes; shares that do not increase or are
                not above 0 and at most 1; no numbers; an effort that is none.
        """
        more: dict[str, Any] = {"by": by, "effort": _effort(effort)}
        if by not in ROUTES:
            raise NmcompileError(f"--route-by {by}: expected tile or image")
        counted = re.fullmatch(r"\s*(\d{1,9})\s*", text)
        if counted:
            count = int(counted[1])
            _check_count(text, count)
            return cls(count, **more)
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
        return cls(len(given), given, quantity or "macs", **more)

    def __str__(self) -> str:
        if not self.shares:
            return str(self.count)
        return f"{self.quantity}={','.join(f'{share:g}' for share in self.shares)}"


def _effort(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        effort = float({"min": "0", "max": "1"}.get(text, text))
    except ValueError:
        effort = math.nan
    if not 0 <= effort <= 1:
        raise NmcompileError(f"--effort {text}: expected a number from 0 to 1, min or max")
    return effort


def _check_count(text: str, count: int) -> None:
    if not 2 <= count <= MOST_LEVELS:
        raise NmcompileError(
            f"--route {text}: {count} level{'s' * (count != 1)}; expected 2 to {MOST_LEVELS}, such "
            f"as {_EXAMPLES}"
        )
