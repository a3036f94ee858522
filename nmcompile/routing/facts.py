"""A routed engine and its levels -> what the receipt says of them, and levels.json."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from nmcompile.context import Context
from nmcompile.routed_evaluation import judge
from nmcompile.routing.making import Adaptive
from nmcompile.runtime import Engine
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
        The manifest's routing, and `macs` (on the validation images at the default effort, over
        the dense network's, head and overlap counted), `levels` (budget, macs, cost, ms at the
        reference size, psnr, ssim, share of the pixels) and `head` (of its training).
    """
    routed, *alone = judge(engine, ctx.calibration.validation, ctx.task)
    count = adaptive.nested.count
    plans = zip(adaptive.nested.plans, adaptive.nested.costs, strict=True)
    rows = []
    for level, (plan, cost) in enumerate(plans):
        found = alone[level].to_json()
        rows.append(
            {
                "budget": plan.budget,
                "macs": plan.macs,
                "cost": cost,
                "ms": _milliseconds(engine.at(level), engine.at(count - 1), plan.reference_size),
                "psnr": found["psnr"],
                "ssim": found["ssim"],
                "share": routed.shares[level],
            }
        )
    facts = dataclasses.asdict(adaptive.routing)
    return {**facts, "macs": routed.macs, "levels": rows, "head": adaptive.headed.facts}


def _milliseconds(own: Engine, last: Engine, size: tuple[int, int]) -> float:
    """Of a level alone, timed in turn with the last."""
    x = np.random.default_rng(0).random((1, own.manifest.channels, *size), np.float32)
    x *= np.float32(own.manifest.value_range)
    return interleaved(lambda: own.run(x), lambda: last.run(x))[0]
