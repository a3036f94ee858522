"""What the user asked for -> the read-only Context that every pass is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nmcompile.budget import Budget
from nmcompile.cache import Measurements
from nmcompile.calibration import Calibration
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.progress import SILENT, Reporter
from nmcompile.tasks import Task


@dataclass(frozen=True)
class ConvSpec:
    """One convolution call as a backend times it: everything that its speed depends on."""

    op: str
    shape: tuple[int, int, int, int]
    groups: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    output_padding: tuple[int, int]
    input_shape: tuple[int, ...]


class Target(Protocol):
    """A backend, as passes see it.

    Attributes:
        name: as the user wrote it.
        executor: what runs its engines.
        note: what holds of all its kernels and the user must know; "" if nothing.
        threads: None for all cores.
        precision: fp32, or bf16 or fp16 where kernels that gain by it may round to it.
    """

    name: str
    executor: str
    note: str
    threads: int | None
    precision: str

    def fitted(self, program: Program, size: tuple[int, int]) -> Target:
        """What really runs that network: this backend, or the one it leaves the network to.

        Args:
            program: the dense network.
            size: (H, W) of the input at which what could run it is compared.
        """

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """The kernel that would run a layer with that pattern (equal names: equal speed)."""

    def key(self) -> tuple[str, ...]:
        """What a measured latency depends on besides the call: machine, versions, threads."""

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Times one call, in milliseconds (median)."""

    def default_patterns(self) -> tuple[Pattern, ...]:
        """The candidates when the user names none."""


@dataclass(frozen=True)
class Context:
    """Read-only surroundings of a compilation.

    Attributes:
        target: the backend.
        task: the restoration task.
        calibration: images.
        measurements: numbers measured before.
        reference_size: (H, W) of the input at which MACs and latencies are stated.
        budget: what the result may cost.
        patterns: candidates besides dense.
        uniform: one pattern for every layer of the trunk instead of a search.
        prune_method: obs (second order) or magnitude.
        reporter: shows progress.
        dump_folder: where the graph is written after every pass.
        check: compare outputs after every pass, also where a pass promises not to touch them.
    """

    target: Target
    task: Task
    calibration: Calibration
    measurements: Measurements
    reference_size: tuple[int, int]
    budget: Budget = field(default_factory=lambda: Budget.parse("drop=0.1dB"))
    patterns: tuple[Pattern, ...] = ()
    uniform: Pattern | None = None
    prune_method: str = "obs"
    reporter: Reporter = SILENT
    dump_folder: Path | None = None
    check: bool = False
