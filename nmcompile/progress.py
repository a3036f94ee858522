"""Stages of work -> lines on stderr that show how far each one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter:
    """Shows stages with a bar, and notes that the user must read. Silent if `quiet`."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        """Args: quiet shows nothing; verbose keeps details that are otherwise left out."""
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.verbose = verbose

    def note(self, text: str) -> None:
        """One line that the user must read."""
        self.console.print(text, soft_wrap=True)

    def detail(self, text: str) -> None:
        """One line for whoever asked for details (-v)."""
        if self.verbose:
            self.console.print(f"[dim]{text}[/dim]", soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """A stage of `total` steps; the body calls what it gets once a step."""
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
            if total is None:
                progress.update(task, total=1, completed=1)

    @contextmanager
    def run(self, title: str, total: float) -> Iterator[Callable[[float, str], None]]:
        """A long stage; the body says how far of `total` it has come, and where it stands."""
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[standing]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total, standing="")
            yield lambda done, standing: progress.update(task, completed=done, standing=standing)


SILENT = Reporter(quiet=True)
