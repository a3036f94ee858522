"""Passes -> a run of them: order, needs and promises enforced, timed, dumped, errors named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from nmcompile.context import Context
from nmcompile.errors import NmcompileError
from nmcompile.program import Program

Changes = Literal["nothing", "graph", "values"]
_TOLERANCE = 1e-4
_PROBE = 40


@dataclass(frozen=True)
class Pass:
    """A function (Program, Context) -> Program with what it declares.

    Attributes:
        name: the function's name.
        run: the function.
        needs: facts that must hold before.
        gives: facts that hold after.
        changes: nothing (only the plan), graph (same outputs) or values (other outputs).
    """

    name: str
    run: Callable[[Program, Context], Program]
    needs: frozenset[str]
    gives: frozenset[str]
    changes: Changes

    def __call__(self, program: Program, ctx: Context) -> Program:
        """Runs this pass alone, with all the checks of the runner."""
        return run_passes(program, ctx, [self])


def compiler_pass(
    *, needs: set[str], gives: set[str], changes: Changes
) -> Callable[[Callable[[Program, Context], Program]], Pass]:
    """Declares what a pass needs, gives and changes."""

    def declare(function: Callable[[Program, Context], Program]) -> Pass:
        return Pass(function.__name__, function, frozenset(needs), frozenset(gives), changes)

    return declare


def run_passes(program: Program, ctx: Context, passes: Sequence[Pass]) -> Program:
    """Runs passes in order.

    Raises:
        NmcompileError: from a pass, unchanged (the user can mend it).
        RuntimeError: a pass broke its declaration or failed; names it and those before it.
    """
    done: list[str] = []
    for step in passes:
        missing = step.needs - program.facts
        if missing:
            raise RuntimeError(
                f"pass {step.name} needs {', '.join(sorted(missing))}, which no pass before it "
                f"gave (ran: {', '.join(done) or 'none'}; "
                f"holds: {', '.join(sorted(program.facts)) or 'nothing'})"
            )
        program = _run_one(step, program, ctx, done)
        done.append(step.name)
    return program


def _run_one(step: Pass, program: Program, ctx: Context, done: list[str]) -> Program:
    checked = step.changes == "graph" or (ctx.check and step.changes == "nothing")
    before = _outputs(program) if checked else None
    started = time.perf_counter()
    try:
        result = step.run(program, ctx)
        seconds = time.perf_counter() - started
        after = None if before is None else _outputs(result)
    except NmcompileError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"pass {step.name} failed (after {', '.join(done) or 'no other pass'}): {error}"
        ) from error
    ctx.reporter.detail(f"{step.name}: {seconds:.2f} s")
    if before is not None and after is not None:
        _compare(step, before, after, program.interface.value_range)
    result = Program(
        result.module, result.interface, result.plan, program.facts | result.facts | step.gives
    )
    _dump(step, result, ctx)
    return result


def _outputs(program: Program) -> torch.Tensor:
    interface = program.interface
    step = interface.multiple
    side = -(-max(_PROBE, interface.minimum) // step) * step
    size = interface.fixed_size or (side, side + step)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, interface.channels, *size, generator=generator)
    return program(image * interface.value_range)


def _compare(step: Pass, before: torch.Tensor, after: torch.Tensor, value_range: float) -> None:
    if before.shape != after.shape:
        raise RuntimeError(
            f"pass {step.name} declares changes={step.changes!r} but turned the output's shape "
            f"{tuple(before.shape)} into {tuple(after.shape)}"
        )
    error = float((before - after).abs().max()) / value_range
    if not error <= _TOLERANCE:
        raise RuntimeError(
            f"pass {step.name} declares changes={step.changes!r} but moved the output by "
            f"{error:.3g} of the value range (at most {_TOLERANCE:g} is rounding)"
        )


def _dump(step: Pass, program: Program, ctx: Context) -> None:
    folder = ctx.dump_folder
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{len(list(folder.glob('*.fx.txt'))):02d}-{step.name}"
        stem.with_suffix(".fx.txt").write_text(str(program.module.graph) + "\n")
        if program.plan is not None:
            stem.with_suffix(".plan.json").write_text(program.plan.to_json())
    except OSError as error:
        raise NmcompileError(f"{folder}: cannot dump there ({error}); choose another") from None
