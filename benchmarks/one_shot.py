"""Pretrained networks, pruned without any training -> PSNR, uniform against layer-wise patterns.

    python -m benchmarks.one_shot [NAME ...] [--out benchmarks/results/one_shot.json]

Rows that the result file holds already are not measured again; remove the file to start anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.networks import NETWORKS, ROOT, Network, calibration_set, data_root, test_set
from nmcompile.budget import Budget
from nmcompile.capture import capture
from nmcompile.context import Context
from nmcompile.evaluate import evaluate
from nmcompile.loading import load_model
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.program import Program
from nmcompile.progress import Reporter
from nmcompile.tasks import Task
from nmcompile.transform import CLEAN, analyze, assign, prepare, prune

UNIFORM = ("3:4", "12:16", "2:4", "8:16")
CROPS = 96

Row = dict[str, Any]


def main() -> None:
    """Measures the networks named (all of them by default) and prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/one_shot.json")
    args = parser.parse_args()
    rows: dict[str, Row] = json.loads(args.out.read_text())["rows"] if args.out.exists() else {}
    for name in args.names:
        for key, row in measure(name, NETWORKS[name], rows):
            rows[key] = row
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(
                json.dumps({"machine": platform.processor(), "rows": rows}, indent=1)
            )
    print_table(rows)


def measure(name: str, network: Network, known: dict[str, Row]) -> Any:
    """Yields (key, row) for every row of a network that is not known yet."""
    model = load_model(data_root() / "weights" / network.weights, network.arch)
    captured = capture(model, value_range=network.value_range)
    ctx = prepare(captured, network.task, source=calibration_set(), crops=CROPS)
    ctx = dataclasses.replace(ctx, reporter=Reporter())
    program = run_passes(captured, ctx, CLEAN)
    if f"{name} dense" not in known:
        yield f"{name} dense", _row(program, network, 1.0)
    for text in UNIFORM:
        key = f"{name} uniform {text}"
        if key not in known:
            yield key, _compiled(program, ctx, network, uniform=Pattern.parse(text))
    if network.task.startswith("denoise") and f"{name} uniform 2:4 magnitude" not in known:
        plain = dataclasses.replace(ctx, prune_method="magnitude")
        row = _compiled(program, plain, network, uniform=Pattern.parse("2:4"))
        yield f"{name} uniform 2:4 magnitude", row
    for text in UNIFORM[1::2]:
        key = f"{name} layer-wise, MACs of {text}"
        if key not in known:
            share = known[f"{name} uniform {text}"]["macs"]
            budget = Budget("macs", share + 1e-9, "x")
            yield key, _compiled(program, ctx, network, budget=budget)


def _compiled(program: Program, ctx: Context, network: Network, **changes: Any) -> Row:
    started = time.perf_counter()
    ctx = dataclasses.replace(ctx, **changes)
    pruned = prune(assign(analyze(program, ctx), ctx), ctx)
    plan = pruned.the_plan
    row = _row(pruned, network, plan.macs / plan.dense_macs)
    patterns = [str(layer.pattern) for layer in plan.layers]
    return {**row, "patterns": patterns, "seconds": round(time.perf_counter() - started, 1)}


def _row(program: Program, network: Network, macs: float) -> Row:
    interface = program.interface
    task = Task.parse(network.task)
    psnr = {
        name: evaluate(
            program, test_set(name).samples(task, interface.channels, interface.scale), task
        ).psnr
        for name in network.tests
    }
    return {"macs": macs, "psnr": psnr}


def print_table(rows: dict[str, Row]) -> None:
    """One line a row: share of MACs, PSNR on each test set."""
    sets = list(dict.fromkeys(name for row in rows.values() for name in row["psnr"]))
    table = Table("", "MACs", *sets)
    for key, row in rows.items():
        cells = [f"{row['psnr'][s]:.2f}" if s in row["psnr"] else "" for s in sets]
        table.add_row(key, f"{row['macs']:.3f}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
