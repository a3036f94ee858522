"""A captured network: its ATen-level FX graph, what it takes and gives, and its Plan."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from nmcompile.engine import ExtraInput
from nmcompile.plan import Plan


@dataclass(frozen=True)
class Interface:
    """What the network takes and gives; the fields mean what they mean in the Manifest."""

    input_name: str
    channels: int
    scale: int
    value_range: float = 1.0
    multiple: int = 1
    minimum: int = 1
    fixed_size: tuple[int, int] | None = None
    extra_inputs: tuple[ExtraInput, ...] = ()

    def extras(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        """The further inputs, filled with their values, for an image batch of that size."""
        sizes = {0: batch, "H": height, "W": width}
        unsettled = 0.1 * self.value_range  # until nmcompile.assumptions has settled a NaN
        return tuple(
            torch.full(
                [int(sizes.get(item, item)) for item in extra.shape],
                unsettled if math.isnan(extra.value) else extra.value,
            )
            for extra in self.extra_inputs
        )

    def arguments(self, image: Tensor) -> tuple[Tensor, ...]:
        """All inputs for an image batch [N, C, H, W]."""
        return (image, *self.extras(image.shape[0], image.shape[2], image.shape[3]))


@dataclass(frozen=True)
class Program:
    """The only thing that passes transform.

    Attributes:
        module: functional ATen-level graph; weights are get_attr nodes named as in the model.
        interface: inputs and outputs.
        plan: measurements and decisions; None until analyze_cost.
        facts: what passes have established, checked by the runner.
    """

    module: fx.GraphModule
    interface: Interface
    plan: Plan | None = None
    facts: frozenset[str] = frozenset()

    def __call__(self, image: Tensor) -> Tensor:
        """Runs the network on [N, C, H, W] in its own value range."""
        with torch.no_grad():
            result: Tensor = self.module(*self.interface.arguments(image))
        return result

    @property
    def the_plan(self) -> Plan:
        """The plan, which analyze_cost makes."""
        if self.plan is None:
            raise RuntimeError("the program has no plan yet: run analyze_cost first")
        return self.plan

    def with_plan(self, plan: Plan) -> Program:
        """The same network with another plan."""
        return dataclasses.replace(self, plan=plan)

    def with_module(self, module: fx.GraphModule) -> Program:
        """The same interface and plan over another graph."""
        return dataclasses.replace(self, module=module)

    def clone_module(self) -> fx.GraphModule:
        """A copy of the graph and its weights that a pass may change."""
        with warnings.catch_warnings():  # torch 2.13 copies its own deprecated tree specs
            warnings.simplefilter("ignore", FutureWarning)
            return copy.deepcopy(self.module)
