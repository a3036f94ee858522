"""A captured network and photographs -> the value range and the task it was trained for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice

import numpy as np

from nmcompile.data import Sample, Source
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import Evaluation, evaluate
from nmcompile.metrics import compare
from nmcompile.program import Interface, Program
from nmcompile.tasks import Task

RANGES = (1.0, 255.0)
_SAME_SIZE = tuple(
    Task.parse(text)
    for text in ("denoise:15", "denoise:25", "denoise:50", "jpeg:10", "jpeg:40", "deblur")
)
_IMAGES = 3
# A network run in the wrong range loses many decibels; 0..1 is believed unless 255 gains this much.
_CLEAR = 1.0
_SIDE = 96


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What a network is for, and the sentences that tell the user what was assumed."""

    program: Program
    task: Task
    notes: tuple[str, ...]


def settle(program: Program, task: Task | None, value_range: float | None) -> Assumed:
    """Fills in the task and value range that the user left out, by trying the network.

    A network that enlarges does super-resolution. One that keeps the size is run on photographs
    degraded in each usual way: the task is the one whose images it improves most (in dB).
    """
    tasks = (task,) if task else _candidates(program.interface)
    ranges = (value_range,) if value_range else RANGES
    notes = []
    if len(tasks) * len(ranges) > 1:
        trials = [(_gain(program, t, r), t, r) for t in tasks for r in ranges]
        gain, best_task, best_range = max(trials, key=lambda x: x[0] + _CLEAR * (x[2] == 1.0))
        if task is None:
            notes.append(
                f"task {best_task}: "
                + ("read off the output's size" if best_task.kind == "sr" else
                   f"of the usual tasks the one it does best ({gain:+.1f} dB)")
            )  # fmt: skip
        if value_range is None:
            notes.append(f"value range 0..{best_range:g}: it gives the better images")
        if gain < 0 and task is None and best_task.kind != "sr":
            raise NmcompileError(
                "the network improves none of the usual degradations "
                f"({', '.join(map(str, tasks))}): say what it does with --task"
            )
    else:
        best_task, best_range = tasks[0], ranges[0]
    extra_notes, interface = _with_range(program.interface, best_task, best_range)
    settled = dataclasses.replace(program, interface=interface)
    return Assumed(settled, best_task, (*notes, *extra_notes))


def _candidates(interface: Interface) -> tuple[Task, ...]:
    return (Task("sr", interface.scale),) if interface.scale > 1 else _SAME_SIZE


def _with_range(
    interface: Interface, task: Task, value_range: float
) -> tuple[tuple[str, ...], Interface]:
    """Sets the range, and the noise level that a further input is filled with."""
    extras, notes = [], []
    for extra in interface.extra_inputs:
        value = extra.value
        if np.isnan(value):
            value = task.value / 255 * value_range if task.kind == "denoise" else 0.0
            notes.append(
                f"input {extra.name!r} is filled with {value:.4g}"
                + (f" (the noise level of {task})" if task.kind == "denoise" else "")
                + "; say otherwise with --input"
            )
        extras.append(dataclasses.replace(extra, value=value))
    settled = dataclasses.replace(interface, value_range=value_range, extra_inputs=tuple(extras))
    return tuple(notes), settled


def _gain(program: Program, task: Task, value_range: float) -> float:
    """PSNR gained over the degraded image (super-resolution: the PSNR itself), in dB."""
    _, interface = _with_range(program.interface, task, value_range)
    trial = dataclasses.replace(program, interface=interface)
    samples = [_cut(sample, interface) for sample in _photographs(task, interface)]
    result = evaluate(trial, samples, task)
    return _finite(result) - (0.0 if task.kind == "sr" else _before(samples, task))


def _finite(result: Evaluation) -> float:
    return result.psnr if np.isfinite(result.psnr) else -np.inf


def _before(samples: Sequence[Sample], task: Task) -> float:
    return float(np.mean([compare(task, s.degraded, s.clean).psnr for s in samples]))


def _photographs(task: Task, interface: Interface) -> list[Sample]:
    found = Source.fallback().samples(task, interface.channels, interface.scale)
    return list(islice(found, _IMAGES))


def _cut(sample: Sample, interface: Interface) -> Sample:
    side = -(-max(_SIDE, interface.minimum) // interface.multiple) * interface.multiple
    rows, columns = interface.fixed_size or (side, side)
    scale = interface.scale
    return Sample(
        sample.name,
        sample.degraded[:rows, :columns],
        sample.clean[: rows * scale, : columns * scale],
    )
