"""An input-adaptive engine beside static ones -> PSNR and milliseconds of each, on real images.

    python -m benchmarks.routing ADAPTIVE --static ENGINE ... --sets "BSD100 x4" [--mixed]

Every image is restored in turn by every engine, the adaptive one by tile and by image at several
efforts and at each level alone; head, overlap and blending count. What an effort gains is the time
of the static engines at its PSNR, interpolated between them, over its own. With --mixed two test
images make one: the flattest part of the one beside the part of the other with most detail.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.networks import ROOT, evaluation_set
from nmcompile.data import Sample, Source
from nmcompile.errors import NmcompileError
from nmcompile.images import read_image, write_image
from nmcompile.metrics import compare
from nmcompile.neighbours import Neighbours
from nmcompile.runtime import Engine, load, native
from nmcompile.runtime.routing import Routes
from nmcompile.tasks import Bytes, Task, as_channels, luma

EFFORTS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
_SIDE = 256  # of one half of a mixed image, or what the images have


@dataclass
class Way:
    """One way of restoring images, and what it gave.

    Attributes:
        run: restores a degraded image.
        macs: one an image, over the dense network's; empty for static engines.
        psnr, ms: one an image; ms the median of its repeats.
    """

    run: Callable[..., Any]
    macs: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)


def main() -> None:
    """Measures every set, prints a table of each, writes all rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("adaptive", type=Path)
    parser.add_argument("--static", type=Path, nargs="+", required=True, metavar="ENGINE")
    parser.add_argument("--sets", nargs="+", required=True, metavar="SET")
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--images", type=int, help="the first so many of each set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="of each image; the median counts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/routing.json")
    args = parser.parse_args()
    for name in args.sets:
        task, source = evaluation_set(name)
        with tempfile.TemporaryDirectory() as folder:
            if args.mixed:
                source = mix(source, Task.parse(task), Path(folder))
            rows, others = _measured(args, Task.parse(task), source)
        title = f"{args.adaptive.name} on {name}" + (", mixed" if args.mixed else "")
        _keep(args.out, title, {"threads": args.threads, "others": others, "rows": rows})
        print_table(title, rows)


def mix(source: Source, task: Task, folder: Path) -> Source:
    """Writes clean images whose left half is flat and whose right half is full of detail.

    The images with the flattest squares give the left halves, the others the right ones: few
    photographs that are full of detail have a flat part of that size.
    """
    cleans = [as_channels(read_image(path), 3) for path in source.clean]
    step = 4 * task.scale
    side = min(_SIDE, *(min(clean.shape[:2]) for clean in cleans)) // step * step
    order = sorted(cleans, key=lambda clean: _details(clean, side).min())
    for number in range(len(order) // 2):
        halves = (_square(order[number], side, -1), _square(order[-1 - number], side, 1))
        write_image(folder / f"{number:03}.png", np.hstack(halves))
    return Source.folder(folder)


def _details(clean: Bytes, side: int) -> NDArray[np.float64]:
    """How much the grey values of each square of an image differ from their neighbours."""
    grey = luma(clean)
    detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inner = side - 1
    below, above = sums[inner:], sums[:-inner]
    return below[:, inner:] - above[:, inner:] - below[:, :-inner] + above[:, :-inner]


def _square(clean: Bytes, side: int, sign: int) -> Bytes:
    """The square of an image with the most detail (sign 1) or the least (-1)."""
    details = _details(clean, side)
    top, left = np.unravel_index(int(np.argmax(sign * details)), details.shape)
    return clean[top : top + side, left : left + side]


def _measured(
    args: argparse.Namespace, task: Task, source: Source
) -> tuple[list[dict[str, Any]], float]:
    adaptive = load(args.adaptive, args.threads)
    routing = adaptive.manifest.routing
    if routing is None:
        raise NmcompileError(f"{args.adaptive} is not input-adaptive; compile it with --route")
    ways = {}
    for by in ("tile", "image"):
        for effort in EFFORTS:
            run = partial(adaptive.restore, effort=effort, route_by=by)
            ways[f"by {by}, effort {effort:g}"] = Way(run)
    for level in range(len(routing.costs)):
        ways[f"level {level}"] = Way(adaptive.at(level).restore)
    for path in args.static:
        ways[f"static {path.name}"] = Way(load(path, args.threads).restore)
    neighbours, manifest = Neighbours(), adaptive.manifest
    samples = list(source.samples(task, manifest.channels, manifest.scale))[: args.images]
    for number, sample in enumerate(samples):
        _turn(ways, sample, task, number, args.repeats)
    return _rows(ways, adaptive), neighbours.share()


def _turn(ways: dict[str, Way], sample: Sample, task: Task, number: int, repeats: int) -> None:
    """One image by every way, in another order each time."""
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = (number + turn) % len(names)
        for name in names[first:] + names[:first]:
            way, told = ways[name], list[Routes]()
            more = {"told": told.append} if name.startswith("by") else {}
            before = time.perf_counter()
            restored = way.run(sample.degraded, **more)
            times[name].append(1e3 * (time.perf_counter() - before))
            if turn == 0:
                way.psnr.append(compare(task, restored, sample.clean).psnr)
                way.macs += [routes.macs for routes in told]
    for name, found in times.items():
        ways[name].ms.append(median(found))


def _rows(ways: dict[str, Way], adaptive: Engine) -> list[dict[str, Any]]:
    routing = adaptive.manifest.routing
    assert routing is not None
    rows = []
    for name, way in ways.items():
        row = {"name": name, "psnr": fmean(way.psnr), "ms": fmean(way.ms)}
        if name.startswith("level"):
            row["macs"] = routing.costs[int(name.split()[1])]
        elif way.macs:
            row["macs"] = fmean(way.macs)
        rows.append(row)
    points = [(row["ms"], row["psnr"]) for row in rows if row["name"].startswith("static")]
    for row in rows:
        wanted = time_at(points, row["psnr"])
        if wanted is not None and not row["name"].startswith("static"):
            row["gain"] = wanted / row["ms"]
    return rows


def time_at(points: Sequence[tuple[float, float]], psnr: float) -> float | None:
    """The time at which static engines reach a PSNR, linear between the best; None outside.

    Args:
        points: (ms, PSNR) of each.
        psnr: in dB.
    """
    best: list[tuple[float, float]] = []
    for ms, own in sorted(points):
        if not best or own > best[-1][1]:
            best.append((ms, own))
    if not best[0][1] <= psnr <= best[-1][1]:
        return None
    return float(np.interp(psnr, [own for _, own in best], [ms for ms, _ in best]))


def _keep(path: Path, title: str, row: dict[str, Any]) -> None:
    kept = json.loads(path.read_text())["runs"] if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"cpu": native.cpu_name(), "runs": {**kept, title: row}}
    path.write_text(json.dumps(content, indent=1) + "\n")


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """One line a way."""
    table = Table("", "MACs", "PSNR", "ms", "static ms at this PSNR / ms", title=title)
    for row in rows:
        macs = f"{row['macs']:.3f}" if "macs" in row else ""
        gain = f"{row['gain']:.2f}" if "gain" in row else ""
        table.add_row(row["name"], macs, f"{row['psnr']:.2f}", f"{row['ms']:.1f}", gain)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
