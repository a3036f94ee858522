"""A module -> its graph as torch.export traces it, or its output's shape without computing it."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.export import Dim
from torch.overrides import TorchFunctionMode

from nmcompile.capture.functional import example_size, functional, settled
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface
from nmcompile.sizes import Shape, ShapeFunction, Size

TRACE_BATCH = 5  # a number that networks seldom use for anything else
_SIDE = 40
_POOLS: dict[Any, Any] = {
    F.adaptive_max_pool2d: F.max_pool2d,
    F.adaptive_avg_pool2d: F.avg_pool2d,
}
_TALKERS = ("torch._subclasses", "torch.onnx", "torch.export", "torch._export", "torch.fx")


def shape_function(model: nn.Module, extras: Sequence[ExtraInput]) -> ShapeFunction:
    """The network on shapes alone: nothing is computed.

    The function raises NmcompileError where no size would help, else what the network raises.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    interface = Interface("", 1, 1, extra_inputs=tuple(extras))

    def shape_of(shape: Shape) -> Shape:
        with mode, torch.no_grad():
            try:
                out = model(*interface.arguments(torch.empty(shape)))
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise NmcompileError(
                    f"the network takes pixel values into Python ({error.func}), so that it has no "
                    "one graph; replace `if`, `.item()` and the like on tensors by torch.where"
                ) from None
        if not isinstance(out, Tensor):
            raise NmcompileError(
                f"the network returns a {type(out).__name__}, expected one image; wrap it in a "
                "module that returns that image alone"
            )
        return tuple(out.shape)

    return shape_of


def trace_size(interface: Interface, rounded: int = 1) -> Size:
    """Where to trace: odd multiples of what the network needs, and of `rounded`.

    Height and width differ, so that export does not take them for one dimension.
    """
    step = math.lcm(interface.multiple, rounded)
    count = -(-max(interface.minimum, _SIDE) // step) | 1
    return count * step, (count + 2) * step


def free_dimensions(interface: Interface) -> tuple[dict[int, Any], ...]:
    """torch.export's dynamic_shapes of every input: free N, and H and W unless they are fixed."""
    axes: dict[int | str, int] = {0: 0} if interface.fixed_size else {0: 0, "H": 2, "W": 3}
    extras = (
        {axis: Dim.AUTO for axis, item in enumerate(extra.shape) if item in axes}
        for extra in interface.extra_inputs
    )
    return (dict.fromkeys(axes.values(), Dim.AUTO), *extras)


def trace(
    model: nn.Module,
    arguments: Sequence[Tensor],
    dynamic_shapes: Sequence[dict[int, Any]],
    strict: bool = False,
) -> fx.GraphModule:
    """Runs torch.export and makes its graph functional; raises whatever torch.export raises."""
    with torch.no_grad(), _block_pooling(model):
        exported = torch.export.export(
            model, tuple(arguments), dynamic_shapes=tuple(dynamic_shapes), strict=strict
        )
    return functional(exported)


class _BlockPooling(TorchFunctionMode):
    """Adaptive pooling to a fraction of a free size -> pooling in blocks, where it is a whole one.

    torch.export would take that size for a constant. At sizes that are no whole multiple of the
    blocks the two differ, which the caller has to find out by comparison.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        plain = func in _POOLS and len(args) == 2 and not options.get("return_indices")
        wanted = args[1] if plain else None
        if not isinstance(wanted, (tuple, list)) or all(settled(n) is not None for n in wanted):
            return func(*args, **options)
        sizes = zip(args[0].shape[-2:], wanted, strict=True)
        block = [example_size(size) // max(1, example_size(part)) for size, part in sizes]
        return _POOLS[func](args[0], block)


@contextmanager
def _block_pooling(model: nn.Module) -> Iterator[None]:
    """Has the module run under that mode; one entered around torch.export is not seen by it."""
    forward = model.forward

    @functools.wraps(forward)
    def pooled(*args: Tensor) -> Any:
        with _BlockPooling():
            return forward(*args)

    model.forward = pooled
    try:
        yield
    finally:
        model.forward = forward


@contextmanager
def quiet() -> Iterator[None]:
    """torch prints its own internals while sizes are tried; what matters is raised or noted."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
