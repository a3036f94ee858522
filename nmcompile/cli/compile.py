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
    from nmcompile.routing.spec import RouteSpec
    from nmcompile.training.recipe import Recipe

_BUDGET = "drop=0.1dB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL", help=".pt2, state dict, .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ENGINE")
    options.add_model(parser)
    options.add_task(parser)
    options.add_images(parser)
    parser.add_argument(
        "--target", default="cpu",
        help="cpu (default); cpu:ISA (bench --isa): those kernels at most; onnx; cuda; tensorrt",
    )  # fmt: skip
    parser.add_argument(
        "--custom-ops", action="store_true",
        help="of onnx: our operator in model.onnx, in layers where it is faster",
    )  # fmt: skip
    parser.add_argument(
        "--profile", metavar="LEAST,USUAL,MOST",
        help="of tensorrt: the images that the engine takes, as 1x64x64,1x720x1280,4x1080x1920",
    )  # fmt: skip
    parser.add_argument(
        "--strict", action="store_true", help="of tensorrt: fail if a pruned layer runs dense"
    )
    limits = parser.add_argument_group("what the result may cost")
    limits.add_argument(
        "--budget",
        help="macs=FRACTION, latency=Nms, latency=FRACTIONx or drop=NdB (default drop=0.1dB)",
    )  # fmt: skip
    limits.add_argument(
        "--patterns", metavar="N:M,...", help="candidates, such as 2:4,64x2:4,8x2:4k,2:4c,skip"
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
    _add_routing(parser)
    _add_training(parser)
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


def _add_routing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input-adaptive engines: easy parts at a cheaper level")
    group.add_argument(
        "--route", metavar="LEVELS",
        help="how many levels, or the share of the dense MACs or time that each may have: 3, "
        "0.2,0.4,0.7, latency=0.4,0.6,1",
    )  # fmt: skip
    group.add_argument(
        "--route-by", metavar="WHAT", help="choose a level for each tile (default) or each image"
    )
    group.add_argument(
        "--effort", metavar="E",
        help="what runs take unless told otherwise: 0 (min) to 1 (max); found by calibration",
    )  # fmt: skip


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fine-tuning (also under torchrun, on several processes)")
    group.add_argument(
        "--finetune", metavar="STEPS|TIME", help="train the pruned network: 600, 90s, 30m, 2h"
    )
    group.add_argument(
        "--search", default="sensitivity", metavar="HOW",
        help="sensitivity (default: patterns assigned before training), or sls:[Vx]M[k]: learned",
    )  # fmt: skip
    group.add_argument(
        "--train-masks", default="fixed", metavar="HOW",
        help="fixed (default), or sr-ste: drawn anew at every step",
    )  # fmt: skip
    group.add_argument(
        "--reassign", type=int, default=0, metavar="K",
        help="assign patterns anew up to K times on the way",
    )  # fmt: skip
    group.add_argument("--batch", type=int, metavar="N", help="patches a step (32)")
    group.add_argument("--patch", type=int, metavar="PIXELS", help="side of a network input (40)")
    group.add_argument("--lr", type=float, metavar="RATE", help="highest learning rate (4e-4)")
    group.add_argument("--seed", type=int, metavar="N", help="draws patches and noise (0)")
    group.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="keep the state of training here (beside ENGINE, and removed when done)",
    )  # fmt: skip
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    group.add_argument("--tensorboard", type=Path, metavar="DIR", help="write scalars here")
    group.add_argument(
        "--never-train-on", type=Path, metavar="DIR",
        help="leave out images of --data whose pixels are in this folder too",
    )  # fmt: skip


def execute(args: argparse.Namespace) -> int:
    """Compiles and prints what was gained."""
    from nmcompile.cli.summary import print_summary
    from nmcompile.compile import assist, compile
    from nmcompile.engine import check_writable
    from nmcompile.progress import SILENT, Reporter
    from nmcompile.training.parallel import World

    settings = _settings(args)
    helps = World.here().rank > 0
    if not helps:
        check_writable(args.output)
    reporter = SILENT if helps else Reporter(verbose=args.verbose)
    with reporter.stage("opening the model"):
        model = options.open_model(args)
    if helps:
        assist(model, settings)
        return 0
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
    from nmcompile.masks import Masks
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
        target=_target(args),
        profile=args.profile,
        strict=args.strict,
        budget=Budget.parse(args.budget or _BUDGET),
        patterns=_patterns(args.patterns),
        uniform=Pattern.parse(args.uniform) if args.uniform else None,
        prune=args.prune,
        plan=(Plan.load(args.plan), str(args.plan)) if args.plan else None,
        finetune=_recipe(args),
        masks=Masks.parse(args.search, args.train_masks, args.reassign),
        route=_route(args),
        never_train_on=args.never_train_on,
        precision=args.precision,
        value_range=options.read_range(args),
        crops=args.crops,
        threads=args.threads,
        check=args.check,
        dump=args.dump_dir,
        name=args.model.name,
        **more,
    )


def _target(args: argparse.Namespace) -> str:
    if not args.custom_ops:
        return str(args.target)
    if args.target != "onnx":
        raise NmcompileError(f"--custom-ops is about --target onnx; leave it out for {args.target}")
    return "onnx:custom-ops"


def _route(args: argparse.Namespace) -> RouteSpec | None:
    from nmcompile.routing.spec import RouteSpec

    if args.route is None:
        for name in ("route_by", "effort"):
            if getattr(args, name) is not None:
                option = name.replace("_", "-")
                raise NmcompileError(
                    f"--{option} is about input-adaptive engines; give --route LEVELS with it"
                )
        return None
    if args.budget is not None:
        raise NmcompileError(
            f"--route {args.route} says what each level may cost; leave out --budget"
        )
    return RouteSpec.parse(args.route, args.route_by or "tile", args.effort)


def _recipe(args: argparse.Namespace) -> Recipe | None:
    from nmcompile.training.recipe import Recipe, read_length

    names = ("batch", "patch", "lr", "seed", "checkpoint", "tensorboard", "resume")
    given: dict[str, Any] = {
        name: value
        for name in names
        if (value := getattr(args, name)) is not None and value is not False
    }
    if args.finetune is None:
        if given:
            raise NmcompileError(
                f"--{next(iter(given))} is about training; give --finetune STEPS|TIME with it"
            )
        return None
    return Recipe(**{**given, **read_length(args.finetune)})


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
