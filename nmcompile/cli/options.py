"""Options that several commands share -> their arguments, and what they mean."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from nmcompile.data import Source
    from nmcompile.engine import ExtraInput, Manifest
    from nmcompile.loading import Model
    from nmcompile.tasks import Task

_RANGES = {"0..1": 1.0, "0..255": 255.0}
_IMAGE_SHAPE = re.compile(r"1x(\d+)x(\d+|H)x(\d+|W)")
_EXTRA = re.compile(r"(?:(\w+):)?(\d+(?:x(?:\d+|H|W))*)(?:=([-+.\deE]+))?")


def add_model(parser: argparse.ArgumentParser) -> None:
    """How a model file becomes a network."""
    group = parser.add_argument_group("the network")
    group.add_argument(
        "--arch", metavar="PKG.MODULE:FACTORY[?K=V,...]", help="what builds a state dict's network"
    )
    group.add_argument(
        "--input", metavar="1x3xHxW[,SHAPE=VALUE]",
        help="the image's shape (numbers or H, W), then further inputs: 1x3xHxW,1x1x1x1=0.1",
    )  # fmt: skip
    group.add_argument("--range", metavar="0..1|0..255", help="the network's value range")
    group.add_argument(
        "--trust-pickle", action="store_true", help="open a pickled module, which runs its code"
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """What the network does."""
    parser.add_argument("--task", help="sr:4, denoise:25, jpeg:10 or deblur")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Where images come from."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="clean images; the task degrades them"
    )
    group.add_argument(
        "--pairs",
        type=Path,
        nargs=2,
        metavar=("LQ_DIR", "HQ_DIR"),
        help="degraded and clean images",
    )


def add_route(parser: argparse.ArgumentParser) -> None:
    """How an input-adaptive engine chooses."""
    group = parser.add_argument_group("input-adaptive engines")
    group.add_argument(
        "--effort",
        metavar="0..1|min|max",
        help="0 (min) is the smallest level everywhere, 1 (max) the largest (default: the engine's "
        "own)",
    )
    group.add_argument(
        "--route-by", choices=("tile", "image"), help="what a level is chosen for (default: the "
        "engine's own)",
    )  # fmt: skip


def check_routing(
    args: argparse.Namespace, manifest: Manifest | None, engine: str | Path, *more: str
) -> None:
    """Checks what was said of levels before any image is read.

    Raises:
        NmcompileError: an impossible effort, or an option for what has no levels (`manifest` is
            None where it is no engine); `more` are further options that were given and need them.
    """
    from nmcompile.runtime.routing import read_effort

    if manifest is not None and manifest.routing is not None:
        read_effort(args.effort, manifest.routing)
        return
    given = {"--effort": args.effort, "--route-by": args.route_by}
    found = [option for option, value in given.items() if value is not None]
    for option in (*found, *more):
        raise NmcompileError(
            f"{option}: {engine} is not input-adaptive; leave it out, or compile an engine with "
            "--route"
        )


def open_model(args: argparse.Namespace) -> Model:
    """The network that --arch and the model file make."""
    from nmcompile.loading import load_model

    return load_model(args.model, args.arch, args.trust_pickle)


def read_task(args: argparse.Namespace) -> Task | None:
    """--task, if given."""
    from nmcompile.tasks import Task

    return Task.parse(args.task) if args.task else None


def read_range(args: argparse.Namespace) -> float | None:
    """--range, if given."""
    if args.range is None:
        return None
    if args.range not in _RANGES:
        raise NmcompileError(f"--range {args.range!r}: expected {' or '.join(_RANGES)}")
    return _RANGES[args.range]


def read_source(args: argparse.Namespace) -> Source | None:
    """--data or --pairs, if given."""
    from nmcompile.data import Source

    if args.data and args.pairs:
        raise NmcompileError("--data and --pairs exclude each other; give one of them")
    if args.pairs:
        return Source.pairs(*args.pairs)
    return Source.folder(args.data) if args.data else None


def read_input(args: argparse.Namespace) -> dict[str, Any]:
    """--input as the settings channels, size and extras."""
    if args.input is None:
        return {}
    first, *others = args.input.split(",")
    found = _IMAGE_SHAPE.fullmatch(first)
    if not found:
        raise NmcompileError(
            f"--input {first!r}: expected 1xCxHxW, such as 1x3xHxW or 1x1x480x640; further inputs "
            "follow after commas, such as 1x3xHxW,1x1x1x1=0.1"
        )
    channels, height, width = found.groups()
    free = height == "H" or width == "W"
    size = None if free else (int(height), int(width))
    extras = tuple(_extra(text, index) for index, text in enumerate(others, 1)) or None
    return {"channels": int(channels), "size": size, "extras": extras}


def _extra(text: str, index: int) -> ExtraInput:
    from nmcompile.engine import ExtraInput

    found = _EXTRA.fullmatch(text)
    if not found:
        raise NmcompileError(
            f"--input {text!r}: expected [NAME:]SHAPE[=VALUE], such as sigma:1x1x1x1=0.1 or 1x1xHxW"
        )
    name, shape, value = found.groups()
    items = [item if item in "HW" else int(item) for item in shape.split("x")]
    items[0] = 0  # the batch
    try:
        number = float(value) if value else float("nan")
    except ValueError:
        raise NmcompileError(f"--input {text!r}: {value!r} is no number") from None
    return ExtraInput(name or f"input{index}", tuple(items), number)
