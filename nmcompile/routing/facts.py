"""A routed engine and its levels -> what the receipt says of them, and levels.json."""

from __future__ import annotations

import dataclasses
import json
from statistics import fmean
from typing import Any

import numpy as np

from nmcompile.context import Context
from nmcompile.evaluate import evaluate
from nmcompile.plan import Plan
from nmcompile.routing.making import Adaptive
from nmcompile.runtime import Engine
from nmcompile.runtime.routing import Routes
from nmcompile.timing import interleaved


def levels_json(adaptive: Adaptive) -> str:
    """The patterns and the costs of every level."""
    levels = [
        {
            "budget": plan.budget,
            "macs": plan.macs,
            "cost": cost,
            "patterns": {layer.name: str(layer.pattern) for layer in plan.layers},
        }
        for plan, cost in zip(adaptive.nested.plans, adaptive.nested.costs, strict=True)
    ]
    return json.dumps(levels, indent=1) + "\n"


def routing_facts(engine: Engine, adaptive: Adaptive, ctx: Context) -> dict[str, Any]:
    """What the receipt says of a routed engine: each level alone, and what the head makes of them.

    Args:
        engine: as written.
        adaptive: what it was made of.
        ctx: validation images and their task.

    Returns:
        The manifest's routing, and `macs` (mean over the validation images at the default effort,
        over the dense network's, head and overlap counted), `levels` (budget, macs, cost, ms at the
        reference size, psnr, ssim, share of the pixels) and `head` (of its training).
    """
    told: list[Routes] = []
    for sample in ctx.calibration.validation:
        engine.restore(sample.degraded, told=told.append)
    shares = np.mean([routes.shares for routes in told], axis=0)
    plans = adaptive.nested.plans
    rows = [
        _level(engine, level, plan, float(share), ctx)
        for level, (plan, share) in enumerate(zip(plans, shares, strict=True))
    ]
    return {
        **dataclasses.asdict(adaptive.routing),
        "macs": fmean(routes.macs for routes in told),
        "levels": rows,
        "head": adaptive.headed.facts,
    }


def _level(engine: Engine, level: int, plan: Plan, share: float, ctx: Context) -> dict[str, Any]:
    """One level alone, timed in turn with the last."""
    interface = engine.manifest
    shape = (1, interface.channels, *plan.reference_size)
    x = np.random.default_rng(0).random(shape, np.float32) * np.float32(interface.value_range)
    last = len(engine.manifest.routing.costs) - 1 if engine.manifest.routing else 0
    own, top = engine.at(level), engine.at(last)
    ms, _, _ = interleaved(lambda: own.run(x), lambda: top.run(x))
    quality = evaluate(own, ctx.calibration.validation, ctx.task)
    return {
        "budget": plan.budget,
        "macs": plan.macs,
        "cost": plan.macs / plan.dense_macs,
        "ms": ms,
        "psnr": quality.psnr,
        "ssim": quality.ssim,
        "share": share,
    }
