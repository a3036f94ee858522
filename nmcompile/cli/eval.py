"""`nmcompile eval`: an engine or network, and images -> PSNR and SSIM by the standard protocol."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nmcompile.cli import options
from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from rich.table import Table

    from nmcompile.metrics import Quality
    from nmcompile.program import Program
    from nmcompile.runtime import Engine
    from nmcompile.tasks import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("model", type=Path, metavar="ENGINE|MODEL")
    options.add_model(parser)
    options.add_task(parser)
    options.add_images(parser)
    options.add_route(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads an engine may use")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-v", "--verbose", action="store_true", help="say which kernels run")


def execute(args: argparse.Namespace) -> int:
    """Evaluates and prints."""
    from nmcompile.calibration import check_task
    from nmcompile.evaluate import qualities, restorer
    from nmcompile.progress import Reporter
    from nmcompile.routed_evaluation import judge

    source = options.read_source(args)
    if source is None:
        raise NmcompileError("no images: give --data DIR, or --pairs LQ_DIR HQ_DIR")
    network, task = _network(args)
    interface = network.manifest if hasattr(network, "manifest") else network.interface
    check_task(task, interface.scale)
    if task.kind == "deblur" and args.pairs is None:
        raise NmcompileError(
            "deblurring has no standard degradation to make from clean images; give "
            "--pairs BLURRED_DIR SHARP_DIR"
        )
    adaptive = _adaptive(args, network, task)
    samples = source.samples(task, interface.channels, interface.scale)
    found, outcomes = {}, []
    with Reporter().stage("evaluating", len(source.clean)) as step:
        if adaptive is not None:
            outcomes = judge(adaptive, samples, task, args.effort, args.route_by, step)
            found = outcomes[0].images
        else:
            for name, quality in qualities(restorer(network), samples, task):
                found[name] = quality
                step()
    _print(args, task, found, [outcome.to_json() for outcome in outcomes])
    return 0


def _adaptive(args: argparse.Namespace, network: Engine | Program, task: Task) -> Engine | None:
    """The network if it is an input-adaptive engine.

    Raises:
        NmcompileError: only an option says so; its head has learned what another task deserves.
    """
    from nmcompile.runtime import Engine

    engine = network if isinstance(network, Engine) else None
    options.check_routing(args, engine.manifest if engine else None, args.model)
    if engine is None or engine.manifest.routing is None:
        return None
    if str(task) != engine.manifest.task:
        raise NmcompileError(
            f"{args.model}: its head was trained for {engine.manifest.task} and cannot tell how "
            f"difficult {task} is; compile an engine for {task}"
        )
    return engine


def _network(args: argparse.Namespace) -> tuple[Engine | Program, Task]:
    from nmcompile.capture import capture
    from nmcompile.engine import MANIFEST
    from nmcompile.evaluate import manifest_task
    from nmcompile.runtime import load

    task = options.read_task(args)
    if args.model.is_dir() or args.model.name == MANIFEST:
        engine = load(args.model, args.threads)
        return engine, task or manifest_task(engine.manifest)
    if task is None:
        raise NmcompileError("a network that is no engine needs --task, such as --task sr:4")
    from nmcompile.assumptions import settle

    more = options.read_input(args)
    value_range = options.read_range(args)
    program = capture(options.open_model(args), **more, value_range=value_range or 1.0)
    return settle(program, task, value_range).program, task


def _print(
    args: argparse.Namespace, task: Task, found: dict[str, Quality], routed: list[dict[str, Any]]
) -> None:
    from rich.console import Console
    from rich.table import Table

    from nmcompile.metrics import PROTOCOL

    psnr, ssim = fmean(q.psnr for q in found.values()), fmean(q.ssim for q in found.values())
    if args.json:
        images = {name: {"psnr": q.psnr, "ssim": q.ssim} for name, q in found.items()}
        document = {"psnr": psnr, "ssim": ssim, "images": images, "task": str(task)}
        more = {"routed": routed} if routed else {}
        print(json.dumps({**document, **more, "protocol": PROTOCOL}, indent=1))
        return
    table = Table("image", "PSNR (dB)", "SSIM", title=f"{args.model}, {task}")
    for name, quality in found.items():
        table.add_row(name, f"{quality.psnr:.3f}", f"{quality.ssim:.4f}")
    table.add_section()
    table.add_row("mean", f"{psnr:.3f}", f"{ssim:.4f}")
    console = Console(highlight=False)
    console.print(table)
    if routed:
        console.print(_levels(routed))


def _levels(routed: list[dict[str, Any]]) -> Table:
    """What the engine gives as routed, and each level alone."""
    from rich.table import Table

    table = Table("run", "PSNR (dB)", "SSIM", "MACs", "ms", "pixels by level")
    for row in routed:
        shares = " ".join(f"{share:.0%}" for share in row["shares"])
        table.add_row(
            row["name"], f"{row['psnr']:.3f}", f"{row['ssim']:.4f}", f"{row['macs']:.3f}",
            f"{row['ms']:.1f}", shares,
        )  # fmt: skip
    table.caption = "MACs over the dense network's, head and overlap included; ms of an image"
    return table
