"""What a pixel of a value looks at, and the image's sizes that this is reckoned in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy
import torch
from torch import Tensor

from nmcompile.program import Program

Pair = tuple[Fraction, Fraction]


class NotLocalError(Exception):
    """The operation, as the message says, is tied to the whole image."""

    def __init__(self, why: str = "mixes the whole image") -> None:
        super().__init__(why)


@dataclass(frozen=True)
class Field:
    """Which input pixels pixel i of a value may depend on: i * stride + low to i * stride + high.

    Attributes:
        stride: input pixels per pixel of the value (1/2 after enlarging twice).
        low, high: in input pixels, of height and width.
        axes: where the value has its height and its width.
    """

    stride: Fraction
    low: Pair
    high: Pair
    axes: tuple[int, int]

    @classmethod
    def own(cls, stride: Fraction = Fraction(1), axes: tuple[int, int] = (2, 3)) -> Field:
        """Each pixel depends on its own place alone."""
        none = Fraction(0)
        return cls(stride, (none, none), (none, none), axes)

    def moved(self, axes: Sequence[int]) -> Field:
        """The same with height and width elsewhere."""
        return Field(self.stride, self.low, self.high, (axes[0], axes[1]))

    def window(
        self,
        before: Sequence[Fraction | int],
        after: Sequence[Fraction | int],
        step: Fraction | int = 1,
    ) -> Field:
        """Every `step`-th pixel, with neighbours `before` and `after` (of this value's pixels)."""
        low = [self.low[i] - self.stride * before[i] for i in (0, 1)]
        high = [self.high[i] + self.stride * after[i] for i in (0, 1)]
        return Field(self.stride * step, (low[0], low[1]), (high[0], high[1]), self.axes)

    @property
    def reach(self) -> Fraction:
        """The farther of both sides and axes."""
        return max(-self.low[0], -self.low[1], *self.high)


@dataclass(frozen=True)
class Surroundings:
    """The image's height and width as the graph's symbols have them.

    Attributes:
        size: (H, W), where each free symbol stands for what makes a multiple of the interface's.
        values: symbol -> that.
    """

    size: tuple[Any, Any]
    values: Mapping[Any, Any]

    @classmethod
    def of(cls, program: Program) -> Surroundings:
        """Reads them off the image input."""
        image = next(node for node in program.module.graph.nodes if node.op == "placeholder")
        values = {}
        for name, item in zip("HW", image.meta["val"].shape[2:], strict=True):
            expression = _expression(item)
            for symbol in expression.free_symbols:
                count = program.interface.multiple * sympy.Symbol(name, integer=True, positive=True)
                solved = sympy.solve(expression - count, symbol)
                values[symbol] = solved[0] if solved else symbol
        height, width = (_expression(item).subs(values) for item in image.meta["val"].shape[2:])
        return cls((height, width), values)

    def ratio(self, first: Any, second: Any) -> Fraction | None:
        """first / second if that is the same number at every size."""
        quotient = sympy.simplify(self._read(first) / self._read(second))
        return Fraction(int(quotient.p), int(quotient.q)) if quotient.is_Rational else None

    def depends(self, value: Any) -> bool:
        """Whether a tensor's shape follows the image's height or width."""
        symbols = set(self.values)
        return any(_expression(item).free_symbols & symbols for item in value.shape)

    def same(self, first: Sequence[Any], second: Sequence[Any]) -> bool:
        """Whether two lists of sizes have the same product."""
        products = [sympy.Mul(*map(self._read, sizes)) for sizes in (first, second)]
        return bool(sympy.expand(products[0] - products[1]) == 0)

    def picture(self, value: Tensor) -> Field | None:
        """The field of a constant picture of the image's proportions."""
        sizes = list(value.shape)
        for rows, columns in ((-2, -1), (-3, -2)):
            if len(sizes) + rows < 0 or 1 in (sizes[rows], sizes[columns]):
                continue
            stride = self.ratio(self.size[0], sizes[rows])
            if stride is not None and stride == self.ratio(self.size[1], sizes[columns]):
                return Field.own(stride, (len(sizes) + rows, len(sizes) + columns))
        return None

    def _read(self, item: Any) -> Any:
        return _expression(item).subs(self.values)


def _expression(item: Any) -> Any:
    if isinstance(item, torch.SymInt):
        return item.node.expr
    return sympy.sympify(item)
