"""A network as a function of shapes -> the image sizes it takes: multiple, minimum, scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nmcompile.errors import NmcompileError

Shape = tuple[int, ...]
# (N, C, H, W) of the image -> output shape; raises whatever the network raises.
ShapeFunction = Callable[[Shape], Shape]

_BASES = (64, 128, 256, 48, 96, 224)
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
_LARGEST_MINIMUM = 128


@dataclass(frozen=True)
class Sizes:
    """Height and width must be multiples of `multiple` and at least `minimum`."""

    channels: int
    scale: int
    multiple: int
    minimum: int


def find_sizes(shape_of: ShapeFunction, channels: tuple[int, ...]) -> Sizes:
    """Tries sizes until the rule is known.

    Args:
        shape_of: the network, run on shapes only.
        channels: image channels to try, in this order.

    Raises:
        NmcompileError: no image-shaped input gives an image-shaped output.
    """
    faults: dict[int, str] = {}
    for count in channels:
        for base in _BASES:
            scale, fault = _scale(shape_of, (1, count, base, base))
            if scale:
                multiple = _multiple(shape_of, count, base, scale)
                return Sizes(
                    count, scale, multiple, _minimum(shape_of, count, multiple, scale, base)
                )
            faults.setdefault(count, fault)
    tried = "; ".join(f"with {count} channels: {fault}" for count, fault in faults.items())
    raise NmcompileError(
        f"no image size that was tried ({', '.join(map(str, _BASES))}) goes through the network "
        f"({tried}); give its input with --input 1xCxHxW"
    )


def _scale(shape_of: ShapeFunction, shape: Shape) -> tuple[int, str]:
    try:
        out = shape_of(shape)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return 0, lines[0][:160]
    if len(out) != 4 or out[0] != shape[0] or out[1] not in (1, 3):
        return 0, f"input {shape} gives {tuple(out)}, which is no image"
    scale = out[2] // shape[2]
    if scale < 1 or tuple(out[2:]) != (scale * shape[2], scale * shape[3]):
        return 0, f"input {shape} gives {tuple(out)}, which is no whole multiple of its size"
    return scale, ""


def _multiple(shape_of: ShapeFunction, channels: int, base: int, scale: int) -> int:
    for multiple in _MULTIPLES:
        sizes = ((base + multiple, base), (base, base + multiple), (base + 3 * multiple,) * 2)
        if all(_scale(shape_of, (1, channels, h, w))[0] == scale for h, w in sizes):
            return multiple
    return base


def _minimum(shape_of: ShapeFunction, channels: int, multiple: int, scale: int, base: int) -> int:
    for size in range(multiple, _LARGEST_MINIMUM + 1, multiple):
        if _scale(shape_of, (1, channels, size, size))[0] == scale:
            return size
    return base
