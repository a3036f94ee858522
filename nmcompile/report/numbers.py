"""A measured number, or None where nothing was measured -> the text that a reader sees."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import wraps

UNMEASURED = "not measured"
_UNITS = ("ms", "dB")  # said once for two numbers; a prefix is a part of its number
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def _if_measured(write: Callable[[float], str]) -> Callable[[float | None], str]:
    """Makes a formatter of numbers say UNMEASURED for None and NaN."""

    @wraps(write)
    def text(value: float | None) -> str:
        return UNMEASURED if missing(value) else write(float(value or 0.0))

    return text


def missing(value: float | None) -> bool:
    """Whether nothing was measured (an SSIM of a tiny image is NaN)."""
    return value is None or math.isnan(value)


@_if_measured
def count(value: float) -> str:
    """715176 -> `715 k`: three digits and a prefix."""
    for size, prefix in _PREFIXES:
        # Half a unit of the third digit below, rounding would show `1000 k`.
        if abs(value) >= size * 0.9995:
            return f"{_digits(value / size)} {prefix}"
    return f"{value:g}"


@_if_measured
def milliseconds(value: float) -> str:
    """12.34 -> `12.3 ms`."""
    return f"{_digits(value)} ms"


@_if_measured
def decibel(value: float) -> str:
    """29.8312 -> `29.83 dB`; endless for equal images."""
    return "∞ dB" if math.isinf(value) else f"{value:.2f} dB"


@_if_measured
def similarity(value: float) -> str:
    """0.89123 -> `0.8912`."""
    return f"{value:.4f}"


@_if_measured
def percent(value: float) -> str:
    """0.5 -> `50 %`, 0.125 -> `12.5 %`; what is not quite all is never shown as 100 %."""
    if 0.995 <= value < 1:
        return f"{min(100 * value, 99.9):.1f} %"
    return f"{100 * value:.3g} %" if value < 0.2 else f"{100 * value:.0f} %"


@_if_measured
def times(value: float) -> str:
    """1.5 -> `1.50×`."""
    return f"{value:.2f}×"


@_if_measured
def seconds(value: float) -> str:
    """75.2 -> `75 s`."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


@_if_measured
def tiny(value: float) -> str:
    """0.0000032 -> `3.2e-6`."""
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "∞"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def change(write: Callable[[float | None], str], before: float | None, after: float | None) -> str:
    """`12.3 → 8.1 ms`, `41.1 G → 15.1 G`; once `not measured` if neither was."""
    if missing(before) and missing(after):
        return UNMEASURED
    first, second = write(before), write(after)
    number, _, unit = first.partition(" ")
    shared = unit in _UNITS and second.endswith(f" {unit}")
    return f"{number if shared else first} → {second}"


def sizes(extents: Sequence[int]) -> str:
    """(180, 320) -> `180×320`."""
    return "×".join(str(extent) for extent in extents)


def unbroken(text: str) -> str:
    """The text with no line break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:dB|ms|%|[kMGT])(?!\w))", "\N{NO-BREAK SPACE}", text)


def _digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.2f}"
    return f"{value:.1g}"
