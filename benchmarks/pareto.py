"""Trained rows of benchmarks.quality -> PSNR against milliseconds, a picture and a table.

    python -m benchmarks.pareto NETWORK [--out benchmarks/results/pareto]

Every row of the network whose trained weights are there (--kept) becomes an engine of `--target
cpu`, judged on the first test set of its study as it runs, bf16 and all, and timed beside the dense
engine and OpenVINO's dense network in the same rounds. Writes OUT-NETWORK.json and .svg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import command
from benchmarks.networks import NETWORKS, ROOT, calibration_set, evaluation_set
from benchmarks.quality import STUDIES
from nmcompile.backends.onnx import export_program
from nmcompile.bench import bench_together
from nmcompile.budget import Budget
from nmcompile.cache import cache_folder
from nmcompile.compile import Settings, compile
from nmcompile.convs import set_tensor
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import evaluate
from nmcompile.pipeline import run_passes
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.progress import Reporter
from nmcompile.runtime import load, native
from nmcompile.runtime.executor import available_cores
from nmcompile.tasks import Task
from nmcompile.transform import CLEAN, prepare

_CROPS = 8
_SIZE = {"denoise": (480, 640), "sr": (180, 320)}
Point = dict[str, Any]


def main() -> None:
    """Makes the engines, times and judges them, writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=STUDIES, metavar="NETWORK")
    parser.add_argument("--kept", type=Path, default=cache_folder() / "quality")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/pareto")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    trained = sorted(args.kept.glob(f"{args.name}_*/plan.json"))
    if not trained:
        raise NmcompileError(f"{args.kept} has no trained row of {args.name}: benchmarks.quality")
    rows = {_label(path.parent.name, args.name): path.parent for path in trained}
    root = args.kept / "engines" / native.fingerprint()
    engines = {"dense": _engine(args.name, None, root / f"{args.name} dense")}
    for label, row in rows.items():
        engines[label] = _engine(args.name, row, root / row.name)
    points = _points(args, engines)
    stem = args.out.with_name(f"{args.out.name}-{args.name.partition('@')[0]}")
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps({"points": points}, indent=1) + "\n")
    draw(args.name, points, stem.with_suffix(".svg"))
    print_table(points)


def _engine(name: str, row: Path | None, folder: Path) -> Path:
    """The dense engine, or one of trained weights under the plan that they were trained with."""
    try:
        load(folder)
    except NmcompileError:
        network, study = NETWORKS[name], STUDIES[name]
        task = Task.parse(evaluation_set(study.sets[0])[0])
        common: dict[str, Any] = {
            "task": task, "source": calibration_set(), "value_range": network.value_range,
            "crops": _CROPS, "name": name,
        }  # fmt: skip
        folder.parent.mkdir(parents=True, exist_ok=True)
        if row is None:
            settings = Settings(**common, patterns=(), budget=Budget.parse("macs=1"))
            compile(network.model(), folder, settings, Reporter())
        else:
            # The zeros are there already: by magnitude, exactly they go.
            plan = (Plan.load(row / "plan.json"), str(row))
            settings = Settings(**common, plan=plan, prune="magnitude")
            compile(export_program(_trained(name, row)), folder, settings, Reporter())
    return folder


def _trained(name: str, row: Path) -> Program:
    captured = NETWORKS[name].program()
    ctx = prepare(captured, evaluation_set(STUDIES[name].sets[0])[0], target="onnx", crops=1)
    program = run_passes(captured, ctx, CLEAN)
    for key, value in torch.load(row / "weights.pt", weights_only=True).items():
        set_tensor(program.module, key, value)
    return program


def _points(args: argparse.Namespace, engines: dict[str, Path]) -> list[Point]:
    text, source = evaluation_set(STUDIES[args.name].sets[0])
    task = Task.parse(text)
    size = _SIZE[task.kind]
    timed = bench_together(
        list(engines.values()), ["openvino", "openvino-f32"], size, args.threads, args.rounds
    )
    points = []
    for (label, folder), row in zip(engines.items(), timed, strict=True):
        engine = load(folder, args.threads)
        manifest = engine.manifest
        samples = list(source.samples(task, manifest.channels, manifest.scale))
        plan = Plan.load(folder / "plan.json")
        receipt = json.loads((folder / "receipt.json").read_text())
        points.append(
            {
                "engine": label, "psnr": evaluate(engine, samples, task).psnr,
                "ms": row["ours"]["ms"], "macs": plan.macs / plan.dense_macs,
                "precision": receipt["precision"]["chosen"], "others": row["others"],
                "ratio": {name: peer["ratio"] for name, peer in row["peers"].items()},
                "size": size, "set": STUDIES[args.name].sets[0], "threads": args.threads,
            }
        )  # fmt: skip
    precisions = {"openvino-f32": "fp32", "openvino": "its default"}
    peers = [
        {**points[0], "engine": name, "ms": timed[0]["peers"][name]["ms"], "macs": 1.0,
         "precision": precision}
        for name, precision in precisions.items()
    ]  # fmt: skip
    return points + peers


def draw(name: str, points: list[Point], path: Path) -> None:
    """PSNR against milliseconds; OpenVINO's dense network as it stands (PSNR of the dense one).

    OpenVINO's fp32 is left out: it lies far to the right of everything else.
    """
    shown = [point for point in points if point["engine"] != "openvino-f32"]
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for number, point in enumerate(shown, 1):
        marker, colour = _MARKERS[_kind(point["engine"])]
        label = f"{number}  {point['engine'].partition(' steps')[0]} ({point['precision']})"
        axes.scatter(point["ms"], point["psnr"], marker=marker, color=colour, s=48, zorder=3,
                     label=label)  # fmt: skip
        axes.annotate(
            str(number), (point["ms"], point["psnr"]), fontsize=8, textcoords="offset points",
            xytext=(6, 3),
        )  # fmt: skip
    first = points[0]
    height, width = first["size"]
    axes.set(
        xlabel=f"ms at {height}x{width}, {first['threads']} threads",
        ylabel=f"PSNR on {first['set']}, dB",
        title=name,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
                title="share of the trunk, patterns, steps")  # fmt: skip
    figure.savefig(path)
    plt.close(figure)


_MARKERS = {
    "dense": ("o", "#222222"),
    "element-wise": ("s", "#2a6fbb"),
    "vector-wise": ("^", "#c2571a"),
    "whole kernels": ("D", "#2f8f4e"),
    "channels": ("v", "#b08a1e"),
    "mixed": ("P", "#7a4fa3"),
    "OpenVINO, dense": ("x", "#888888"),
}


def _kind(engine: str) -> str:
    if engine == "dense":
        return "dense"
    if engine.startswith("openvino"):
        return "OpenVINO, dense"
    if "Mk" in engine:
        return "whole kernels"
    if "N:64c" in engine:
        return "channels"
    if "any pattern" in engine:
        return "mixed"
    return "vector-wise" if "64x" in engine else "element-wise"


def _label(row: str, network: str) -> str:
    """The folder of a row -> what was done, without the settings of the training."""
    return row.removeprefix(f"{network}_").replace("_", " ").partition(" steps")[0] + " steps"


def print_table(points: list[Point]) -> None:
    """One line a point."""
    table = Table("", "MACs", "precision", "PSNR", "ms", "x OpenVINO f32", "x OpenVINO", "others")
    for point in points:
        ratio = point["ratio"] if not point["engine"].startswith("openvino") else {}
        cells = [f"{ratio[n]:.2f}" if n in ratio else "" for n in ("openvino-f32", "openvino")]
        table.add_row(
            point["engine"], f"{point['macs']:.3f}", point["precision"], f"{point['psnr']:.2f}",
            f"{point['ms']:.1f}", *cells, f"{point['others']:.0%}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    command(main)
