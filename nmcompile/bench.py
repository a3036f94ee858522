"""An engine + other runtimes on the dense original -> times and ratios from interleaved runs."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Manifest
from nmcompile.errors import NmcompileError
from nmcompile.isa import UNCAPPED, cap_isa
from nmcompile.neighbours import Neighbours
from nmcompile.peers import Peer, Tensor, default_peers, open_peer
from nmcompile.runtime import Engine, load, native
from nmcompile.runtime.executor import check_threads
from nmcompile.runtime.inputs import filled

FEWEST_ROUNDS = 5
_DEFAULT_SIZE = (180, 320)
_LONG = 1.0  # seconds; a shorter run is warmed up by a second one
OURS = "ours "  # no peer's name has a space
_PAUSE = 0.01  # seconds: lets the last runtime's threads fall asleep before the next is timed


def bench(
    folder: Path | str,
    against: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 2.0,
    isa: str | None = None,
) -> dict[str, Any]:
    """Times an engine and its peers, each once in every round, in rotating order.

    The torch peer sets the number of torch's threads for the whole process, `isa` the environment.

    Args:
        folder: the engine.
        against: names from nmcompile.peers.PEERS; None takes ONNX Runtime, and OpenVINO if it is
            installed.
        size: height and width of the input; None takes 180x320, rounded to what fits.
        threads: threads of every runtime; None takes every core.
        rounds: how many rounds, at least 5; None goes on for `seconds`.
        seconds: least time for all rounds together, if `rounds` is None.
        isa: the most modern instruction set that ours and the peers may use, by its name in
            nmcompile.isa.CAPS; None lets each take the best it knows.

    Returns:
        `engine`: the folder's name; `ours`: `ms` (median), `min`, `max`, `times` (milliseconds of
        every round), `isa` (the family of our kernels, null where ONNX Runtime runs the engine);
        `peers`: for each name `ms`, `min`, `max`, `times`, `isa` (what it was held to, null if
        nothing), `ratio` (median over the rounds of peer time / our time), `ratio_low` and
        `ratio_high` (its quartiles), `version` and `precision`; `size`, `threads`, `isa` (as
        asked), `rounds`, `others` (share of the cores' time that other work took), `cpu`, and
        `note`: which GPU runs the engine (peers run on the processor), what its receipt says about
        its kernels, and which runtime was not held to `isa`, or "".

    Raises:
        NmcompileError: no engine, an unknown or missing peer, or an impossible size or isa.
    """
    return bench_together([folder], against, size, threads, rounds, seconds, isa)[0]


def bench_together(
    folders: Sequence[Path | str],
    against: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 2.0,
    isa: str | None = None,
) -> list[dict[str, Any]]:
    """As `bench`, for engines of one network: a document each, the peers timed once for all.

    The peers run the dense original of the first engine.
    """
    if isa is not None:
        cap_isa(isa)
    count = check_threads(threads)
    engines = [load(folder, count) for folder in folders]
    for engine in engines:
        if engine.manifest.routing is not None:
            raise NmcompileError(
                f"{engine.path} is input-adaptive and chooses by what it sees: time it on images, "
                "with nmcompile.routed_bench"
            )
    inputs = _inputs(engines[0].manifest, size)
    image = inputs[engines[0].manifest.input_name]
    for engine in engines:
        engine.run(image)  # a size that it does not take is told before peers are loaded
    names = default_peers() if against is None else list(dict.fromkeys(against))
    peers = {name: open_peer(name, engines[0].path, inputs, count) for name in names}
    runs: dict[str, Callable[[], object]] = {
        f"{OURS}{index}": partial(engine.run, image) for index, engine in enumerate(engines)
    }
    neighbours = Neighbours()
    times = interleaved({**runs, **{n: peer.run for n, peer in peers.items()}}, rounds, seconds)
    shared = {
        "size": list(image.shape[2:]),
        "threads": count,
        "isa": isa,
        "others": neighbours.share(),
    }
    return [
        document(engine, times[f"{OURS}{index}"], peers, times, shared)
        for index, engine in enumerate(engines)
    ]


def document(
    engine: Engine,
    own: NDArray[np.float64],
    peers: Mapping[str, Peer],
    times: Mapping[str, NDArray[np.float64]],
    shared: Mapping[str, Any],
) -> dict[str, Any]:
    """What `bench` gives for an engine.

    Args:
        engine: what was timed.
        own: its milliseconds, one a round.
        peers: by name.
        times: theirs, by the same names.
        shared: `size`, `threads`, `isa` and `others`.
    """
    isa = shared["isa"]
    return {
        "engine": engine.path.resolve().name,
        "ours": {**summary(own), "isa": engine.isa},
        "peers": _peers(peers, times, own, isa),
        "rounds": len(own),
        "cpu": _cpu_name(),
        "note": _note(engine, isa, peers),
        **shared,
    }


def _inputs(manifest: Manifest, size: tuple[int, int] | None) -> dict[str, Tensor]:
    shape = (1, manifest.channels, *(size or default_size(manifest)))
    return all_inputs(manifest, natural_image(shape, manifest.value_range))


def all_inputs(manifest: Manifest, image: Tensor) -> dict[str, Tensor]:
    """An image and what fills the network's further inputs, by name."""
    inputs = {manifest.input_name: image}
    for extra in manifest.extra_inputs:
        inputs[extra.name] = filled(extra, extra.value, image.shape)
    return inputs


def _peers(
    peers: Mapping[str, Peer],
    times: Mapping[str, NDArray[np.float64]],
    ours: NDArray[np.float64],
    isa: str | None,
) -> dict[str, Any]:
    return {
        name: {
            **summary(times[name]),
            **_ratio(times[name] / ours),
            "version": peer.version,
            "precision": peer.precision,
            "isa": isa if peer.capped else None,
        }
        for name, peer in peers.items()
    }


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int | None, seconds: float
) -> dict[str, NDArray[np.float64]]:
    """Times every run once a round, each round beginning with the next one; milliseconds.

    What slows a machine for a while (heat, a neighbour) then slows all of them alike.
    """
    for run in runs.values():
        start = time.perf_counter()
        run()
        if time.perf_counter() - start < _LONG:
            run()
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + (seconds if rounds is None else 0.0)
    done = 0
    while done < max(FEWEST_ROUNDS, rounds or 0) or time.perf_counter() < end:
        first = done % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(_PAUSE)
            start = time.perf_counter()
            runs[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
        done += 1
    return {name: np.array(found) for name, found in times.items()}


def natural_image(shape: tuple[int, ...], value_range: float) -> Tensor:
    """Noise with the spectrum of photographs: as strong at every scale, within the range."""
    random = np.random.default_rng(0)
    height, width = shape[2:]
    image = np.zeros(shape)
    step = 1
    while step < 2 * max(height, width):
        coarse = random.standard_normal((*shape[:2], -(-height // step), -(-width // step)))
        image += np.kron(coarse, np.ones((step, step)))[:, :, :height, :width]
        step *= 2
    image -= image.min()
    return (image * (value_range / max(float(image.max()), 1e-9))).astype(np.float32)


def default_size(manifest: Manifest) -> tuple[int, int]:
    """About 180x320, of a size that the network takes."""
    if manifest.fixed_size is not None:
        return manifest.fixed_size
    step = manifest.multiple
    height, width = (-(-max(size, manifest.minimum) // step) * step for size in _DEFAULT_SIZE)
    return height, width


def summary(times: NDArray[np.float64]) -> dict[str, Any]:
    """Milliseconds: median, extremes and every round's."""
    return {
        "ms": float(np.median(times)),
        "min": float(times.min()),
        "max": float(times.max()),
        "times": [float(f"{time:.6g}") for time in times],
    }


def _ratio(ratios: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {"ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high)}


def _note(engine: Engine, isa: str | None, peers: Mapping[str, Peer]) -> str:
    """What the receipt says about the kernels (that they are dense, say), and who went uncapped."""
    receipt = engine.path / "receipt.json"
    note = str(json.loads(receipt.read_text()).get("note", "")) if receipt.is_file() else ""
    free = engine.isa is None or not all(peer.capped for peer in peers.values())
    built = engine.manifest.built
    where = f"this engine runs on {built.gpu}, the others on the processor" if built else ""
    return "; ".join(filter(None, (where, note, UNCAPPED if isa and free else "")))


def _cpu_name() -> str:
    try:
        return native.cpu_name()
    except NmcompileError:  # the native library is not built; `nmcompile env` tells why
        return platform.processor() or platform.machine()
