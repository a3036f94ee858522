"""Pretrained networks, pruned without any training -> PSNR, uniform against layer-wise patterns.

    python -m benchmarks.one_shot [NAME ...] [--uniform N:M ...]
        [--out benchmarks/results/one_shot.json]

Rows that the result file holds already are not measured again; remove the file to start anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import check_names, command
from benchmarks.networks import NETWORKS, ROOT, calibration_set, evaluation_set, psnr_on
from nmcompile.budget import Budget
from nmcompile.context import Context
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.program import Program
from nmcompile.progress import Reporter
from nmcompile.runtime.native import cpu_name
from nmcompile.transform import CLEAN, analyze, assign, prepare, prune

UNIFORM = ("3:4", "12:16", "2:4", "8:16")
CROPS = 96
_SR = ("Set5 x4", "Set14 x4", "BSD100 x4")
# Network -> the test sets it is judged on.
STUDIED = {
    "dncnn_gray_s25_bn": ("Set12-7",),
    "carn_m_x234@x4": _SR,
    "imdn_x4": _SR,
    "rlfn_x4": _SR,
}

Row = dict[str, Any]


def main() -> None:
    """Measures the networks named (all of them by default) and prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(STUDIED), metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/one_shot.json")
    parser.add_argument("--uniform", nargs="+", default=UNIFORM, metavar="N:M", help="patterns")
    args = parser.parse_args()
    check_names(parser, "network", args.names, STUDIED)
    rows: dict[str, Row] = json.loads(args.out.read_text())["rows"] if args.out.exists() else {}
    for name in args.names:
        for key, row in measure(name, rows, args.uniform):
            rows[key] = row
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"cpu": cpu_name(), "rows": rows}, indent=1))
    print_table(rows)


def measure(name: str, known: dict[str, Row], uniform: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yields (key, row) for every row of a network that is not known yet.

    Args:
        name: of the network.
        known: rows by key; the caller adds those that are yielded.
        uniform: patterns of the trunk; those of UNIFORM have layer-wise rows beside them.
    """
    sets = STUDIED[name]
    captured = NETWORKS[name].program()
    task = evaluation_set(sets[0])[0]
    # A target on which patterns change no time: equal MACs are compared, nothing is reverted.
    ctx = prepare(
        captured, task, source=calibration_set(), target="onnx", crops=CROPS, reporter=Reporter()
    )
    program = run_passes(captured, ctx, CLEAN)
    if f"{name} dense" not in known:
        yield f"{name} dense", _row(program, sets, 1.0)
    for text in uniform:
        key = f"{name} uniform {text}"
        if key not in known:
            yield key, _compiled(program, ctx, sets, uniform=Pattern.parse(text))
    key = f"{name} uniform 2:4 magnitude"
    if ctx.task.kind == "denoise" and "2:4" in uniform and key not in known:
        pattern = Pattern.parse("2:4")
        yield key, _compiled(program, ctx, sets, uniform=pattern, prune_method="magnitude")
    for text in (text for text in UNIFORM[1::2] if text in uniform):
        key = f"{name} layer-wise, MACs of {text}"
        if key not in known:
            share = known[f"{name} uniform {text}"]["macs"]
            budget = Budget("macs", share + 1e-9, "x")
            yield key, _compiled(program, ctx, sets, budget=budget)


def _compiled(program: Program, ctx: Context, sets: tuple[str, ...], **changes: Any) -> Row:
    started = time.perf_counter()
    ctx = dataclasses.replace(ctx, **changes)
    pruned = prune(assign(analyze(program, ctx), ctx), ctx)
    seconds = round(time.perf_counter() - started, 1)
    plan = pruned.the_plan
    row = _row(pruned, sets, plan.macs / plan.dense_macs)
    return {**row, "patterns": [str(layer.pattern) for layer in plan.layers], "seconds": seconds}


def _row(program: Program, sets: tuple[str, ...], macs: float) -> Row:
    return {"macs": macs, "psnr": psnr_on(program, sets)}


def print_table(rows: dict[str, Row]) -> None:
    """One line a row: share of MACs, PSNR on each test set."""
    sets = list(dict.fromkeys(name for row in rows.values() for name in row["psnr"]))
    table = Table("", "MACs", *sets)
    for key, row in rows.items():
        cells = [f"{row['psnr'][s]:.2f}" if s in row["psnr"] else "" for s in sets]
        table.add_row(key, f"{row['macs']:.3f}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    command(main)
