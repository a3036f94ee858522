"""The text `600`, `90s` or `2h` and what else is asked for -> how a network is trained."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from nmcompile.errors import NmcompileError

_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; `benchmarks/quality.py --set` measures what the choices bring.

    Attributes:
        steps: optimiser steps; None where the time is given.
        seconds: of training, validation included; None where the steps are given.
        batch: patches a step, over all processes.
        patch: height and width of a patch at the network's input, in pixels.
        lr: Adam's highest learning rate; a cosine takes it to zero.
        warm_up: share of the run in which the learning rate rises to `lr`.
        ema: decay of the weights' moving average, which is what is validated and kept.
        clip: largest norm of the gradient.
        distillation: weight of the L1 distance to the dense network's output (0..1 range).
        reconstruction: weight of the L1 distance to the clean image (0..1 range).
        features: weight of the distance to what the dense network's layers give between its ends
            (L1 over mean magnitude).
        seed: draws patches, noise and flips.
        precision: bf16, fp32, or auto: bf16 where the processor computes in it.
        validations: how many times the validation images are looked at, evenly over the run.
        checkpoint: folder of checkpoints; None for none.
        checkpoint_seconds: time between two checkpoints.
        resume: goes on from the checkpoint there.
        tensorboard: folder for TensorBoard's scalars; None for none.
        device: auto (a GPU where there is one), cpu or cuda.
    """

    steps: int | None = None
    seconds: float | None = None
    batch: int = 32
    patch: int = 40
    lr: float = 4e-4
    warm_up: float = 0.05
    ema: float = 0.99
    clip: float = 1.0
    distillation: float = 1.0
    reconstruction: float = 0.1
    features: float = 0.03
    seed: int = 0
    precision: str = "auto"
    validations: int = 12
    checkpoint: Path | None = None
    checkpoint_seconds: float = 120.0
    resume: bool = False
    tensorboard: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise NmcompileError("a recipe takes steps or seconds, one of them")
        for name, value in (("--finetune", self.length), ("--batch", self.batch),
                            ("--patch", self.patch), ("--lr", self.lr)):  # fmt: skip
            if not (value > 0 and math.isfinite(value)):
                raise NmcompileError(f"{name} {value:g}: expected more than 0")
        if self.seed < 0:
            raise NmcompileError(f"--seed {self.seed}: expected 0 or more")

    @property
    def length(self) -> float:
        """Steps or seconds, whichever is given."""
        return float(self.seconds if self.steps is None else self.steps)  # type: ignore[arg-type]

    def rate(self, progress: float) -> float:
        """The learning rate when that share of the run (0..1) is over."""
        rising = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        return self.lr * rising * 0.5 * (1 + math.cos(math.pi * progress))


def read_length(text: str) -> dict[str, float | int]:
    """`600` as the recipe's steps; `90s`, `30m` or `2h` as its seconds."""
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)([smh])", text.strip())
    if not found:
        raise NmcompileError(
            f"--finetune {text!r}: expected steps or a time, such as 600, 90s, 30m or 2h"
        )
    if found[1]:
        return {"steps": int(found[1])}
    return {"seconds": float(found[2]) * _UNITS[found[3]]}
