"""`nmcompile bench compare OLD.json NEW.json` -> a table, and status 1 if an engine is slower.

A file is what `nmcompile bench --json` printed, a list of such documents (several runs of one
engine make the verdict surer), or what `benchmarks/models.py` wrote. With `--json`, one document:
`limit`, `rows` (`engine`, `peer`, `old`, `new`, `change`, `low`, `high`, `verdict`), `slower`,
`notes`. How it is judged stands in nmcompile/comparison.py.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from nmcompile.comparison import Comparison, Document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `nmcompile bench compare`."""
    parser.add_argument("old", type=Path, metavar="OLD.json", help="what to compare with")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="what is judged")
    parser.add_argument(
        "--fail-slower",
        default="5%",
        metavar="N%",
        help="status 1 if an engine takes longer by more than this, in units of every peer (5%%)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(args: argparse.Namespace) -> int:
    """Prints what changed; 1 if an engine became slower."""
    limit = _limit(args.fail_slower)

    from nmcompile.comparison import compare

    found = compare(_read(args.old), _read(args.new), limit)
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _show(found)
    return int(bool(found.slower))


def _show(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="peer time / ours, and how much longer the engine takes than before")
    for heading in ("engine", "against"):
        table.add_column(heading)
    for heading in ("old", "new", "change", "99 % interval"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in found.rows:
        table.add_row(
            row.engine, row.peer, f"{row.old:.3f}", f"{row.new:.3f}", f"{row.change:+.1%}",
            f"{row.low:+.1%} .. {row.high:+.1%}", row.verdict,
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    slower = f"slower by more than {found.limit:.1%}: {', '.join(found.slower)}"
    console.print(slower if found.slower else f"no engine is slower by more than {found.limit:.1%}")


def _read(path: Path) -> list[Document]:
    from nmcompile.comparison import documents

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NmcompileError(
            f"{path}: cannot be read ({error.strerror}); give what `nmcompile bench --json` printed"
        ) from None
    except ValueError as error:
        raise NmcompileError(f"{path}: not JSON ({error}); bench again with --json") from None
    return documents(found, str(path))


def _limit(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if not found or not 0 < float(found[1]) < 1000:
        raise NmcompileError(f"--fail-slower {text}: expected a percentage, such as 5%")
    return float(found[1]) / 100
