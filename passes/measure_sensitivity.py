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
from nmcompile.pattern import DENSE, Pattern
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
    return program if ctx.uniform else with_losses(program, program, ctx)


def with_losses(program: Program, dense: Program, ctx: Context) -> Program:
    """Fills each choice's loss in a network whose other layers may be pruned and trained already.

    Args:
        program: the network with its plan.
        dense: what the pruned weights are made from, and whose output is right.
        ctx: crops, pruning method, cache.
    """
    plan = program.the_plan
    model = program.with_module(program.clone_module())
    digest = _digest(model, dense, ctx)
    wide = Walk(model, ctx.calibration.crops)
    narrow = Walk(model, ctx.calibration.crops[:_OUTPUT_CROPS])
    wanted = dense(ctx.calibration.crops[:_OUTPUT_CROPS])
    uses = uses_of(model.module)
    layers = []
    with ctx.reporter.stage("measuring sensitivity", len(plan.layers)) as step:
        for layer in plan.layers:
            weight = get_tensor(dense.module, layer.name)
            nodes = uses[layer.name]
            probe = _Probe(model, layer, nodes, weight, wide, narrow, wanted, ctx, digest)
            layers.append(dataclasses.replace(layer, choices=tuple(probe.choices())))
            step()
    return program.with_plan(plan.with_layers(layers))


@dataclasses.dataclass
class _Probe:
    """One layer under test; its Hessian is collected only if some loss is not cached."""

    model: Program
    layer: Layer
    nodes: list[fx.Node]
    weight: Tensor
    wide: Walk
    narrow: Walk
    wanted: Tensor
    ctx: Context
    digest: str
    hessian: Hessian | None = None

    def choices(self) -> list[Choice]:
        # Where other layers are pruned already, a pattern may even undo some of their error.
        without = self._error(DENSE)
        losses = [max(0.0, self._error(choice.pattern) - without) for choice in self.layer.choices]
        return [
            dataclasses.replace(choice, loss=loss)
            for choice, loss in zip(self.layer.choices, losses, strict=True)
        ]

    def _error(self, pattern: Pattern) -> float:
        if pattern.is_dense and torch.equal(
            get_tensor(self.model.module, self.layer.name), self.weight
        ):
            return 0.0
        key = ("sensitivity", self.digest, self.layer.name, str(pattern), self.ctx.prune_method)
        return self.ctx.measurements.get_or(lambda: self._measure(pattern), *key)

    def _measure(self, pattern: Pattern) -> float:
        if self.hessian is None and self.ctx.prune_method == "obs" and not pattern.is_dense:
            self.hessian = collect_hessian(self.wide, self.nodes, self.layer, POSITIONS)
        self.narrow.advance(self.nodes[0])
        module, name = self.model.module, self.layer.name
        conv = read_conv(self.nodes[0])
        assert conv is not None
        own = get_tensor(module, name)
        changed = to_canonical(self.weight, conv.op, conv.groups)
        if not pattern.is_dense:
            changed = pruned_weight(changed, conv.groups, pattern, self.hessian)
        set_tensor(module, name, from_canonical(changed, conv.op, conv.groups))
        difference = (self.narrow.finish() - self.wanted) / self.model.interface.value_range
        set_tensor(module, name, own)
        return float((difference.double() ** 2).mean())


def _digest(program: Program, dense: Program, ctx: Context) -> str:
    """What a loss depends on besides layer and pattern: graph, inputs, weights, crops."""
    digest = hashlib.sha256(f"{program.module.graph} {program.interface}".encode())
    weights = (*program.module.state_dict().values(), *dense.module.state_dict().values())
    for tensor in (*weights, ctx.calibration.crops):
        digest.update(torch.as_tensor(tensor).detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
