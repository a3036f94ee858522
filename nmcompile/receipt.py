"""A finished compilation -> receipt.json: what runs, layer by layer, and what it gained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nmcompile
from nmcompile.backends.cuda import CudaTarget
from nmcompile.backends.onnx import OnnxTarget
from nmcompile.backends.tensorrt_receipt import layer_facts, row, summary
from nmcompile.context import Context
from nmcompile.convs import get_tensor, to_canonical
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import evaluate
from nmcompile.metrics import PROTOCOL, Quality, countable
from nmcompile.pattern import DENSE, SKIP
from nmcompile.plan import Layer
from nmcompile.precision import LEAST_AGREEMENT_DB, Precision
from nmcompile.program import Program
from nmcompile.routing.facts import routing_facts
from nmcompile.routing.making import Adaptive
from nmcompile.runtime import Engine, native
from nmcompile.runtime.executor import available_cores
from nmcompile.runtime.regions import REGIONS, read_regions
from nmcompile.tasks import Floats
from nmcompile.timing import interleaved

RECEIPT_VERSION = 1
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class About:
    """What the receipt says besides what it measures.

    Attributes:
        model: the model's name.
        precision: what the engine computes in, and why.
        assumed: what the user must know was assumed.
        training: how the weights were fine-tuned; None if they were not.
    """

    model: str
    precision: Precision
    assumed: Sequence[str]
    training: dict[str, Any] | None = None


@dataclass(frozen=True)
class Compiled:
    """All that a receipt is made from.

    Attributes:
        about: names and reasons.
        dense: the program before pruning.
        sparse: the program as lowered.
        engine: the engine that was written.
        original: the engine's executor over the dense original.
        seconds: how long each stage took.
        adaptive: levels and head, of an input-adaptive network.
    """

    about: About
    dense: Program
    sparse: Program
    engine: Engine
    original: Engine
    seconds: dict[str, float]
    adaptive: Adaptive | None = None


def make_receipt(done: Compiled, ctx: Context) -> dict[str, Any]:
    """Verifies the engine, measures it against the dense original, and writes it all down."""
    plan = done.sparse.the_plan
    verified = _verified(done, ctx)
    routing = done.adaptive and routing_facts(done.engine, done.adaptive, ctx)
    spent = round(routing["macs"] * plan.dense_macs) if routing else plan.macs
    engine, built = done.engine.path, done.engine.manifest.built
    really = layer_facts(done.sparse, engine) if built else {}
    return {
        "version": RECEIPT_VERSION,
        "created_by": f"nmcompile {nmcompile.__version__}",
        "model": done.about.model,
        "target": ctx.target.name,
        "executor": ctx.target.executor,
        "cpu": native.cpu_name(),
        "gpu": built.gpu if built else _gpu(ctx),
        "compared_with": "TensorRT" if built else "ONNX Runtime",
        "tensorrt": built and {**dataclasses.asdict(built), **summary(really)},
        "threads": ctx.target.threads or available_cores(),
        "note": ctx.target.note,
        "precision": dataclasses.asdict(done.about.precision),
        "regions": _regions(engine),
        "task": str(ctx.task),
        "budget": str((ctx.uniform and f"uniform {ctx.uniform}") or plan.budget or ctx.budget),
        "patterns": [str(pattern) for pattern in ctx.patterns],
        "reference_size": list(plan.reference_size),
        "params": _params(done.sparse),
        "macs": {"dense": plan.dense_macs, "compiled": spent},
        "training": done.about.training,
        "routing": routing,
        "engine_ms": _engine_ms(done, plan.reference_size, ctx),
        "quality": _quality(done, ctx),
        "verification": verified,
        "assumed": [*done.about.assumed, *plan.notes],
        "layers": [
            _row(layer, done.sparse) | (row(really[layer.name]) if built else {})
            for layer in plan.layers
        ],
        "seconds": {name: round(value, 2) for name, value in done.seconds.items()},
    }


def _verified(done: Compiled, ctx: Context) -> dict[str, Any]:
    """The verification of the network, or the worst of its levels'."""
    if done.adaptive is None:
        return verify(done.engine, done.sparse, ctx)
    nested = done.adaptive.nested
    levels = [verify(done.engine.at(i), nested.at(i), ctx) for i in range(nested.count)]
    return max(levels, key=lambda found: found["max_abs_difference"])


def verify(engine: Engine, program: Program, ctx: Context) -> dict[str, Any]:
    """The engine's outputs against the Program's, on calibration crops and at another size.

    Raises:
        NmcompileError: they differ by more than rounding.
    """
    crops = ctx.calibration.crops[:4]
    interface = program.interface
    inputs = [crops]
    if not interface.fixed_size:
        other = max(
            interface.minimum, crops.shape[2] // interface.multiple // 2 * interface.multiple
        )
        inputs.append(crops[:1, :, :other])
    worst, agreement = 0.0, math.inf
    for x in inputs:
        difference = engine.run(np.ascontiguousarray(x.numpy())) - program(x).numpy()
        error = countable(difference / interface.value_range)
        worst = max(worst, float(np.abs(error).max()))
        agreement = min(agreement, -10 * math.log10(max(float(np.mean(error**2)), 1e-20)))
    rounded = ctx.target.precision != "fp32"
    if rounded and not agreement >= LEAST_AGREEMENT_DB:
        raise NmcompileError(
            f"in {ctx.target.precision} the engine's output is only {agreement:.1f} dB from the "
            f"network's, at least {LEAST_AGREEMENT_DB:g} is expected; give --precision fp32 or "
            "another --target"
        )
    if not rounded and not worst <= _TOLERANCE:
        raise NmcompileError(
            f"the engine's output differs from the network's by {worst:.3g} of its range (at most "
            f"{_TOLERANCE:g} is rounding): the {ctx.target.executor} lowering of this network is "
            "wrong; please report it with the model"
        )
    sizes = [list(x.shape[2:]) for x in inputs]
    return {
        "max_abs_difference": worst,
        "tolerance": None if rounded else _TOLERANCE,
        "agreement_db": agreement,
        "sizes": sizes,
    }


def _params(program: Program) -> dict[str, int]:
    layers = program.the_plan.layers
    kept = sum(int(torch.count_nonzero(get_tensor(program.module, x.name))) for x in layers)
    return {"dense": sum(layer.params for layer in layers), "kept": kept}


def _engine_ms(done: Compiled, size: tuple[int, int], ctx: Context) -> dict[str, Any]:
    interface = done.sparse.interface
    if done.adaptive is None:
        shape = (1, interface.channels, *size)
        x = np.random.default_rng(0).random(shape, np.float32) * np.float32(interface.value_range)
        calls = (lambda: done.original.run(x)), (lambda: done.engine.run(x))
    else:
        # What a level is chosen for must be a picture, and choosing is part of the time.
        picture = _picture(ctx, size)
        calls = (lambda: done.original.restore(picture)), (lambda: done.engine.restore(picture))
    dense, compiled, ratio = interleaved(*calls)
    return {"dense": dense, "compiled": compiled, "ratio": ratio, "size": list(size)}


def _picture(ctx: Context, size: tuple[int, int]) -> Floats:
    """A degraded picture of that size: the first validation image, repeated by reflection."""
    sample = ctx.calibration.validation[0].degraded
    short = [(0, max(0, want - have)) for have, want in zip(sample.shape, size, strict=False)]
    return np.pad(sample, (*short, (0, 0)), "symmetric")[: size[0], : size[1]]


def _quality(done: Compiled, ctx: Context) -> dict[str, Any]:
    samples = ctx.calibration.validation
    dense, compiled = (evaluate(e, samples, ctx.task) for e in (done.original, done.engine))
    return {
        "images": len(samples),
        "where": "parts of the calibration images that nothing was measured or pruned on",
        "protocol": PROTOCOL,
        "dense": dataclasses.asdict(Quality(dense.psnr, dense.ssim)),
        "compiled": dataclasses.asdict(Quality(compiled.psnr, compiled.ssim)),
        "drop_db": dense.psnr - compiled.psnr,
    }


def _row(layer: Layer, program: Program) -> dict[str, Any]:
    dense, chosen = layer.choices[0], layer.chosen
    gain = None
    if dense.latency_ms is not None and chosen.latency_ms:
        gain = dense.latency_ms / chosen.latency_ms
    return {
        "name": layer.name,
        "op": layer.op,
        "shape": list(layer.shape),
        "groups": layer.groups,
        "uses": layer.uses,
        "pattern": str(layer.pattern),
        "valid": _is_valid(layer, program),
        "macs_dense": layer.macs,
        "macs": chosen.macs,
        "dense_ms": dense.latency_ms,
        "chosen_ms": chosen.latency_ms,
        "gain": gain,
        "kernel": chosen.kernel,
        "status": _status(layer),
        "reason": layer.reason,
    }


def _gpu(ctx: Context) -> str | None:
    return ctx.target.gpu.name if isinstance(ctx.target, CudaTarget) else None


def _status(layer: Layer) -> str:
    """What becomes of a layer's zeros."""
    if layer.pattern in (DENSE, SKIP):
        return "dense" if layer.pattern == DENSE else "not computed"
    outside = layer.chosen.kernel.startswith("onnxruntime.")
    return OnnxTarget.note if outside else "sparse kernel"


def _regions(folder: Path) -> list[dict[str, Any]]:
    """What runs where, in order, for a network that is not run as a whole."""
    if not (folder / REGIONS).is_file():
        return []
    plan = read_regions(folder / REGIONS)
    return [
        {"part": region.part, "runner": region.runner, "operations": dict(region.operations)}
        for region in plan.regions
    ]


def _is_valid(layer: Layer, program: Program) -> bool:
    """Whether the weights that were lowered really keep the layer's pattern."""
    weight = to_canonical(get_tensor(program.module, layer.name), layer.op, layer.groups)
    return layer.pattern.allows((weight != 0).numpy(), layer.groups)
