"""Two sets of benchmark documents -> how much slower each engine became, and whether that is sure.

What is judged is the ratio of a peer's time to ours, both taken in the same round, so that a slower
or hotter machine changes nothing. The rule, for an engine and a peer:

- a run's number is the median over its rounds of log(peer / ours); of several runs, their mean;
- its uncertainty is the larger of what the rounds show (bootstrap) and what the runs show, and at
  least what was seen between processes on a quiet machine;
- it is slower if the change is beyond the limit and its 99 % interval does not reach zero.

An engine is slower if it is so against every peer: what slows down alone is the peer. Runs during
which other work took the cores count only where there are no others, and then prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from nmcompile.errors import NmcompileError
from nmcompile.neighbours import MOST_DISTURBED

# Standard deviation of a run's log ratio from process to process (benchmarks on a quiet machine).
_BETWEEN_PROCESSES = 0.01
_SURE = 2.33  # 99 %, one-sided, of a normal distribution
_RESAMPLES = 1000
_SAME = {"size": "input size", "threads": "number of threads", "isa": "--isa", "cpu": "processor"}

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One engine against one peer.

    Attributes:
        engine: its name.
        peer: the peer's name.
        old, new: peer time / our time; above 1 the engine is faster.
        change: how much longer the engine takes than before, in units of the peer: 0.1 is 10 %.
        low, high: the 99 % interval of the change.
        verdict: slower, faster, same (sure to be within the limit) or unclear.
    """

    engine: str
    peer: str
    old: float
    new: float
    change: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """What became of all engines.

    Attributes:
        limit: what a change must exceed to be told; 0.05 is 5 %.
        rows: engine by engine, peer by peer.
        slower: names of the engines that are slower against every peer.
        notes: what was not compared, and why.
    """

    limit: float
    rows: tuple[Row, ...]
    slower: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self)


def documents(found: Any, source: str) -> list[Document]:
    """What a benchmark file holds -> its documents: one, a list of them, or such a list as `rows`.

    Raises:
        NmcompileError: something else, or without the times of single rounds.
    """
    items = found.get("rows", [found]) if isinstance(found, dict) else found
    if not isinstance(items, list) or not items:
        raise NmcompileError(f"{source}: expected what `nmcompile bench --json` prints, or a list")
    for item in items:
        _check(item, source)
    return items


def compare(old: Sequence[Document], new: Sequence[Document], limit: float = 0.05) -> Comparison:
    """Judges what changed.

    Documents with the same engine name are runs of one engine. Where each side has one engine,
    their names may differ.

    Args:
        old: the documents compared with.
        new: those that are judged.
        limit: how much slower is too much; 0.05 is 5 %.

    Raises:
        NmcompileError: an engine is missing in `new`, was timed otherwise, or shares no peer.
    """
    before, after = _by_engine(old), _by_engine(new)
    if len(before) == len(after) == 1:
        before = dict(zip(after, before.values(), strict=True))
    missing = [name for name in before if name not in after]
    if missing:
        raise NmcompileError(f"{missing[0]} was timed before and is not now; time it again")
    notes = [f"{name} is new: nothing to compare with" for name in after if name not in before]
    rows: list[Row] = []
    slower = []
    for name, olds in before.items():
        found = _engine(name, olds, after[name], limit, notes)
        rows += found
        if all(row.verdict == "slower" for row in found):
            slower.append(name)
    return Comparison(limit, tuple(rows), tuple(slower), tuple(notes))


def _engine(
    name: str, old: list[Document], new: list[Document], limit: float, notes: list[str]
) -> list[Row]:
    for key, what in _SAME.items():
        values = {str(run[key]) for run in (*old, *new)}
        if len(values) > 1:
            raise NmcompileError(
                f"{name}: the {what} differs between runs ({', '.join(sorted(values))}); "
                "time both alike"
            )
    old, new = _quiet(old), _quiet(new)
    disturbed = any(_is_disturbed(run) for run in (*old, *new))
    if disturbed:
        notes.append(f"{name}: other work took the cores meanwhile, so that nothing is sure")
    rows = []
    for peer in dict.fromkeys(peer for run in (*old, *new) for peer in run["peers"]):
        known = {_version(run, peer) for run in (*old, *new)}
        if len(known) > 1:
            seen = ", ".join(sorted(known))
            notes.append(f"{name}: not compared with {peer}, which differs ({seen})")
            continue
        rows.append(_row(name, peer, old, new, limit, disturbed))
    if not rows:
        raise NmcompileError(
            f"{name}: the two sides share no peer of one version; time OLD again with these"
        )
    return rows


def _row(
    engine: str, peer: str, old: list[Document], new: list[Document], limit: float, disturbed: bool
) -> Row:
    (before, noise_before), (after, noise_after) = _side(old, peer), _side(new, peer)
    change, margin = before - after, _SURE * math.hypot(noise_before, noise_after)
    low, high, bound = change - margin, change + margin, math.log1p(limit)
    verdict = "unclear"
    if not disturbed:
        if change > bound and low > 0:
            verdict = "slower"
        elif change < -bound and high < 0:
            verdict = "faster"
        elif abs(change) <= bound:
            verdict = "same"
    return Row(
        engine, peer, math.exp(before), math.exp(after),
        math.expm1(change), math.expm1(low), math.expm1(high), verdict,
    )  # fmt: skip


def _side(runs: list[Document], peer: str) -> tuple[float, float]:
    """Mean over the runs of the median log ratio, and its standard error."""
    logs = [np.log(np.divide(run["peers"][peer]["times"], run["ours"]["times"])) for run in runs]
    middles = [float(np.median(rounds)) for rounds in logs]
    within = math.sqrt(sum(_bootstrap(rounds) ** 2 for rounds in logs)) / len(runs)
    between = float(np.std(middles, ddof=1)) if len(runs) > 1 else 0.0
    noise = max(within, max(between, _BETWEEN_PROCESSES) / math.sqrt(len(runs)))
    return float(np.mean(middles)), noise


def _bootstrap(rounds: Any) -> float:
    """Standard error of the median."""
    found = stats.bootstrap(
        (rounds,), np.median, n_resamples=_RESAMPLES, method="percentile", rng=0
    )
    return float(found.standard_error)


def _quiet(runs: list[Document]) -> list[Document]:
    return [run for run in runs if not _is_disturbed(run)] or runs


def _is_disturbed(run: Document) -> bool:
    return float(run["others"]) > MOST_DISTURBED


def _version(run: Document, peer: str) -> str:
    found = run["peers"].get(peer)
    return f"{found['version']} {found['precision']}" if found else "absent"


def _by_engine(runs: Iterable[Document]) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for run in runs:
        found.setdefault(str(run["engine"]), []).append(run)
    return found


def _check(item: Any, source: str) -> None:
    keys = {"engine", "ours", "peers", "others", *_SAME}
    if not isinstance(item, dict) or not keys <= item.keys():
        raise NmcompileError(
            f"{source}: not what this version's `nmcompile bench --json` prints; bench again"
        )
    peers = item["peers"]
    if not isinstance(peers, dict) or not peers:
        raise NmcompileError(f"{source}: {item['engine']} was timed against no peer; bench again")
    own = _rounds(item["ours"])
    if not own or any(_rounds(peer) != own for peer in peers.values()):
        raise NmcompileError(
            f"{source}: {item['engine']}: expected the time of every round, the same number for "
            "every runtime; bench again"
        )


def _rounds(row: Any) -> int:
    """How many rounds were timed; 0 if that is no list of positive numbers."""
    times = row.get("times") if isinstance(row, dict) else None
    able = isinstance(times, list) and all(
        isinstance(time, int | float) and 0 < time < math.inf for time in times
    )
    return len(times) if able and times else 0
