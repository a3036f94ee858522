"""A few layers -> small captured networks, and the target and context that passes run in."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from nmcompile import capture
from nmcompile.budget import Budget
from nmcompile.cache import Measurements
from nmcompile.calibration import Calibration
from nmcompile.context import Context, ConvSpec
from nmcompile.convs import get_tensor, weight_uses
from nmcompile.data import Sample
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.program import Interface, Program
from nmcompile.tasks import Task
from nmcompile.transform import CLEAN

HALF, QUARTER = Pattern(1, 2, 4), Pattern(1, 1, 4)
DENOISE = Task("denoise", 25)


class Around(nn.Module):
    """Three channels in and out around the layers under test; they see 8 channels."""

    def __init__(self, *layers: nn.Module, outputs: int = 8) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(outputs, 3, 3, padding=1)
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.body(self.head(x)))


class Shared(nn.Module):
    """One convolution used three times between a head and a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        for _ in range(3):
            x = torch.relu(self.again(x)) + x
        return self.tail(x)


class PerPixel(nn.Module):
    """Linear layers over the channels of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.mix = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.head(x).flatten(2).transpose(1, 2)
        mixed = self.mix(flat).transpose(1, 2)
        return self.tail(mixed.reshape(x.shape[0], 8, x.shape[2], x.shape[3]))


def conv(inputs: int, outputs: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **more})


def plain() -> nn.Module:
    """Head, two convolutions in the middle, tail."""
    return Around(conv(8, 8), nn.ReLU(), conv(8, 8), nn.ReLU())


def captured(module: nn.Module, seed: int = 0) -> Program:
    """The network with weights drawn from that seed, batch norms with statistics of their own."""
    generator = torch.Generator().manual_seed(seed)
    for value in (*module.parameters(), *module.buffers()):
        if value.is_floating_point():
            spread = 1.5 / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else 0.1
            value.data = torch.randn(value.shape, generator=generator) * spread
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var = torch.rand(part.num_features, generator=generator) + 0.5
            if part.affine:
                part.weight.data += 1
    return capture(module)


def cleaned(module: nn.Module, ctx: Context) -> Program:
    return run_passes(captured(module), ctx, CLEAN)


def operations(program: Program) -> list[str]:
    """What the graph calls, in order, without overload names."""
    calls = [node for node in program.module.graph.nodes if node.op == "call_function"]
    return [getattr(node.target, "__name__", "").split(".")[0] for node in calls]


def weights(program: Program) -> dict[str, torch.Tensor]:
    """The tensor of every layer, by name."""
    return {name: get_tensor(program.module, name) for name in weight_uses(program.module)}


def image(program: Program, height: int = 16, width: int = 24, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, program.interface.channels, height, width)
    return torch.rand(shape, generator=generator) * program.interface.value_range


def every_value(program: Program, x: torch.Tensor) -> dict[fx.Node, Any]:
    """The value of each node, by torch's own interpreter."""
    values: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        Recorder(program.module).run(*program.interface.arguments(x))
    return values


class CountingTarget:
    """A backend whose times are the calls' multiply-accumulates, in units of a million.

    `sparse` says whether zeros save time. It keeps every call that it was asked to time.
    """

    name, executor, note, threads, precision = "counting", "none", "", None, "fp32"

    def __init__(self, sparse: bool = True) -> None:
        self.sparse = sparse
        self.calls: list[tuple[ConvSpec, str]] = []

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        return f"{layer.op} {pattern}" if self.sparse else f"{layer.op} dense"

    def key(self) -> tuple[str, ...]:
        return ("counting",)

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        self.calls.append((spec, kernel))
        pattern = Pattern.parse(kernel.split()[1])
        return (
            float(np.prod(spec.shape) * np.prod(spec.input_shape[2:]))
            * 1e-6
            * (pattern.n / pattern.m)
        )

    def default_patterns(self) -> tuple[Pattern, ...]:
        return (HALF, QUARTER)


def context(folder: Path, **changes: Any) -> Context:
    """A context of random crops; the measurements are kept in `folder`."""
    fields: dict[str, Any] = {
        "target": CountingTarget(),
        "task": DENOISE,
        "calibration": calibration(),
        "measurements": Measurements(folder),
        "reference_size": (16, 24),
        "budget": Budget.parse("macs=0.5"),
        "patterns": (HALF, QUARTER),
        **changes,
    }
    return Context(**fields)


def calibration(channels: int = 3, crops: int = 4, size: int = 16) -> Calibration:
    """Smooth random crops, and two samples to check with: noisy pictures and the clean ones."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand((crops + 2, channels, 5, 5), generator=generator)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    samples = []
    for number, picture in enumerate(smooth[crops:]):
        clean = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        samples.append(Sample(f"picture{number}", DENOISE.degrade(clean, number), clean))
    return Calibration(smooth[:crops].contiguous(), tuple(samples))


def layer(name: str, *choices: tuple[str, int, float, float], **changes: Any) -> Layer:
    """A plan's layer from (pattern, MACs, milliseconds, loss) of its choices, dense first."""
    found = tuple(Choice(Pattern.parse(p), macs, ms, loss, "k") for p, macs, ms, loss in choices)
    fields: dict[str, Any] = {
        "op": "conv2d", "shape": (8, 8, 3, 3), "groups": 1, "uses": 1, "params": 576,
        "macs": choices[0][1], "macs_formula": "576*H*N*W", "activation_bytes": 4 * 8 * 384,
    }  # fmt: skip
    return Layer(name, choices=found, **{**fields, **changes})


def plan(*layers: Layer, **changes: Any) -> Plan:
    return Plan(**{"reference_size": (16, 24), "target": "cpu", "layers": layers, **changes})


def bare_interface(**changes: Any) -> Interface:
    return Interface(**{"input_name": "image", "channels": 3, "scale": 1, **changes})
