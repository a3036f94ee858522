"""A pruned program and what TensorRT said of its engine -> for every layer, what really runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nmcompile.backends.tensorrt_build import DENSE_PLAN
from nmcompile.backends.tensorrt_log import (
    EngineLayer,
    SparsityLog,
    read_inspector,
    read_log,
    read_profile,
)
from nmcompile.backends.tensorrt_onnx import is_sparse_for_tensorrt, layer_of
from nmcompile.errors import NmcompileError
from nmcompile.plan import Layer
from nmcompile.program import Program
from nmcompile.runtime.tensorrt import PLAN

SPARSE, PLUGIN, DENSE, LOST = "sparse tactic", "plugin", "dense tactic", "not found"
# From best to worst, where a weight is used in several places.
_ORDER = (PLUGIN, SPARSE, DENSE, LOST)
_NAMED = 6


@dataclass(frozen=True)
class Facts:
    """What becomes of one layer of the plan.

    Attributes:
        valid: its weights are 2:4 along input channels, which TensorRT's sparse tactics need.
        eligible: TensorRT found so; None where its log does not say.
        runs: SPARSE, PLUGIN, DENSE, or LOST if no layer of the engine names it; the worst of its
            uses.
        tactic: the kernel's name.
        engine_layers: the engine's names of what computes it.
        types: data types and formats of these layers' inputs and outputs.
        ms: median time of these layers, with what is fused into them; None if not profiled.
        dense_ms: the same in the engine of the dense original.
        expected: it was pruned, so that it should not run dense.
    """

    valid: bool
    eligible: bool | None
    runs: str
    tactic: str
    engine_layers: tuple[str, ...]
    types: tuple[str, ...]
    ms: float | None
    dense_ms: float | None
    expected: bool

    @property
    def reverted(self) -> bool:
        """Whether it was pruned for nothing."""
        return self.expected and self.runs not in (SPARSE, PLUGIN)

    @property
    def status(self) -> str:
        """One line for tables."""
        if self.runs == LOST:
            return "no layer of the engine names it"
        said = f"runs dense: {self._why}" if self.reverted else self.runs
        times = [f"{ms:.3g} ms" for ms in (self.ms, self.dense_ms) if ms is not None]
        return f"{said}; in the engine {' (dense '.join(times)})" if len(times) == 2 else said

    @property
    def _why(self) -> str:
        if not self.valid:
            return "sparse tactics need one group and at most 2 of every 4 input channels"
        if self.eligible is None:
            return "the build log says nothing of sparsity"
        return "its dense tactic is faster" if self.eligible else "TensorRT finds it not eligible"


@dataclass(frozen=True)
class _Said:
    """What TensorRT said of one engine: its log, and by name of an ONNX node what computes it."""

    log: SparsityLog
    layers: tuple[EngineLayer, ...]
    times: Mapping[str, float]

    @classmethod
    def read(cls, plan: Path) -> _Said:
        log = read_log(plan.with_suffix(".log").read_text().splitlines())
        inspected = read_inspector(plan.with_suffix(".layers.json").read_text())
        times = read_profile(plan.with_suffix(".profile.json").read_text())
        return cls(log, inspected.layers, times)

    def of(self, layer: str) -> dict[str, list[EngineLayer]]:
        """The engine's layers that compute a layer of the plan, by node."""
        found: dict[str, list[EngineLayer]] = {}
        for engine_layer in self.layers:
            for node in engine_layer.nodes if engine_layer.computes else ():
                if layer_of(node) == layer:
                    found.setdefault(node, []).append(engine_layer)
        return found

    def ms(self, layers: list[EngineLayer]) -> float | None:
        """Their time together; None where one was not profiled."""
        times = [self.times.get(name) for name in dict.fromkeys(layer.name for layer in layers)]
        known = [time for time in times if time is not None]
        return sum(known) if known and len(known) == len(times) else None

    def runs(self, node: str, layers: list[EngineLayer]) -> str:
        """What runs a node: log or tactic's name may say that it is a sparse tactic."""
        if any("plugin" in layer.kind.lower() for layer in layers):
            return PLUGIN
        named = any("sparse" in layer.tactic.lower() for layer in layers)
        return SPARSE if named or node in (self.log.picked or ()) else DENSE


def layer_facts(program: Program, folder: Path) -> dict[str, Facts]:
    """Layer of the plan -> what really runs it.

    Args:
        program: as it was lowered, with its plan.
        folder: where both engines were written, and beside them what was said of them.

    Raises:
        NmcompileError: one of them is not what TensorRT writes.
    """
    said, dense = _Said.read(folder / PLAN), _Said.read(folder / DENSE_PLAN)
    return {layer.name: _facts(layer, program, said, dense) for layer in program.the_plan.layers}


def check_strict(facts: Mapping[str, Facts]) -> None:
    """Raises NmcompileError that names the layers which were pruned and run dense."""
    found = [f"{name} ({item.status})" for name, item in facts.items() if item.reverted]
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise NmcompileError(
            f"--strict: {len(found)} pruned layers run dense: {', '.join(found[:_NAMED])}{more}; "
            "no engine was written: leave --strict out to get it and its receipt, or give other "
            "--patterns"
        )


def summary(facts: Mapping[str, Facts]) -> dict[str, object]:
    """What the receipt says of all layers together."""
    pruned = [item for item in facts.values() if item.expected]
    return {
        "pruned": len(pruned),
        "sparse_tactics": sum(item.runs == SPARSE for item in pruned),
        "plugins": sum(item.runs == PLUGIN for item in pruned),
        "reverted": [name for name, item in facts.items() if item.reverted],
    }


def row(item: Facts) -> dict[str, object]:
    """What the receipt says of a layer, besides what it says for every target."""
    return {
        "kernel": item.tactic or item.runs,
        "status": item.status,
        "tensorrt": dataclasses.asdict(item),
    }


def _facts(layer: Layer, program: Program, said: _Said, dense: _Said) -> Facts:
    nodes = said.of(layer.name)
    layers = [item for found in nodes.values() for item in found]
    ways = [said.runs(node, found) for node, found in nodes.items()] or [LOST]
    eligible = said.log.eligible
    return Facts(
        valid=is_sparse_for_tensorrt(layer, program),
        eligible=None if eligible is None else any(layer_of(x) == layer.name for x in eligible),
        runs=max(ways, key=_ORDER.index),
        tactic=", ".join(dict.fromkeys(item.tactic for item in layers if item.tactic)),
        engine_layers=tuple(dict.fromkeys(item.name for item in layers)),
        types=tuple(dict.fromkeys(kind for item in layers for kind in item.types)),
        ms=said.ms(layers),
        dense_ms=dense.ms([item for found in dense.of(layer.name).values() for item in found]),
        expected=not layer.pattern.is_dense,
    )
