"""An input-adaptive engine + real images -> its times at several efforts, each level's, and peers'.

Only real images tell: what is chosen, and so the time, depends on them. Images are cut to one
size, as the peers' models run the first of them; their times do not depend on what they see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.bench import OURS, all_inputs, default_size, document, interleaved, summary
from nmcompile.data import Source
from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError
from nmcompile.isa import cap_isa
from nmcompile.neighbours import Neighbours
from nmcompile.peers import default_peers, open_peer
from nmcompile.runtime import Engine, load
from nmcompile.runtime.cuts import down
from nmcompile.runtime.executor import check_threads
from nmcompile.runtime.pixels import Picture, to_tensor
from nmcompile.runtime.routing import Effort, Routes, read_effort
from nmcompile.tasks import Task

_EFFORTS = (0.25, 0.5, 0.75)
_IMAGES = 4

Run = Callable[[Picture], object]
Times = NDArray[np.float64]


def bench_routed(
    folder: Path | str,
    source: Source | None = None,
    against: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 2.0,
    isa: str | None = None,
    effort: Effort = None,
    route_by: str | None = None,
) -> dict[str, Any]:
    """Times an input-adaptive engine on real images, the head, tiling and blending included.

    Args:
        folder: the engine.
        source: images, degraded by the engine's task; None takes the photographs in scikit-image.
            Of the first few the middle of `size` is used.
        against: as nmcompile.bench.bench has it, and so the following ones.
        size: of the images; None takes 180x320, or as much of that as they have.
        threads: of every runtime.
        rounds: how many.
        seconds: least time for all rounds.
        isa: the most modern instruction set.
        effort: the one whose time is `ours`; None takes the engine's own.
        route_by: `tile` or `image`; None takes the engine's own.

    Returns:
        What nmcompile.bench.bench does, times being of one image, and `images`, their number, and
        `runs`: for each effort and level alone `name`, `ms`, `min`, `max`, `times`, `macs` (over
        the dense network's, the head's and the overlap's included), `shares` (of the pixels, one a
        level) and, of an effort, `overhead` (of head, tiling and blending, over the levels' time).

    Raises:
        NmcompileError: as bench, or no image is large enough, or the engine has no levels.
    """
    if isa is not None:
        cap_isa(isa)
    count = check_threads(threads)
    engine = load(folder, count)
    images = _images(engine, source or Source.fallback(), size)
    own = read_effort(effort, _routing(engine))
    efforts = {f"effort {x:g}": x for x in dict.fromkeys((own, *_EFFORTS))}
    ours = _ours(engine, efforts, route_by)
    counted = _counted(engine, images, efforts, route_by)
    inputs = all_inputs(engine.manifest, _tensor(engine, images[0]))
    names = default_peers() if against is None else list(dict.fromkeys(against))
    peers = {name: open_peer(name, engine.path, inputs, count) for name in names}
    runs: dict[str, Callable[[], object]] = {name: peer.run for name, peer in peers.items()}
    runs |= {f"{OURS}{name}": partial(_all, run, images) for name, run in ours.items()}
    neighbours = Neighbours()
    times = interleaved(runs, rounds, seconds)
    each = {name: times[f"{OURS}{name}"] / len(images) for name in ours}
    extra = _overheads(each, counted, len(efforts))
    shared = {
        "size": list(images[0].shape[:2]), "threads": count, "isa": isa,
        "others": neighbours.share(), "images": len(images),
        "runs": [{"name": n, **summary(each[n]), **counted[n], **extra[n]} for n in ours],
    }  # fmt: skip
    return document(engine, each[f"effort {own:g}"], peers, times, shared)


def _routing(engine: Engine) -> Routing:
    if engine.manifest.routing is None:
        raise NmcompileError(f"{engine.path} is not input-adaptive; use nmcompile.bench")
    return engine.manifest.routing


def _ours(engine: Engine, efforts: dict[str, float], by: str | None) -> dict[str, Run]:
    """The engine at every effort, and each of its levels."""
    found: dict[str, Run] = {
        name: partial(engine.restore, effort=effort, route_by=by)
        for name, effort in efforts.items()
    }
    for level in range(len(_routing(engine).costs)):
        found[f"level {level}"] = engine.at(level).restore
    return found


def _all(run: Run, images: Sequence[Picture]) -> None:
    for image in images:
        run(image)


def _images(engine: Engine, source: Source, size: tuple[int, int] | None) -> list[Picture]:
    """The middles of the first images that are large enough; without a size, what they share."""
    manifest = engine.manifest
    step, wanted = manifest.multiple, size or default_size(manifest)
    samples = source.samples(Task.parse(manifest.task), manifest.channels, manifest.scale)
    if size is None and manifest.fixed_size is None:
        first = [sample.degraded for sample in islice(samples, _IMAGES)]
        least = [min(down(image.shape[axis], step) for image in first) for axis in (0, 1)]
        wanted = (min(wanted[0], least[0]), min(wanted[1], least[1]))
        found: Iterator[Picture] = iter(first)
    else:
        found = (sample.degraded for sample in samples)
    middles = (_middle(image, wanted) for image in found)
    images = list(islice((image for image in middles if image.shape[:2] == wanted), _IMAGES))
    if not images or 0 in wanted:
        raise NmcompileError(
            f"no image gives an input of {wanted[0]}x{wanted[1]} or more; give larger ones with "
            "--data, or a smaller --size"
        )
    return images


def _middle(image: Picture, size: tuple[int, int]) -> Picture:
    """So many rows and columns of an image, or fewer where it has no more."""
    top, left = (max(0, (image.shape[axis] - size[axis]) // 2) for axis in (0, 1))
    return image[top : top + size[0], left : left + size[1]]


def _tensor(engine: Engine, image: Picture) -> np.ndarray[Any, np.dtype[np.float32]]:
    return to_tensor(image, engine.manifest.value_range, engine.manifest.channels)


def _counted(
    engine: Engine, images: Sequence[Picture], efforts: dict[str, float], by: str | None
) -> dict[str, dict[str, Any]]:
    """MACs and shares of each effort and level, means over the images."""
    routing, found = _routing(engine), {}
    for name, effort in efforts.items():
        told: list[Routes] = []
        for image in images:
            engine.restore(image, effort=effort, route_by=by, told=told.append)
        found[name] = _means(told)
    for level in range(len(routing.costs)):
        height, width = images[0].shape[:2]
        found[f"level {level}"] = _means([Routes.whole(routing, height, width, level)])
    return found


def _overheads(
    each: dict[str, Times], counted: dict[str, dict[str, Any]], efforts: int
) -> dict[str, dict[str, float]]:
    """For each effort, of which there are so many before the levels, `overhead`."""
    names = list(each)
    levels = np.stack([each[name] for name in names[efforts:]])
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for name in names[:efforts]:
        alone = np.asarray(counted[name]["shares"]) @ levels
        found[name]["overhead"] = float(np.median(each[name] / alone)) - 1
    return found


def _means(told: Sequence[Routes]) -> dict[str, Any]:
    shares = np.mean([routes.shares for routes in told], axis=0)
    return {"macs": float(np.mean([routes.macs for routes in told])), "shares": shares.tolist()}
