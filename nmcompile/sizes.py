"""A network as a function of shapes -> the image sizes it takes: multiple, minimum, scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nmcompile.errors import NmcompileError

Shape = tuple[int, ...]
Size = tuple[int, int]
# (N, C, H, W) of the image -> output shape; raises whatever the network raises.
ShapeFunction = Callable[[Shape], Shape]

# Between them they have most multiples that networks want: 2^k, 3, 5, 6, 7, 10, 12, 14, 24, 48.
_SIDES = (64, 240, 224, 192, 128, 256)


@dataclass(frozen=True)
class Sizes:
    """Height and width must be multiples of `multiple` and at least `minimum`.

    `fixed` is the only size that works, where there is but one.
    """

    channels: int
    scale: int
    multiple: int
    minimum: int
    fixed: Size | None = None


class NoImageError(Exception):
    """The network runs, but what it gives is no image."""


def find_sizes(shape_of: ShapeFunction, channels: Sequence[int], size: Size | None = None) -> Sizes:
    """Tries sizes until the rule is known.

    Args:
        shape_of: the network, run on shapes only.
        channels: image channels to try, in this order.
        size: a size that is known to work, if any.

    Raises:
        NmcompileError: no image-shaped input gives an image-shaped output.
    """
    faults: dict[int, Exception] = {}
    for count in channels:
        for base in (size,) if size else [(side, side) for side in _SIDES]:
            try:
                scale = scale_of(shape_of, (1, count, *base))
            except NmcompileError:
                raise
            except Exception as error:  # noqa: BLE001  # networks refuse sizes in every way
                faults.setdefault(count, error)
                continue
            return _rule(shape_of, count, base, scale)
    raise _explanation(faults, size)


def scale_of(shape_of: ShapeFunction, shape: Shape) -> int:
    """How many times the network enlarges an image of that shape.

    Raises:
        NoImageError: what it gives is no image. Else whatever the network raises.
    """
    out = tuple(shape_of(shape))
    if len(out) != 4 or out[:2] != shape[:2]:
        raise NoImageError(f"input {shape} gives {out}, expected [N, {shape[1]}, H, W]")
    scale = out[2] // shape[2]
    if scale < 1 or out[2:] != (scale * shape[2], scale * shape[3]):
        raise NoImageError(f"input {shape} gives {out}, which is no whole multiple of its size")
    return scale


def _rule(shape_of: ShapeFunction, channels: int, base: Size, scale: int) -> Sizes:
    def works(height: int, width: int) -> bool:
        try:
            return scale_of(shape_of, (1, channels, height, width)) == scale
        except Exception:  # noqa: BLE001  # a network refuses a size with whatever it likes
            return False

    common = math.gcd(*base)
    for multiple in (d for d in range(1, common + 1) if common % d == 0):
        if works(base[0] + multiple, base[1] + 3 * multiple):
            sides = range(multiple, min(base) + 1, multiple)
            return Sizes(channels, scale, multiple, _least(lambda n: works(n, n), sides))
    return Sizes(channels, scale, 1, min(base), base)


def _least(works: Callable[[int], bool], sides: Sequence[int]) -> int:
    """The least side that works, if all above it do; the last works."""
    if works(sides[0]):
        return sides[0]
    low, high = 0, len(sides) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(sides[middle]) else (middle, high)
    return sides[high]


def _explanation(faults: dict[int, Exception], size: Size | None) -> NmcompileError:
    for fault in faults.values():
        if isinstance(fault, NoImageError):
            return NmcompileError(
                f"this is no image-to-image network: {fault}; wrap it in a module that takes "
                "grey or RGB images and returns them, larger by a whole factor"
            )
    tried = "; ".join(f"{count} channels: {_line(fault)}" for count, fault in faults.items())
    sizes = "x".join(map(str, size)) if size else ", ".join(f"{side}x{side}" for side in _SIDES)
    return NmcompileError(
        f"no image of {sizes} goes through the network ({tried}); "
        + ("give another --input" if size else "give its input with --input 1xCxHxW")
    )


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
