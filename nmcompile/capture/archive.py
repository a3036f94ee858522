"""A torch.export archive -> a Program with the sizes that the archive itself allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from nmcompile.capture.functional import example_size, free_batch, functional, settled
from nmcompile.capture.tracing import shape_function
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface, Program
from nmcompile.sizes import Shape, Size, find_sizes

_UNKNOWN = float("nan")  # settled by nmcompile.assumptions
_TOLERANCE = 1e-4


def read_archive(
    exported: ExportedProgram, extras: Sequence[ExtraInput] | None, value_range: float
) -> Program:
    """Takes the sizes that were left free in the export; a fixed batch is freed if possible.

    Raises:
        NmcompileError: no image-to-image network, or a batch that cannot be freed.
    """
    module = functional(exported)
    inputs = module.graph.find_nodes(op="placeholder")
    shape = _shape(inputs[0]) if inputs else ()
    if len(shape) != 4 or not isinstance(shape[1], int):
        raise NmcompileError(
            f"the archive's first input is {shape}; expected an image [N, C, H, W]"
        )
    if shape[1] not in (1, 3):
        raise NmcompileError(
            f"the archive takes images of {shape[1]} channels; nmcompile takes grey (1) and RGB (3)"
        )
    found = tuple(extras) if extras is not None else _extras(exported, inputs, shape)
    if len(found) != len(inputs) - 1:
        raise NmcompileError(
            f"{len(found)} further inputs were given, the archive has {len(inputs) - 1} besides "
            "the image; see --input"
        )
    interface = _interface(exported, inputs[0].name, shape, found, value_range)
    batch = settled(shape[0])
    if batch is not None:
        free_batch(module, batch)
    _check(exported, module, interface)
    return Program(module, interface)


def _interface(
    exported: ExportedProgram,
    name: str,
    shape: Sequence[Any],
    extras: tuple[ExtraInput, ...],
    value_range: float,
) -> Interface:
    """Sizes are tried on the archive with all its guards, at the batch it was exported for."""
    guarded = shape_function(exported.module(), extras)
    channels = int(shape[1])
    fixed = isinstance(shape[0], int)

    steps = [_step(size) for size in shape[2:]]

    def shape_of(tried: Shape) -> Shape:
        if any(size % step for size, step in zip(tried[2:], steps, strict=True)):
            raise ValueError(f"the archive takes multiples of {steps[0]}x{steps[1]}")
        out = guarded((shape[0], *tried[1:]) if fixed else tried)
        return (tried[0], *out[1:]) if fixed and out[:1] == (shape[0],) else out

    if isinstance(shape[2], int) or isinstance(shape[3], int):
        size: Size = (example_size(shape[2]), example_size(shape[3]))
        scale = find_sizes(shape_of, (channels,), size).scale
        return Interface(name, channels, scale, value_range, 1, min(size), size, extras)
    sizes = find_sizes(shape_of, (channels,))
    return Interface(
        name, channels, sizes.scale, value_range, sizes.multiple, sizes.minimum, sizes.fixed, extras
    )


def _shape(node: fx.Node) -> tuple[Any, ...]:
    """Numbers where a dimension is tied to one, symbols where it is free."""
    return tuple(
        item if (number := settled(item)) is None else number for item in node.meta["val"].shape
    )


def _step(size: Any) -> int:
    """What a dimension was declared a multiple of, such as 8 of 8*s; guards do not check it."""
    return 1 if isinstance(size, int) else int(size.node.expr.as_coeff_Mul()[0])


def _extras(
    exported: ExportedProgram, inputs: list[fx.Node], image: Sequence[Any]
) -> tuple[ExtraInput, ...]:
    places: tuple[tuple[Any, int | str], ...] = ((image[3], "W"), (image[2], "H"), (image[0], 0))
    marks = {str(size): mark for size, mark in places if settled(size) is None}
    examples = (exported.example_inputs or ((), {}))[0]
    extras = []
    for index, node in enumerate(inputs[1:], 1):
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            raise NmcompileError(f"input {node.name} of the archive is no tensor; expected tensors")
        shape: list[int | str] = [
            number if (number := settled(item)) is not None else marks.get(str(item), 1)
            for item in value.shape
        ]
        if shape and value.shape[0] == image[0]:
            shape[0] = 0
        example = examples[index] if index < len(examples) else torch.tensor(_UNKNOWN)
        extras.append(ExtraInput(node.name, tuple(shape), float(example.float().mean())))
    return tuple(extras)


def _check(exported: ExportedProgram, module: fx.GraphModule, interface: Interface) -> None:
    """The graph against the archive as it is, then at another batch against itself."""
    size = interface.fixed_size or (interface.minimum, interface.minimum + interface.multiple)
    batch = module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    count = batch if isinstance(batch, int) else 2
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count + 1, interface.channels, *size, generator=generator)
    images *= interface.value_range
    with torch.no_grad():
        expected = exported.module()(*interface.arguments(images[:count]))
        found = module(*interface.arguments(images[:count]))
        try:
            more = module(*interface.arguments(images))[:count]
        except RuntimeError:
            more = torch.tensor(float("inf"))
    if not _equal(found, expected, interface):
        raise RuntimeError("the archive's functional graph computes something else")
    if not _equal(more, expected, interface):
        raise NmcompileError(
            f"the archive was exported for batches of {batch} and cannot take others; export it "
            "with dynamic_shapes=({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)"
        )


def _equal(first: Tensor, second: Tensor, interface: Interface) -> bool:
    return float((first - second).abs().max()) / interface.value_range <= _TOLERANCE
