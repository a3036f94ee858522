"""Commands that measure what the README claims; each prints a table and keeps its rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterable

from nmcompile.errors import NmcompileError


def command(main: Callable[[], int | None]) -> None:
    """Runs a command; what the user can mend is one line and exit code 1."""
    try:
        sys.exit(main())
    except NmcompileError as error:
        sys.exit(f"error: {error}")


def check_names(
    parser: argparse.ArgumentParser, kind: str, given: Iterable[str], known: Collection[str]
) -> None:
    """Ends a command whose arguments name something of a kind that it does not know."""
    if unknown := sorted(set(given) - set(known)):
        parser.error(f"unknown {kind} {unknown[0]}; choose from {', '.join(known)}")
