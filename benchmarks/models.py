"""Whole networks, dense and sparse -> their times against other runtimes, all in the same rounds.

    python -m benchmarks.models [CASE ...] [--isa avx2] [--out benchmarks/results/models.json]

The file holds `rows`, each a document of `nmcompile bench --json` (two such files can be given to
`nmcompile bench compare`) with `engine` (case and pattern), `macs` (share of the dense network's),
and where memory was asked for, `memory`: runtime -> `peak_mb`, `idle_mb`. Cases that the file holds
already, under the same threads and --isa, are not timed again; remove the file to start anew.
Engines are made once and kept (--engines). Needs the pretrained weights (`NMCOMPILE_DATA`).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import check_names, command
from benchmarks.memory import OURS, peak_memory
from benchmarks.networks import NETWORKS, ROOT, calibration_set
from nmcompile.bench import bench_together
from nmcompile.budget import Budget
from nmcompile.cache import cache_folder
from nmcompile.compile import Settings, compile
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.plan import Plan
from nmcompile.progress import Reporter
from nmcompile.runtime import load, native
from nmcompile.runtime.executor import available_cores
from nmcompile.tasks import Task

# What is timed is speed: neither the weights nor the choice between patterns need be the best ones.
_CROPS = 4


@dataclass(frozen=True)
class Case:
    """A network at a size.

    Attributes:
        network: its name in NETWORKS.
        task: what it does.
        size: height and width of the input.
        engines: patterns or budgets, and what each is to reach: peer -> peer time / ours.
        memory: whether to measure peak memory too.
    """

    network: str
    task: str
    size: tuple[int, int]
    engines: dict[str, dict[str, float]]
    memory: bool = False


_X4 = {"dense": {"openvino": 1.3}, "macs=0.5": {"openvino": 2.0}}
_DNCNN = {"dense": {}, "64x2:4": {"openvino": 3.0}, "8x2:4k": {}, "32:64c": {}}
CASES = {
    "edsr": Case(
        "edsr_f64b5_x2", "sr:2", (180, 320),
        {
            "dense": {"openvino": 1.3},
            "8x2:4k": {},
            "8x1:4k": {},
            "2:4": {},
            "64x2:4": {"openvino": 2.5, "onnxruntime": 15.0},
            "1:4": {"openvino": 3.5, "openvino-f32": 2.5, "onnxruntime": 2.5},
            "32:64c": {},
        },
    ),
    "dncnn-vga": Case("dncnn_gray_s25_merged", "denoise:25", (480, 640), _DNCNN),
    "dncnn-hd": Case("dncnn_gray_s25_merged", "denoise:25", (1080, 1920), _DNCNN, memory=True),
    "imdn": Case("imdn_x4", "sr:4", (180, 320), _X4),
    "rlfn": Case("rlfn_x4", "sr:4", (180, 320), _X4),
    "carn-m": Case(
        "carn_m_x234@x4", "sr:4", (180, 320),
        {"dense": {"openvino": 2.0}, "macs=0.5": {"openvino": 2.5}},
    ),
}  # fmt: skip
PEERS = ("onnxruntime", "openvino", "openvino-f32")
Row = dict[str, Any]


def main() -> int:
    """Times the cases named (all of them by default), keeps the rows, prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--against", default=",".join(PEERS), help="peers, joined by commas")
    parser.add_argument("--isa", help="portable, avx2, avx512 or amx, for ours and the peers")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--cores", help="pin the process to these, as in 0,1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/models.json")
    parser.add_argument("--engines", type=Path, default=cache_folder() / "benchmarks")
    args = parser.parse_args()
    check_names(parser, "case", args.cases, CASES)
    if args.cores:
        os.sched_setaffinity(0, map(int, args.cores.split(",")))
    rows: list[Row] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for name in args.cases:
        if not is_known(name, rows, args.threads, args.isa):
            rows += measure(name, args)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({"rows": rows}) + "\n")
    Console(width=120).print(table(rows))
    return 0


def is_known(name: str, rows: list[Row], threads: int, isa: str | None) -> bool:
    """Whether every engine of the case was timed that way."""
    timed = {row["engine"] for row in rows if (row["threads"], row["isa"]) == (threads, isa)}
    return {f"{name} {label}" for label in CASES[name].engines} <= timed


def measure(name: str, args: argparse.Namespace) -> list[Row]:
    """Times all engines of a case and the peers, once in every round."""
    case, peers = CASES[name], args.against.split(",")
    folders = [made_once(case, label, args.engines) for label in case.engines]
    found = bench_together(folders, peers, case.size, args.threads, args.rounds, isa=args.isa)
    memory: Row = {}
    if case.memory:
        shared = {peer: _memory(folders[0], peer, case, args.threads) for peer in peers}
        memory = {folder: {OURS: _memory(folder, OURS, case, args.threads)} for folder in folders}
        memory = {folder: {"memory": {**own, **shared}} for folder, own in memory.items()}
    rows = []
    for label, folder, row in zip(case.engines, folders, found, strict=True):
        plan = Plan.load(folder / "plan.json")
        named = {"engine": f"{name} {label}", "macs": plan.macs / plan.dense_macs}
        rows.append({**row, **named, **memory.get(folder, {})})
    return rows


def _memory(folder: Path, runtime: str, case: Case, threads: int) -> dict[str, float]:
    return peak_memory(folder, runtime, case.size, threads)


def made_once(case: Case, label: str, root: Path) -> Path:
    """The engine of a network and a pattern or budget; compiled once for each build of libnmk.

    Under a pattern every layer but the first and the last takes it, unless dense is faster.
    """
    folder = root / native.fingerprint() / f"{case.network} {label}"
    try:
        load(folder)
    except NmcompileError:
        network, reporter = NETWORKS[case.network], Reporter()
        reporter.note(f"compiling {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            task=Task.parse(case.task), source=calibration_set(), value_range=network.value_range,
            crops=_CROPS, prune="magnitude", name=case.network,
        )  # fmt: skip
        compile(network.model(), folder, _labelled(settings, label), reporter)
    return folder


def _labelled(settings: Settings, label: str) -> Settings:
    if label == "dense":
        return replace(settings, patterns=(), budget=Budget.parse("macs=1"))
    if "=" in label:
        return replace(settings, budget=Budget.parse(label))
    return replace(settings, uniform=Pattern.parse(label))


def table(rows: list[Row]) -> Table:
    """One line a row: times, and for each peer how many times faster ours is, with the target."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row["peers"]))
    made = Table(
        "", "threads", "isa", "MACs", "ms", *[f"x {peer}" for peer in peers], "MB", "others"
    )
    made.caption = (
        "x: peer time / ours, quartiles, and in brackets the target; others: share of the cores' "
        "time that other work took: beyond a tenth the row tells little"
    )
    for row in rows:
        case, _, label = row["engine"].partition(" ")
        targets = CASES[case].engines[label]
        cells = [_ratio(row["peers"].get(peer), targets.get(peer)) for peer in peers]
        memory = row.get("memory", {})
        made.add_row(
            row["engine"], str(row["threads"]), row["isa"] or "", f"{row['macs']:.3f}",
            f"{row['ours']['ms']:.1f}", *cells,
            ", ".join(f"{who} {m['peak_mb'] - m['idle_mb']:.0f}" for who, m in memory.items()),
            f"{row['others']:.0%}",
        )  # fmt: skip
    return made


def _ratio(peer: Row | None, target: float | None) -> str:
    if peer is None:
        return ""
    wanted = f" ({target:g})" if target else ""
    return f"{peer['ratio']:.2f} [{peer['ratio_low']:.2f} {peer['ratio_high']:.2f}]{wanted}"


if __name__ == "__main__":
    command(main)
