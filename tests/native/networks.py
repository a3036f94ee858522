"""A seed -> a random small network as a native program, with or without barriers between steps."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Pointwise,
    Residual,
    Value,
    conv_data,
    pack,
)

SAME = (1, 1, 1, 1)
WINDOWS = (
    ConvShape((3, 3), padding=SAME),
    ConvShape((1, 1)),
    ConvShape((5, 3), padding=(1, 1, 2, 2)),
    ConvShape((3, 3), dilation=(3, 2), padding=(2, 2, 3, 3)),
    ConvShape((3, 3), padding=SAME, groups=2),
)
STEPS = (
    "conv", "conv", "conv", "down", "cropped", "pool", "shuffle", "stored", "nearest", "bilinear",
    "affine", "sum", "product", "gate", "concat", "again",
)  # fmt: skip


@dataclass
class Net:
    """A program in the making.

    Attributes:
        random: what decides.
        buffers: channels of each.
        values: views of the buffers.
        sizes: of each value, how its image came about; equal ones have equal sizes.
        operations: in order.
    """

    random: np.random.Generator
    buffers: list[int] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    sizes: list[tuple[str, ...]] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    def new(self, channels: int, size: tuple[str, ...]) -> int:
        """A value with a buffer of its own."""
        self.buffers.append(channels)
        return self.view(len(self.buffers) - 1, 0, channels, size)

    def view(self, buffer: int, first: int, channels: int, size: tuple[str, ...]) -> int:
        """A part of a buffer."""
        self.values.append(Value(buffer, first, channels))
        self.sizes.append(size)
        return len(self.values) - 1

    def channels(self, value: int) -> int:
        """How many channels a value has."""
        return self.values[value].channels

    def noise(self, *shape: int) -> NDArray[np.float32]:
        """Weights that neither grow nor shrink what they are applied to much."""
        return (self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def conv(self, source: int, shape: ConvShape, output: int, factor: int = 1) -> None:
        """A convolution, sparse or dense, plus a residual where there is one, or shuffled."""
        inputs, outputs = self.channels(source), self.channels(output) * factor**2
        groups = shape.groups if inputs % shape.groups == outputs % shape.groups == 0 else 1
        shape = ConvShape(shape.kernel, shape.stride, shape.dilation, shape.padding, groups)
        others = self.like(output) if factor == 1 else []
        residual = Residual(int(self.random.integers(3)) if others else 0)
        operands = (source, self.pick(others)) if residual else (source,)
        weight = self.noise(outputs, inputs // groups, *shape.kernel)
        sparse = bool(self.random.integers(2))
        weight *= (weight > 0) | (not sparse)
        self.operations.append(Operation(
            Kind.CONV2D, operands, output, shape.params(residual, Family(int(sparse))),
            data=conv_data(weight, self.noise(outputs), sparse), activation=Activation.RELU,
            shuffle=factor,
        ))  # fmt: skip

    def like(self, value: int) -> list[int]:
        """Values from before that have a value's channels and size, and other memory."""
        return [
            other
            for other in self.ready
            if self.channels(other) == self.channels(value)
            and self.sizes[other] == self.sizes[value]
            and self.values[other].buffer != self.values[value].buffer
        ]

    @property
    def ready(self) -> list[int]:
        """What steps may read."""
        written = {0} | {step.output for step in self.operations}
        return sorted(value for value in written if self.sizes[value] != ("one",))

    def pick(self, values: list[int]) -> int:
        """One of them, a late one more often than an early one."""
        return values[max(self.random.integers(len(values), size=2))]

    def point(self, form: Pointwise, operands: tuple[int, ...], output: int) -> None:
        """A pointwise step."""
        scalars = (0.0, 0.0, 0.5, 0.25)
        self.operations.append(Operation(Kind.POINTWISE, operands, output, (int(form),), scalars))

    def add(self, kind: str) -> None:
        """A step of that kind, if what is there allows one."""
        source = self.pick(self.ready)
        channels, size = self.channels(source), self.sizes[source]
        scale = sum(part in ("shuffle", "stored", "nearest") for part in size)
        step = (kind, str(len(self.operations)))
        if kind == "conv":
            window = WINDOWS[self.random.integers(len(WINDOWS))]
            self.conv(source, window, self.new(int(self.random.choice([4, 8])), size))
        elif kind == "down":
            shape = ConvShape((3, 3), stride=(2, 2), padding=SAME)
            self.conv(source, shape, self.new(4, (*size, *step)))
        elif kind == "cropped":
            self.conv(source, ConvShape((3, 1)), self.new(4, (*size, *step)))
        elif kind == "pool":
            output = self.new(channels, (*size, *step))
            params = ConvShape((3, 3), (2, 2), padding=SAME).params()
            self.operations.append(Operation(Kind.MAX_POOL, (source,), output, params))
        elif kind in ("shuffle", "nearest") and scale < 2 and channels % 4 == 0:
            output = self.new(channels // (4 if kind == "shuffle" else 1), (*size, *step))
            form = Kind.PIXEL_SHUFFLE if kind == "shuffle" else Kind.NEAREST
            self.operations.append(Operation(form, (source,), output, (2,)))
        elif kind == "stored" and scale < 2:
            window = WINDOWS[self.random.integers(len(WINDOWS))]
            self.conv(source, window, self.new(4, (*size, *step)), 2)
        elif kind == "bilinear":
            model = self.pick([v for v in self.ready if self.channels(v) == channels])
            output = self.new(channels, self.sizes[model])
            params = (int(self.random.integers(2)),)
            self.operations.append(Operation(Kind.BILINEAR, (source, model), output, params))
        elif kind == "affine":
            self.point(Pointwise.AFFINE, (source,), self.new(channels, size))
        elif kind in ("sum", "product"):
            output = self.new(channels, size)
            form = Pointwise.SUM if kind == "sum" else Pointwise.PRODUCT
            self.point(form, (source, self.pick(self.like(output))), output)
        elif kind == "gate":
            mean = self.new(channels, ("one",))
            self.operations.append(Operation(Kind.MOMENTS, (source,), mean, (0, 0)))
            gate = self.new(channels, ("one",))
            self.conv(mean, WINDOWS[1], gate)
            self.point(Pointwise.GATE_SUM, (source, gate), self.new(channels, size))
        elif kind == "concat":
            self.concat(source)
        elif kind == "again":
            self.overwrite(source)

    def concat(self, source: int) -> None:
        """Two parts that are computed where the whole stands, which a convolution reads."""
        size = self.sizes[source]
        self.buffers.append(12)
        buffer = len(self.buffers) - 1
        left, right = self.view(buffer, 0, 4, size), self.view(buffer, 4, 8, size)
        self.conv(source, WINDOWS[0], left)
        self.conv(left, WINDOWS[3], right)
        self.conv(self.view(buffer, 0, 12, size), WINDOWS[0], self.new(4, size))
        self.conv(self.view(buffer, 2, 8, size), WINDOWS[1], self.new(8, size))

    def overwrite(self, source: int) -> None:
        """A buffer that was read gets other contents, all of it and then a part of it."""
        spare = self.new(self.channels(source), self.sizes[source])
        self.conv(source, WINDOWS[0], spare)
        middle = self.new(4, self.sizes[source])
        self.conv(spare, WINDOWS[0], middle)
        self.conv(middle, WINDOWS[0], spare)
        size = self.sizes[source]
        self.conv(spare, WINDOWS[0], self.new(4, size))
        if self.channels(spare) > 1:
            part = self.view(self.values[spare].buffer, 1, self.channels(spare) - 1, size)
            self.conv(middle, WINDOWS[1], part)

    def packed(self, apart: bool, levels: int = 1) -> bytes:
        """Its bytes; the last value and one other are outputs.

        Args:
            apart: with a mean over an image after every step, which nothing reads: such a step
                needs all of its input, so that no two steps run interleaved.
            levels: how many it has.
        """
        values, buffers = [*self.values, Value(len(self.buffers), 0, 4)], [*self.buffers, 4]
        barrier = Operation(Kind.MOMENTS, (0,), len(values) - 1, (0, 0))
        steps = [
            part for step in self.operations for part in ([step, barrier] if apart else [step])
        ]
        outputs = [self.ready[-1], self.ready[len(self.ready) // 2]]
        return pack(buffers, values, steps, 1, outputs, levels=levels)


def random_network(seed: int, steps: int = 9) -> Net:
    """A network of 4 input channels and about so many steps."""
    net = Net(np.random.default_rng(seed))
    net.new(4, ())
    for kind in net.random.choice(STEPS, steps):
        net.add(str(kind))
    source = net.pick(net.ready)
    net.conv(source, WINDOWS[0], net.new(4, net.sizes[source]))
    return net
