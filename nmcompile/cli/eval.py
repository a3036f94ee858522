"""`nmcompile eval`: an engine or network, and images -> PSNR and SSIM by the standard protocol."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from nmcompile.cli import options
from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
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
    parser.add_argument("--threads", type=int, metavar="N", help="threads an engine may use")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-v", "--verbose", action="store_true", help="say which kernels run")


def execute(args: argparse.Namespace) -> int:
    """Evaluates and prints."""
    from nmcompile.calibration import check_task
    from nmcompile.evaluate import qualities, restorer
    from nmcompile.progress import Reporter

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
    samples = source.samples(task, interface.channels, interface.scale)
    found = {}
    with Reporter().stage("evaluating", len(source.clean)) as step:
        for name, quality in qualities(restorer(network), samples, task):
            found[name] = quality
            step()
    _print(args, task, found)
    return 0


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


def _print(args: argparse.Namespace, task: Task, found: dict[str, Quality]) -> None:
    from rich.console import Console
    from rich.table import Table

    from nmcompile.metrics import PROTOCOL

    psnr, ssim = fmean(q.psnr for q in found.values()), fmean(q.ssim for q in found.values())
    if args.json:
        images = {name: {"psnr": q.psnr, "ssim": q.ssim} for name, q in found.items()}
        document = {"psnr": psnr, "ssim": ssim, "images": images, "task": str(task)}
        print(json.dumps({**document, "protocol": PROTOCOL}, indent=1))
        return
    table = Table("image", "PSNR (dB)", "SSIM", title=f"{args.model}, {task}")
    for name, quality in found.items():
        table.add_row(name, f"{quality.psnr:.3f}", f"{quality.ssim:.4f}")
    table.add_section()
    table.add_row("mean", f"{psnr:.3f}", f"{ssim:.4f}")
    Console(highlight=False).print(table)
