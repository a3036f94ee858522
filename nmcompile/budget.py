"""The text `macs=0.5`, `latency=40ms` or `drop=0.1dB` -> what a compiled network may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nmcompile.errors import NmcompileError

_FORMS = (
    ("macs", re.compile(r"macs=(\d*\.?\d+)(x?)")),
    ("latency", re.compile(r"latency=(\d*\.?\d+)(ms|x)")),
    ("drop", re.compile(r"drop=(\d*\.?\d+)(?:dB)?()", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Budget:
    """A limit on one quantity.

    Attributes:
        quantity: macs, latency or drop.
        limit: fraction of the dense network (unit x), milliseconds (ms) or decibels (dB).
        unit: x, ms or dB.
    """

    quantity: str
    limit: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads macs=FRACTION, latency=Nms, latency=FRACTIONx or drop=NdB."""
        for quantity, form in _FORMS:
            found = form.fullmatch(text.strip())
            if found:
                unit = {"macs": "x", "drop": "dB"}.get(quantity, found.group(2))
                return cls(quantity, _positive(text, float(found.group(1)), unit), unit)
        raise NmcompileError(
            f"unknown budget {text!r}: expected macs=0.5, latency=40ms, latency=0.5x or drop=0.1dB"
        )

    def __str__(self) -> str:
        unit = "" if self.quantity == "macs" else self.unit
        return f"{self.quantity}={self.limit:g}{unit}"


def _positive(text: str, limit: float, unit: str) -> float:
    if limit <= 0 or (unit == "x" and limit > 1):
        allowed = "above 0 and at most 1" if unit == "x" else "above 0"
        raise NmcompileError(f"budget {text!r}: the limit must be {allowed}")
    return limit
