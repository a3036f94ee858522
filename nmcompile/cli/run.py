"""`nmcompile run ENGINE IMAGE|DIR -o OUT` -> the restored image, or one for each of a folder."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmcompile.cli import options
from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from nmcompile.runtime.routing import Routes

Restore = Callable[..., Any]
_KEPT_ENDINGS = (".png", ".tif", ".tiff")  # they hold whatever comes out; the rest becomes .png


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `nmcompile run`."""
    parser.add_argument("engine", metavar="ENGINE", help="the engine's folder")
    parser.add_argument("image", metavar="IMAGE|DIR", help="an image, or a folder of images")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a file for one image; a folder (made if need be) for a folder, where PNG and TIFF "
        "keep their names and everything else becomes a PNG",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="work in tiles of at most NxN pixels (default: only if memory asks for it)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: every core")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="fill a further input of the network, such as a noise level, with a number",
    )
    options.add_route(parser)
    parser.add_argument(
        "--show-routing",
        metavar="MAP",
        help="write a picture of the levels that were chosen: a file for one image, a folder for "
        "a folder",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say which kernels run")


def execute(args: argparse.Namespace) -> int:
    """Restores the images; 1 if any of a folder failed, after trying them all."""
    jobs = _jobs(Path(args.image), args.output)
    maps = _maps(jobs, Path(args.image), args.show_routing)
    extras = dict(_setting(text) for text in args.set)

    from nmcompile.runtime import load
    from nmcompile.runtime.inputs import check_names

    engine = load(args.engine, args.threads)
    check_names(engine.manifest, extras)
    more = ["--show-routing"] if maps else []
    options.check_routing(args, engine.manifest, args.engine, *more)
    restore = partial(
        engine.restore, tile=args.tile, extras=extras, warn=partial(_tell, set()),
        effort=args.effort, route_by=args.route_by,
    )  # fmt: skip
    failed = False
    with _progress(len(jobs)) as advance:
        for number, (source, target) in enumerate(jobs):
            moved = partial(_advance, advance, number)
            try:
                _restore(partial(restore, progress=moved), source, target, maps.get(source))
            except NmcompileError as error:
                if len(jobs) == 1:
                    raise
                failed = True
                print(f"nmcompile: error: {error}", file=sys.stderr)
    return int(failed)


def _restore(restore: Restore, source: Path, target: Path, levels: Path | None) -> None:
    """Reads, restores and writes one image and the map of its levels; prints what was done."""
    from nmcompile.images import check_format, read_image, write_image
    from nmcompile.level_map import level_map

    image = read_image(source)
    check_format(target, image.dtype, image.shape[2])
    told: list[Routes] = []
    start = time.perf_counter()
    restored = restore(image, told=told.append)
    seconds = time.perf_counter() - start
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, restored)
    height, width = restored.shape[:2]
    shares = "".join(f", {share:.0%}" for routes in told for share in routes.shares)
    chosen = f"; levels{shares[1:]}" if shares else ""
    print(f"{source} -> {target} ({width}x{height}, {seconds:.2f} s{chosen})")
    if levels is not None:
        levels.parent.mkdir(parents=True, exist_ok=True)
        write_image(levels, level_map(image, told[0].levels, told[0].shares))


def _maps(jobs: list[tuple[Path, Path]], source: Path, output: str | None) -> dict[Path, Path]:
    """Where the map of each image goes.

    Raises:
        NmcompileError: a map that would replace an image, or whose folder or kind cannot be.
    """
    from nmcompile.images import check_format

    if output is None:
        return {}
    target = Path(output)
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise NmcompileError(
                f"{target} is a file; give --show-routing a folder for the folder {source}"
            )
        maps = {image: target / f"{restored.stem}.png" for image, restored in jobs}
    else:
        check_format(target, np.dtype(np.uint8), 3)
        maps = {source: target}
    _check_targets(jobs + list(maps.items()))
    return maps


def _jobs(source: Path, output: str) -> list[tuple[Path, Path]]:
    """(image, where its restored one goes) for every image asked for.

    Raises:
        NmcompileError: no such image, or an output that cannot be.
    """
    from nmcompile.images import list_images

    target = Path(output)
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise NmcompileError(f"{target} is a file; give -o a folder for the folder {source}")
        jobs = [(path, target / _output_name(path)) for path in list_images(source)]
    elif target.is_dir() or output.endswith("/"):
        jobs = [(source, target / _output_name(source))]
    else:
        if not target.absolute().parent.is_dir():
            raise NmcompileError(f"{target}: the folder {target.parent} does not exist")
        jobs = [(source, target)]
    _check_targets(jobs)
    return jobs


def _check_targets(jobs: list[tuple[Path, Path]]) -> None:
    """Raises NmcompileError if an output would replace an input or another output."""
    made_from: dict[Path, Path] = {}
    for source, target in jobs:
        if target.exists() and target.samefile(source):
            raise NmcompileError(f"{target} would replace the image itself; choose another -o")
        if target in made_from:
            raise NmcompileError(
                f"{made_from[target]} and {source} would both become {target}; rename one"
            )
        made_from[target] = source
    for _, target in (jobs[0], jobs[-1]):
        folder = next(path for path in target.absolute().parents if path.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise NmcompileError(f"{target}: {folder} is not a writable folder; choose another")


def _output_name(source: Path) -> str:
    keep = source.suffix.lower() in _KEPT_ENDINGS
    return source.name if keep else f"{source.stem}.png"


def _setting(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (name and equals and math.isfinite(number)):
        raise NmcompileError(f"--set {text}: expected NAME=NUMBER, for example --set sigma=0.1")
    return name, number


def _tell(told: set[str], note: str) -> None:
    """Prints a note once, whatever the number of images it is true of."""
    if note not in told:
        told.add(note)
        print(f"nmcompile: note: {note}", file=sys.stderr)


def _advance(advance: Callable[[float], None], number: int, done: int, total: int) -> None:
    advance(number + done / total)


@contextmanager
def _progress(images: int) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, gone at the end; what it gives is told how many images are done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    on_screen = console.is_terminal and sys.stdout.isatty()
    with Progress(
        console=console, transient=True, redirect_stdout=on_screen, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("restoring", total=images)
        yield lambda done: bar.update(task, completed=done)
