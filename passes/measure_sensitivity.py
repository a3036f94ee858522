"""Layers x patterns -> what each would add to the output's error, measured on calibration crops."""

from __future__ import annotations

import dataclasses
import hashlib

import torch
from torch import Tensor, fx

from nmcompile.context import Context
from nmcompile.convs import from_canonical, get_tensor, read_conv, set_tensor, to_canonical
from nmcompile.convs import weight_uses as uses_of
from nmcompile.passes.prune import POSITIONS, collect_hessian, pruned_weight
from nmcompile.pattern import Pattern
from nmcompile.pipeline import compiler_pass
from nmcompile.plan import Choice, Layer
from nmcompile.program import Program
from nmcompile.second_order import Hessian
from nmcompile.walking import Walk

_OUTPUT_CROPS = 8


@compiler_pass(needs={"latency"}, gives={"sensitivity"}, changes="nothing")
def measure_sensitivity(program: Program, ctx: Context) -> Program:
    """Fills each choice's loss (see nmcompile.plan.LOSS_QUANTITY).

    Every (layer, pattern) is pruned one-shot as it would be in the end, from the inputs that the
    dense network gives it, and the rest of the network is run. Losses are cached.
    """
    if ctx.uniform:
        return program
    plan = program.the_plan
    model = program.with_module(program.clone_module())
    digest = _digest(model, ctx)
    wide = Walk(model, ctx.calibration.crops)
    narrow = Walk(model, ctx.calibration.crops[:_OUTPUT_CROPS])
    dense = model(ctx.calibration.crops[:_OUTPUT_CROPS])
    uses = uses_of(model.module)
    layers = []
    with ctx.reporter.stage("measuring sensitivity", len(plan.layers)) as step:
        for layer in plan.layers:
            probe = _Probe(model, layer, uses[layer.name], wide, narrow, dense, ctx, digest)
            layers.append(dataclasses.replace(layer, choices=tuple(probe.choices())))
            step()
    return program.with_plan(plan.with_layers(layers))


@dataclasses.dataclass
class _Probe:
    """One layer under test; its Hessian is collected only if some loss is not cached."""

    model: Program
    layer: Layer
    nodes: list[fx.Node]
    wide: Walk
    narrow: Walk
    dense: Tensor
    ctx: Context
    digest: str
    hessian: Hessian | None = None

    def choices(self) -> list[Choice]:
        return [
            dataclasses.replace(
                choice, loss=0.0 if choice.pattern.is_dense else self._loss(choice.pattern)
            )
            for choice in self.layer.choices
        ]

    def _loss(self, pattern: Pattern) -> float:
        key = ("sensitivity", self.digest, self.layer.name, str(pattern), self.ctx.prune_method)
        return self.ctx.measurements.get_or(lambda: self._measure(pattern), *key)

    def _measure(self, pattern: Pattern) -> float:
        if self.hessian is None and self.ctx.prune_method == "obs":
            self.hessian = collect_hessian(self.wide, self.nodes, self.layer, POSITIONS)
        self.narrow.advance(self.nodes[0])
        module, name = self.model.module, self.layer.name
        conv = read_conv(self.nodes[0])
        assert conv is not None
        weight = get_tensor(module, name)
        canonical = to_canonical(weight, conv.op, conv.groups)
        pruned = pruned_weight(canonical, conv.groups, pattern, self.hessian)
        set_tensor(module, name, from_canonical(pruned, conv.op, conv.groups))
        difference = (self.narrow.finish() - self.dense) / self.model.interface.value_range
        set_tensor(module, name, weight)
        return float((difference.double() ** 2).mean())


def _digest(program: Program, ctx: Context) -> str:
    """What a loss depends on besides layer and pattern: graph, inputs, weights, crops."""
    digest = hashlib.sha256(f"{program.module.graph} {program.interface}".encode())
    for tensor in (*program.module.state_dict().values(), ctx.calibration.crops):
        digest.update(torch.as_tensor(tensor).detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
