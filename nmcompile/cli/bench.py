"""`nmcompile bench ENGINE` -> a table, or JSON, of the engine's speed against other runtimes.

With `--json`, one document: `engine`, `ours` (`ms`, `min`, `max`, `times`, `isa`), `peers` (name ->
`ms`, `min`, `max`, `times`, `isa`, `ratio`, `ratio_low`, `ratio_high`, `version`, `precision`),
`size`, `threads`, `isa`, `rounds`, `others`, `cpu`, `note`. A ratio is peer time / our time, the
median over the rounds: above 1 the engine is faster. `times` are the milliseconds of every round,
from which `nmcompile bench compare` judges.

Of an input-adaptive engine also `images` (how many were run; times are of one) and `runs` (`name`,
`ms`, `min`, `max`, `times`, `macs`, `shares` at several efforts and of each level alone; of efforts
`overhead` too: of head, tiling and blending, over the levels' own times); `ours` is the run at the
engine's own effort, or at `--effort`.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmcompile.cli import options
from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from rich.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `nmcompile bench`."""
    parser.add_argument(
        "engine", metavar="ENGINE", help="the engine's folder (./compare if it is called compare)"
    )
    parser.add_argument(
        "--against",
        metavar="NAMES",
        help="peers to run the dense original: onnxruntime, openvino (its own precision), "
        "openvino-f32, torch, joined by commas (default: onnxruntime, and openvino if installed)",
    )
    parser.add_argument("--size", metavar="HxW", help="input size (default: about 180x320)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: every core")
    parser.add_argument(
        "--runs", type=int, metavar="N", help="rounds, at least 5 (default: two seconds of them)"
    )
    parser.add_argument(
        "--isa",
        metavar="NAME",
        help="hold ours and the peers to an instruction set: portable, avx2, avx512, avx512_bf16, "
        "avx512_fp16 or amx (ONNX Runtime cannot be held to one)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="clean images, which an input-adaptive engine is timed on after its task degraded "
        "them (default: the photographs in scikit-image)",
    )
    options.add_route(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-v", "--verbose", action="store_true", help="say which kernels run")


def execute(args: argparse.Namespace) -> int:
    """Times the engine and prints what was found."""
    size = None if args.size is None else _size(args.size)
    against = None if args.against is None else _names(args.against)

    from nmcompile.bench import FEWEST_ROUNDS, bench
    from nmcompile.engine import read_manifest

    if args.runs is not None and args.runs < FEWEST_ROUNDS:
        raise NmcompileError(f"--runs {args.runs} tells too little; give {FEWEST_ROUNDS} or more")
    manifest = read_manifest(Path(args.engine), check_parts=False)
    given = ["--data"] if args.data else []
    options.check_routing(args, manifest, args.engine, *given)
    if manifest.routing is None:
        found = bench(args.engine, against, size, args.threads, args.runs, isa=args.isa)
    else:
        from nmcompile.data import Source
        from nmcompile.routed_bench import bench_routed

        found = bench_routed(
            args.engine, Source.folder(args.data) if args.data else None, against, size,
            args.threads, args.runs, isa=args.isa, effort=args.effort, route_by=args.route_by,
        )  # fmt: skip
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return 0


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from nmcompile.neighbours import MOST_DISTURBED

    height, width = found["size"]
    table = Table(
        title=f"{height}x{width}, {found['threads']} threads, {found['rounds']} rounds"
        f"{_cap(found['isa'])}; the others run the dense original"
    )
    table.add_column("runtime")
    for heading in ("ms", "min .. max", "time / ours", "quartiles"):
        table.add_column(heading, justify="right")
    table.add_row("this engine", *_times(found["ours"]), "1", "")
    for name, peer in found["peers"].items():
        table.add_row(
            f"{name} {peer['version']} ({peer['precision']})",
            *_times(peer),
            f"{peer['ratio']:.3f}",
            f"{peer['ratio_low']:.3f} .. {peer['ratio_high']:.3f}",
        )
    console = Console(highlight=False)
    console.print(table)
    if "runs" in found:
        console.print(_runs(found))
    console.print(found["cpu"], markup=False)
    if found["others"] > MOST_DISTURBED:
        share = f"{found['others']:.0%} of the cores' time"
        console.print(f"note: other work took {share} meanwhile: this tells little", soft_wrap=True)
    if found["note"]:
        console.print(f"note: {found['note']}", markup=False, soft_wrap=True)


def _runs(found: dict[str, Any]) -> Table:
    """The engine at its efforts and levels."""
    from rich.table import Table

    table = Table(title=f"this engine, means over {found['images']} real images")
    table.add_column("run")
    for heading in ("ms", "min .. max", "MACs", "pixels by level", "overhead"):
        table.add_column(heading, justify="right")
    for row in found["runs"]:
        shares = " ".join(f"{share:.0%}" for share in row["shares"])
        overhead = f"{row['overhead']:+.1%}" if "overhead" in row else ""
        table.add_row(row["name"], *_times(row), f"{row['macs']:.3f}", shares, overhead)
    return table


def _cap(isa: str | None) -> str:
    return f", at most {isa}" if isa else ""


def _times(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['ms']:.2f}", f"{row['min']:.2f} .. {row['max']:.2f}"


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise NmcompileError("--against names no peer; for example --against onnxruntime,openvino")
    return names


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text.strip())
    if not found:
        raise NmcompileError(f"--size {text}: expected HxW, for example --size 180x320")
    return int(found[1]), int(found[2])
