"""Nested levels and patches by number -> windows, and the error that each level makes on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nmcompile.backends.native import UnsupportedError, lower
from nmcompile.context import Context
from nmcompile.convs import read_conv, to_canonical, weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.routing.nested import Nested
from nmcompile.runtime.native.program import NativeProgram
from nmcompile.training.batches import Patches

_BATCH = 16

# A batch [N, C, h, w] and a level -> what the level makes of it, all in the network's range.
Levels = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Windows:
    """Degraded windows and what each level makes of them.

    Attributes:
        images: [N, C, h, w] in the network's range.
        errors: [N, K] mean squared errors of each level's output, clipped to the range, to the
            clean image; in units of the squared range. float64.
        sources: [N], the number of the image that each is of.
    """

    images: Tensor
    errors: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def part(self, first: int, last: int) -> Windows:
        """Those from one place to another."""
        own = slice(first, last)
        return Windows(self.images[own], self.errors[own], self.sources[own])


def measure(nested: Nested, data: Patches, window: int, count: int, ctx: Context) -> Windows:
    """Runs every level once on each of the first `count` patches.

    The errors are those to the clean image, which is what quality means. Frozen levels make the
    same ones whatever the head says, so that they are measured once and learnt from often.

    Raises:
        NmcompileError: patches of another size than the windows.
    """
    levels, top = runner(nested), nested.program.interface.value_range
    images, errors = [], []
    with ctx.reporter.stage("measuring levels", -(-count // _BATCH)) as step:
        for numbers in _batches(count):
            low, clean = _batch(data, numbers, window)
            made = (levels(low, level) for level in range(nested.count))
            images.append(low)
            errors.append(torch.stack([_error(y, clean, top) for y in made], 1))
            step()
    return Windows(torch.cat(images), torch.cat(errors), _sources(data, count))


def draw(data: Patches, window: int, errors: Tensor) -> Windows:
    """The first patches again with the errors [N, K] that were measured on them before."""
    parts = [_batch(data, numbers, window)[0] for numbers in _batches(len(errors))]
    return Windows(torch.cat(parts), errors, _sources(data, len(errors)))


def _sources(data: Patches, count: int) -> Tensor:
    return torch.tensor([data.image_of(number) for number in range(count)])


def _batches(count: int) -> list[range]:
    """Numbers of patches, few at a time: the clean ones of all would take gigabytes."""
    return [range(first, min(count, first + _BATCH)) for first in range(0, count, _BATCH)]


def _batch(data: Patches, numbers: range, window: int) -> tuple[Tensor, Tensor]:
    """Degraded and clean patches of those numbers."""
    low, clean = (torch.stack(part) for part in zip(*map(data.__getitem__, numbers), strict=True))
    if low.shape[2:] != (window, window):
        raise NmcompileError(
            f"patches of {low.shape[2]}x{low.shape[3]} pixels, expected windows of "
            f"{window}x{window}; give patches of that size"
        )
    return low, clean


def _error(made: Tensor, clean: Tensor, top: float) -> Tensor:
    """[N]: mean squared error of outputs clipped to the range, in units of its square."""
    return ((made.clamp(0, top) - clean) / top).double().square().mean((1, 2, 3))


def runner(nested: Nested) -> Levels:
    """The levels by libnmk, or by torch where it lacks an operation or the network more inputs."""
    program = nested.program
    uses = weight_uses(program.module)
    least = {}
    for name, levels in nested.least.items():
        conv = read_conv(uses[name][0])
        assert conv is not None
        least[name] = to_canonical(levels, conv.op, conv.groups).contiguous().numpy()
    try:
        native = NativeProgram(lower(program, levels=least))
    except UnsupportedError:
        programs = [nested.at(level) for level in range(nested.count)]
        return lambda images, level: programs[level](images)

    def run(images: Tensor, level: int) -> Tensor:
        inputs = [value.numpy() for value in program.interface.arguments(images)]
        return torch.from_numpy(native.run(inputs, torch.get_num_threads(), level)[0])

    return run
