"""An eager module -> a Program with the sizes that the module itself allows."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import fx, nn

from nmcompile.capture.functional import free_batch, random_operation, settled
from nmcompile.capture.tracing import (
    TRACE_BATCH,
    free_dimensions,
    shape_function,
    trace,
    trace_size,
)
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface, Program
from nmcompile.sizes import Size, Sizes, find_sizes

_EXTRA_SHAPES: tuple[tuple[int | str, ...], ...] = (
    (0, 1, 1, 1), (0, 1, "H", "W"), (0,), (0, 1), (),
)  # fmt: skip
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNKNOWN = float("nan")  # settled by nmcompile.assumptions
_TOLERANCE = 1e-4
_SIDE = 40
_ROUND = 64


def read_module(
    model: nn.Module,
    channels: Sequence[int],
    size: Size | None,
    extras: Sequence[ExtraInput] | None,
    value_range: float,
) -> Program:
    """Finds sizes and further inputs by trial, then exports; arguments as capture's.

    Raises:
        NmcompileError: no image goes through, or the module cannot be exported.
    """
    names = _input_names(model, extras)
    faults: list[NmcompileError] = []
    for candidate in _extra_candidates(names[1:], extras):
        try:
            sizes = _find(model, candidate, channels, size)
        except NmcompileError as error:
            faults.append(error)
            continue
        interface = Interface(
            names[0], sizes.channels, sizes.scale, value_range, sizes.multiple, sizes.minimum,
            sizes.fixed, tuple(candidate),
        )  # fmt: skip
        return _export(model, interface, size)
    if len(faults) == 1:
        raise faults[0]
    raise NmcompileError(
        f"forward takes {', '.join(names)}, and no usual shape of {', '.join(names[1:])} goes "
        f"through the network ({faults[0]}); give it as in --input 1x3xHxW,1x1x1x1=0.1"
    )


def _input_names(model: nn.Module, extras: Sequence[ExtraInput] | None) -> list[str]:
    """Arguments of forward; those with a default are left at it unless `extras` asks for them."""
    parameters = inspect.signature(model.forward).parameters.values()
    free = [p for p in parameters if p.kind in _POSITIONAL]
    names = [p.name for p in free if p.default is p.empty]
    if not free:
        raise NmcompileError(f"{type(model).__name__}.forward names no input; expected an image")
    if extras is not None and not len(names) <= 1 + len(extras) <= len(free):
        raise NmcompileError(
            f"{len(extras)} further inputs were given, {type(model).__name__}.forward takes "
            f"{', '.join(names[1:]) or 'none'} besides the image; see --input"
        )
    return names or [free[0].name]


def _extra_candidates(
    names: list[str], extras: Sequence[ExtraInput] | None
) -> Iterator[tuple[ExtraInput, ...]]:
    if extras is not None:
        yield tuple(extras)
        return
    alike = [(shape,) * len(names) for shape in _EXTRA_SHAPES] if names else [()]
    mixed = itertools.product(_EXTRA_SHAPES, repeat=2) if len(names) == 2 else ()
    for shapes in dict.fromkeys((*alike, *mixed)):
        yield tuple(
            ExtraInput(name, shape, _UNKNOWN) for name, shape in zip(names, shapes, strict=True)
        )


def _find(
    model: nn.Module, extras: Sequence[ExtraInput], channels: Sequence[int], size: Size | None
) -> Sizes:
    shape_of = shape_function(model, extras)
    try:
        return find_sizes(shape_of, channels, size)
    except NmcompileError:
        if size is None:
            raise
        sizes = find_sizes(shape_of, channels)
    raise NmcompileError(
        f"--input gives {size[0]}x{size[1]}, the network takes multiples of {sizes.multiple} "
        f"from {sizes.minimum} on"
    )


def _export(model: nn.Module, interface: Interface, size: Size | None) -> Program:
    """Exports with free N, H and W; where that is impossible and a size was given, at that size.

    Traced at odd multiples of what it needs, a network that pads by itself takes the general way.
    Where Python has settled an amount on the way (`int(...)`), the graph holds for rounder
    sizes only: it is traced at round ones, and the multiple found for which it is right.
    torch's strict mode sees through some Python that the other does not.
    """
    if interface.fixed_size:
        return _export_fixed(model, interface, interface.fixed_size)
    faults: list[str] = []
    for strict, rounded in ((False, False), (False, True), (True, False), (True, True)):
        try:
            module = _trace(
                model, interface, trace_size(interface, _ROUND if rounded else 1), strict
            )
            return Program(module, _checked(model, module, interface, rounded))
        except NmcompileError:
            raise
        except Exception as error:  # noqa: BLE001  # torch.export fails in many ways
            faults.append((str(error).strip().splitlines() or [type(error).__name__])[0][:300])
    if size is not None:
        fixed = dataclasses.replace(interface, multiple=1, minimum=min(size), fixed_size=size)
        return _export_fixed(model, fixed, size)
    raise NmcompileError(
        f"torch.export cannot read {type(model).__name__} with free height and width: {faults[0]}; "
        "rewrite that part without Python branches on tensor sizes or values, or compile it for "
        "one size with --input 1xCxHxW in numbers"
    )


class _OtherSizesError(Exception):
    """The graph does not hold for the sizes that it should hold for."""


def _trace(
    model: nn.Module, interface: Interface, size: Size, strict: bool = False
) -> fx.GraphModule:
    image = torch.rand(TRACE_BATCH, interface.channels, *size) * interface.value_range
    module = trace(model, interface.arguments(image), free_dimensions(interface), strict)
    traced = next(node for node in module.graph.nodes if node.op == "placeholder")
    batch, _, *sides = (settled(item) for item in traced.meta["val"].shape)
    if sides != [None, None] and not interface.fixed_size:
        raise _OtherSizesError(
            f"Python code in it that counts over the size (range, int, if) ties it to {size[0]}x"
            f"{size[1]}"
        )
    if batch is not None:
        free_batch(module, TRACE_BATCH)
    return module


def _export_fixed(model: nn.Module, interface: Interface, size: Size) -> Program:
    faults = []
    for strict in (False, True):
        try:
            module = _trace(model, interface, size, strict)
            _compare(model, module, interface, ((1, *size), (3, *size)))
            return Program(module, interface)
        except NmcompileError:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            faults.append((str(error).strip().splitlines() or [type(error).__name__])[0][:300])
    raise NmcompileError(
        f"torch.export cannot read {type(model).__name__} at {size[0]}x{size[1]}: {faults[0]}; "
        "rewrite that part without Python branches on tensor values"
    )


def _checked(
    model: nn.Module, module: fx.GraphModule, interface: Interface, rounded: bool
) -> Interface:
    """The interface with the least multiple for which graph and module agree."""
    faults = []
    most = _ROUND // math.gcd(interface.multiple, _ROUND) if rounded else 1
    for power in range(most.bit_length()):
        step = interface.multiple << power
        least = -(-interface.minimum // step) * step
        base = -(-max(least, _SIDE) // step) * step
        sizes = ((1, least, least), (1, base, base + step), (3, base + step, base + 2 * step))
        try:
            _compare(model, module, interface, sizes)
        except Exception as error:  # noqa: BLE001  # a graph that holds elsewhere only
            faults.append(error)
            continue
        return dataclasses.replace(interface, multiple=step, minimum=least)
    raise faults[0]


def _compare(
    model: nn.Module,
    module: fx.GraphModule,
    interface: Interface,
    sizes: Sequence[tuple[int, int, int]],
) -> None:
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in sizes:
        image = torch.rand(batch, interface.channels, height, width, generator=generator)
        arguments = interface.arguments(image * interface.value_range)
        with torch.no_grad():
            expected, found = model(*arguments), module(*arguments)
        if expected.shape != found.shape:
            raise _OtherSizesError(
                f"the exported graph gives {tuple(found.shape)} at {height}x{width}, the module "
                f"{tuple(expected.shape)}"
            )
        error = float((expected - found).abs().max()) / interface.value_range
        if not error <= _TOLERANCE:
            drawing = random_operation(module)
            if drawing:
                raise NmcompileError(
                    f"the network draws random numbers ({drawing}), so that its output changes "
                    "from run to run; leave them out in eval mode"
                )
            raise _OtherSizesError(
                f"the exported graph differs from the module by {error:.2g} at {height}x{width}"
            )
