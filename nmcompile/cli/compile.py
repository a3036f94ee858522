"""`nmcompile MODEL -o ENGINE`: a model file -> an engine folder and a table of what it gained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmcompile.cli import options
from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from nmcompile.compile import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL", help=".pt2, state dict, .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ENGINE")
    options.add_model(parser)
    options.add_task(parser)
    options.add_images(parser)
    parser.add_argument(
        "--target", default="cpu",
        help="cpu (default); cpu:ISA (see bench --isa): those kernels at most; onnx",
    )  # fmt: skip
    limits = parser.add_argument_group("what the result may cost")
    limits.add_argument(
        "--budget", default="drop=0.1dB",
        help="macs=FRACTION, latency=Nms, latency=FRACTIONx or drop=NdB (default drop=0.1dB)",
    )  # fmt: skip
    limits.add_argument(
        "--patterns", metavar="N:M,...", help="candidate patterns, such as 2:4,8:16,64x2:4"
    )
    limits.add_argument("--uniform", metavar="N:M", help="one pattern for the trunk, no search")
    limits.add_argument("--plan", type=Path, metavar="IN.json", help="take this plan's patterns")
    limits.add_argument(
        "--save-plan", type=Path, metavar="OUT.json", help="write the plan here too"
    )
    parser.add_argument(
        "--prune", choices=("obs", "magnitude"), default="obs",
        help="obs: second order (default); magnitude: for comparison",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="auto", metavar="P",
        help="auto (default: the fastest that loses at most 0.02 dB), fp32, bf16 or fp16",
    )  # fmt: skip
    parser.add_argument("--crops", type=int, default=64, metavar="N", help="calibration crops (64)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to time with (all cores)")
    parser.add_argument("--check", action="store_true", help="compare outputs after every pass")
    parser.add_argument(
        "--dump-dir", type=Path, metavar="D", help="write the graph after each pass"
    )
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def execute(args: argparse.Namespace) -> int:
    """Compiles and prints what was gained."""
    from nmcompile.cli.summary import print_summary
    from nmcompile.compile import compile
    from nmcompile.engine import check_writable
    from nmcompile.progress import Reporter

    check_writable(args.output)
    settings = _settings(args)
    reporter = Reporter(verbose=args.verbose)
    with reporter.stage("opening the model"):
        model = options.open_model(args)
    engine = compile(model, args.output, settings, reporter)
    if args.save_plan:
        _save(args.save_plan, (engine.path / "plan.json").read_text())
    receipt = json.loads((engine.path / "receipt.json").read_text())
    if args.json:
        print(json.dumps(receipt, indent=1))
    else:
        print_summary(args.output, receipt)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from nmcompile.budget import Budget
    from nmcompile.compile import Settings
    from nmcompile.pattern import Pattern
    from nmcompile.plan import Plan

    if args.crops < 1:
        raise NmcompileError(f"--crops {args.crops}: expected at least 1")
    if args.plan and args.uniform:
        raise NmcompileError("--plan and --uniform exclude each other; give one of them")
    more: dict[str, Any] = options.read_input(args)
    return Settings(
        task=options.read_task(args),
        source=options.read_source(args),
        target=args.target,
        budget=Budget.parse(args.budget),
        patterns=_patterns(args.patterns),
        uniform=Pattern.parse(args.uniform) if args.uniform else None,
        prune=args.prune,
        plan=(Plan.load(args.plan), str(args.plan)) if args.plan else None,
        precision=args.precision,
        value_range=options.read_range(args),
        crops=args.crops,
        threads=args.threads,
        check=args.check,
        dump=args.dump_dir,
        name=args.model.name,
        **more,
    )


def _patterns(text: str | None) -> Any:
    from nmcompile.pattern import Pattern

    if text is None:
        return None
    found = [Pattern.parse(item) for item in text.split(",")]
    return tuple(pattern for pattern in found if not pattern.is_dense)


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise NmcompileError(f"--save-plan {path}: cannot write it ({error.strerror})") from None
