"""An engine + other runtimes on the dense original -> times and ratios from interleaved runs."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.engine import Manifest
from nmcompile.errors import NmcompileError
from nmcompile.peers import Tensor, default_peers, open_peer
from nmcompile.runtime import Engine, load, native
from nmcompile.runtime.executor import check_threads
from nmcompile.runtime.inputs import filled

FEWEST_ROUNDS = 5
_DEFAULT_SIZE = (180, 320)
_WARM_UP = 2
_PAUSE = 0.01  # seconds: lets the last runtime's threads fall asleep before the next is timed


def bench(
    folder: Path | str,
    against: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Times an engine and its peers, each once in every round, in rotating order.

    The torch peer sets the number of torch's threads for the whole process.

    Args:
        folder: the engine.
        against: names from nmcompile.peers.PEERS; None takes ONNX Runtime, and OpenVINO if it is
            installed.
        size: height and width of the input; None takes 180x320, rounded to what fits.
        threads: threads of every runtime; None takes every core.
        rounds: how many rounds, at least 5; None goes on for `seconds`.
        seconds: least time for all rounds together, if `rounds` is None.

    Returns:
        `ours`: `ms` (median), `min`, `max`; `peers`: for each name the same, `ratio` (median over
        the rounds of peer time / our time), `ratio_low` and `ratio_high` (its quartiles),
        `version` and `precision`; `size`, `threads`, `rounds`, `cpu`, and `note`: what the
        engine's receipt says about its kernels, or "".

    Raises:
        NmcompileError: no engine, an unknown or missing peer, or an impossible size.
    """
    count = check_threads(threads)
    engine = load(folder, count)
    shape = (1, engine.manifest.channels, *(size or _default_size(engine.manifest)))
    image = natural_image(shape, engine.manifest.value_range)
    inputs = {engine.manifest.input_name: image}
    for extra in engine.manifest.extra_inputs:
        inputs[extra.name] = filled(extra, extra.value, shape)
    engine.run(image)  # a size that the network does not take is told before peers are loaded
    names = default_peers() if against is None else list(dict.fromkeys(against))
    peers = {name: open_peer(name, engine.path, inputs, count) for name in names}
    runs = {"ours": lambda: engine.run(image), **{name: peer.run for name, peer in peers.items()}}
    times = interleaved(runs, rounds, seconds)
    ours = times.pop("ours")
    return {
        "ours": _summary(ours),
        "peers": {
            name: {
                **_summary(found),
                **_ratio(found / ours),
                "version": peers[name].version,
                "precision": peers[name].precision,
            }
            for name, found in times.items()
        },
        "size": list(shape[2:]),
        "threads": count,
        "rounds": len(ours),
        "cpu": _cpu_name(),
        "note": _note(engine),
    }


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int | None, seconds: float
) -> dict[str, NDArray[np.float64]]:
    """Times every run once a round, each round beginning with the next one; milliseconds.

    What slows a machine for a while (heat, a neighbour) then slows all of them alike.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
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


def _default_size(manifest: Manifest) -> tuple[int, int]:
    if manifest.fixed_size is not None:
        return manifest.fixed_size
    step = manifest.multiple
    height, width = (-(-max(size, manifest.minimum) // step) * step for size in _DEFAULT_SIZE)
    return height, width


def _summary(times: NDArray[np.float64]) -> dict[str, float]:
    return {"ms": float(np.median(times)), "min": float(times.min()), "max": float(times.max())}


def _ratio(ratios: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {"ratio": float(middle), "ratio_low": float(low), "ratio_high": float(high)}


def _note(engine: Engine) -> str:
    """What the receipt says about the engine's kernels, for instance that they are dense."""
    receipt = engine.path / "receipt.json"
    return str(json.loads(receipt.read_text()).get("note", "")) if receipt.is_file() else ""


def _cpu_name() -> str:
    try:
        return native.cpu_name()
    except NmcompileError:  # the native library is not built; `nmcompile env` tells why
        return platform.processor() or platform.machine()
