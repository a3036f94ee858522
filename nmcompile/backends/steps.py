"""Steps over tensors, slices and concatenations -> buffers, views, and the bytes of a program."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nmcompile.runtime.native.blob import (
    Activation,
    Isa,
    Kind,
    Operation,
    Pointwise,
    Residual,
    Value,
    pack,
)


@dataclass(eq=False)
class Tensor:
    """A value of the network: so many channels of one image size.

    Attributes:
        channels: how many.
        parent: the tensor that it is a part of, if any.
        first: where in the parent it begins.
    """

    channels: int
    parent: Tensor | None = None
    first: int = 0

    def place(self) -> tuple[Tensor, int]:
        """The tensor that has memory of its own, and where in it this one begins."""
        tensor, first = self, 0
        while tensor.parent is not None:
            tensor, first = tensor.parent, first + tensor.first
        return tensor, first


@dataclass(eq=False)
class Step:
    """One operation that has not been placed in memory yet; may still be fused with the next."""

    kind: Kind
    inputs: list[Tensor]
    output: Tensor
    params: tuple[int, ...] = ()
    data: tuple[NDArray[np.generic] | None, ...] = ()
    activation: Activation = Activation.NONE
    limits: tuple[float, float] = (0.0, 0.0)
    alpha: float = 1.0
    beta: float = 1.0
    residual: Residual = Residual.NONE
    shuffle: int = 1


@dataclass(eq=False)
class Concat:
    """Pieces that a later step reads as one tensor."""

    pieces: list[Tensor]
    output: Tensor


@dataclass
class Steps:
    """A network in the order in which it runs."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    items: list[Step | Concat] = field(default_factory=list)
    levels: int = 1

    def to_bytes(self, isa: Isa = Isa.BEST) -> bytes:
        """Gives every tensor its memory and packs the program for at most that family."""
        steps = _shuffled_in_store(self._without_concats(), self.outputs)
        tensors = [*self.inputs]
        for step in steps:
            tensors += [*step.inputs, step.output]
        tensors += self.outputs
        places = [tensor.place() for tensor in dict.fromkeys(tensors)]
        buffers = {root: index for index, root in enumerate(dict.fromkeys(p[0] for p in places))}
        values = {
            tensor: Value(buffers[root], first, tensor.channels)
            for tensor, (root, first) in zip(dict.fromkeys(tensors), places, strict=True)
        }
        index = {tensor: number for number, tensor in enumerate(values)}
        return pack(
            [root.channels for root in buffers],
            list(values.values()),
            [_operation(step, index) for step in steps],
            len(self.inputs),
            [index[tensor] for tensor in self.outputs],
            isa,
            self.levels,
        )

    def _without_concats(self) -> list[Step]:
        """Pieces are computed where the whole stands; only what cannot be is copied.

        Outer concatenations come first: one that is itself a piece then takes its own pieces
        along.
        """
        copies: dict[Concat, list[Step]] = {}
        computed = {item.output for item in self.items} - set(self.inputs)
        for item in reversed(self.items):
            if isinstance(item, Concat):
                copies[item] = _join(item, computed)
        steps: list[Step] = []
        for item in self.items:
            steps += copies[item] if isinstance(item, Concat) else [item]
        return steps


def _join(concat: Concat, computed: set[Tensor]) -> list[Step]:
    copies, first = [], 0
    for piece in concat.pieces:
        spot = piece
        if piece.parent is not None or piece not in computed:
            spot = Tensor(piece.channels)
            form = (int(Pointwise.AFFINE),)
            copies.append(Step(Kind.POINTWISE, [piece], spot, form, beta=0.0))
        spot.parent, spot.first = concat.output, first
        first += piece.channels
    return copies


def _shuffled_in_store(steps: list[Step], outputs: list[Tensor]) -> list[Step]:
    """Convolutions whose result is only shuffled write it as the shuffle would."""
    reads = Counter(tensor.place()[0] for step in steps for tensor in step.inputs)
    reads.update(tensor.place()[0] for tensor in outputs)
    makers = {step.output: step for step in steps if step.kind is Kind.CONV2D}
    found: dict[Step, Step] = {}
    for step in steps:
        if step.kind is not Kind.PIXEL_SHUFFLE:
            continue
        conv, (source,) = makers.get(step.inputs[0]), step.inputs
        # Where the image is part of a larger one, its strips may be others than the shuffle gives.
        whole = source.parent is None and step.output.parent is None
        if conv is not None and whole and reads[source] == 1 and not conv.residual:
            found[step] = replace(conv, output=step.output, shuffle=step.params[0])
    inside = {step.inputs[0] for step in found}
    return [found.get(step, step) for step in steps if step.output not in inside]


def _operation(step: Step, index: dict[Tensor, int]) -> Operation:
    return Operation(
        step.kind,
        tuple(index[tensor] for tensor in step.inputs),
        index[step.output],
        step.params,
        (*step.limits, step.alpha, step.beta),
        step.data,
        step.activation,
        step.shuffle,
    )
