"""An input-adaptive engine beside static ones -> PSNR and milliseconds of each, on real images.

    python -m benchmarks.routing ADAPTIVE --static ENGINE ... --sets "BSD100 x4" [--mixed]

Every image is restored in turn by every engine, the adaptive one by tile and by image at several
efforts and at each level alone; head, overlap and blending count. What an effort gains is the time
of the static engines at its PSNR, interpolated between them, over its own. `best choice` is
about the most that a head could do: levels chosen by the errors themselves, tiles without overlap,
the choice for free. With --mixed test images make others: N x N flattest parts of some, beside as
many parts of others with most detail, or above them with --stacked.
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

from benchmarks import command
from benchmarks.networks import ROOT, evaluation_set
from nmcompile.data import Sample, Source
from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError
from nmcompile.images import read_image, write_image
from nmcompile.metrics import compare
from nmcompile.neighbours import Neighbours
from nmcompile.runtime import load, native
from nmcompile.runtime.routing import Routes, default_window
from nmcompile.tasks import Bytes, Floats, Task, as_channels, luma

EFFORTS = (0.05, 0.1, 0.15, 0.18, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
WEIGHTS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8)  # of time against squared error, for the best choice
Ways = dict[str, Callable[..., Floats]]
_SIDE = 256  # of one half of a mixed image, or what the images have


@dataclass
class Found:
    """What a way of restoring images gave.

    Attributes:
        macs: one an image, over the dense network's; empty for static engines.
        psnr, ms: one an image; ms the median of its repeats.
    """

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
    parser.add_argument(
        "--mixed", type=int, nargs="?", const=1, default=0, metavar="N", help="1 if not given"
    )
    parser.add_argument("--stacked", action="store_true", help="flat parts above, not beside")
    parser.add_argument("--images", type=int, help="the first so many of each set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="of each image; the median counts")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/routing.json")
    args = parser.parse_args()
    if args.stacked and not args.mixed:
        raise NmcompileError("--stacked: there are halves in mixed images alone; give --mixed too")
    for name in args.sets:
        task, source = evaluation_set(name)
        with tempfile.TemporaryDirectory() as folder:
            if args.mixed:
                source = mix(source, Task.parse(task), Path(folder), args.mixed, args.stacked)
            rows, others = _measured(args, Task.parse(task), source)
        title = f"{args.adaptive.name} on {name}" + (f", mixed {args.mixed}" if args.mixed else "")
        title += " stacked" if args.stacked else ""
        title += f", first {args.images}" if args.images else ""
        _keep(args.out, title, {"threads": args.threads, "others": others, "rows": rows})
        print_table(title, rows)


def mix(source: Source, task: Task, folder: Path, count: int = 1, stacked: bool = False) -> Source:
    """Writes clean images one half of which is flat and the other full of detail.

    The images with the flattest squares give the flat halves, the others those with detail: few
    photographs that are full of detail have a flat part of that size.

    Args:
        source: clean images.
        task: its scale divides the squares.
        folder: where images are written.
        count: squares along a side of each half, every one of another image.
        stacked: the flat half is above the other, not at its left.
    """
    cleans = [as_channels(read_image(path), 3) for path in source.clean]
    step = 4 * task.scale
    side = min(_SIDE, *(min(clean.shape[:2]) for clean in cleans)) // step * step
    order = sorted(cleans, key=lambda clean: _details(clean, side).min())
    for number in range(len(order) // (2 * count**2)):
        own = slice(number * count**2, (number + 1) * count**2)
        flat = [_square(clean, side, -1) for clean in order[own]]
        detailed = [_square(clean, side, 1) for clean in order[::-1][own]]
        halves = [
            np.vstack([np.hstack(half[i::count]) for i in range(count)])
            for half in (flat, detailed)
        ]
        write_image(folder / f"{number:03}.png", (np.vstack if stacked else np.hstack)(halves))
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
    manifest = adaptive.manifest
    routing = manifest.routing
    if routing is None:
        raise NmcompileError(f"{args.adaptive} is not input-adaptive; compile it with --route")
    ways: Ways = {}
    for by in ("tile", "image"):
        for effort in EFFORTS:
            ways[f"by {by}, effort {effort:g}"] = partial(
                adaptive.restore, effort=effort, route_by=by
            )
    for level in range(len(routing.costs)):
        ways[f"level {level}"] = adaptive.at(level).restore
    for path in args.static:
        ways[f"static {path.name}"] = load(path, args.threads).restore
    found = {name: Found() for name in ways}
    best = {weight: Found() for weight in WEIGHTS}
    side = manifest.scale * (routing.tile or default_window(manifest.scale)[0])
    neighbours = Neighbours()
    samples = list(source.samples(task, manifest.channels, manifest.scale))[: args.images]
    levels = [name for name in ways if name.startswith("level")]
    for number, sample in enumerate(samples):
        restored = _turn(ways, found, sample, task, number, args.repeats)
        each, ms = zip(*((restored[name], found[name].ms[-1]) for name in levels), strict=True)
        for weight, one in best.items():
            picture, took = best_choice(each, sample.clean, np.array(ms), weight, side)
            one.psnr.append(compare(task, picture, sample.clean).psnr)
            one.ms.append(took)
    found |= {f"best choice, weight {weight:g}": one for weight, one in best.items()}
    return _rows(found, routing), neighbours.share()


def best_choice(
    restored: Sequence[Floats], clean: Bytes, ms: NDArray[np.float64], weight: float, side: int
) -> tuple[Floats, float]:
    """A level for each tile, by what it gets wrong there and how long it takes.

    Args:
        restored: by each level, H x W x C in 0..1.
        clean: the image itself.
        ms: of the image at each level.
        weight: of time, as a share of the last level's, against squared error, likewise.
        side: of a tile in pixels of the restored image.

    Returns:
        The image put together of those levels' tiles, and its share of their times.
    """
    height, width = clean.shape[:2]
    rows, columns = (range(0, size, side) for size in (height, width))

    def sums(x: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(x, rows, 0), columns, 1)
        return found

    errors = np.stack([sums(((level - clean / 255.0) ** 2).sum(2)) for level in restored])
    share = sums(np.ones((height, width))) / (height * width)
    costs = weight * share * (ms / ms[-1])[:, None, None]
    choice = np.argmin(errors / errors[-1].sum() + costs, axis=0)
    where = choice.repeat(side, 0).repeat(side, 1)[:height, :width, None]
    return np.choose(where, list(restored)), float((share * ms[choice]).sum())


def _turn(
    ways: Ways, found: dict[str, Found], sample: Sample, task: Task, number: int, repeats: int
) -> dict[str, Floats]:
    """One image by every way, in another order each time -> what each restored."""
    names, restored = list(ways), dict[str, Floats]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = (number + turn) % len(names)
        for name in names[first:] + names[:first]:
            told = list[Routes]()
            more = {"told": told.append} if name.startswith("by") else {}
            before = time.perf_counter()
            restored[name] = ways[name](sample.degraded, **more)
            times[name].append(1e3 * (time.perf_counter() - before))
            if turn == 0:
                found[name].psnr.append(compare(task, restored[name], sample.clean).psnr)
                found[name].macs += [routes.macs for routes in told]
    for name, taken in times.items():
        found[name].ms.append(median(taken))
    return restored


def _rows(found: dict[str, Found], routing: Routing) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, one in found.items():
        row = {"name": name, "psnr": fmean(one.psnr), "ms": fmean(one.ms)}
        if name.startswith("level"):
            row["macs"] = routing.costs[int(name.split()[1])]
        elif one.macs:
            row["macs"] = fmean(one.macs)
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
    command(main)
