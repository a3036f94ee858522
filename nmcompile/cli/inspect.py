"""An engine or a plan -> its layers: pattern, cost, kernel, and the reason for each choice.

With `--json`, one document: `manifest`, `plan` and `receipt` as they were written, and `here`, what
our kernels do with it on this machine (`isa`, `cpu`, `kernels`: layer -> kernel); null for what
there is none of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmcompile.errors import NmcompileError

if TYPE_CHECKING:
    from nmcompile.engine import Manifest
    from nmcompile.plan import Plan

_PLAN = "plan.json"
_RECEIPT = "receipt.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `nmcompile inspect`."""
    parser.add_argument("path", type=Path, metavar="ENGINE|PLAN", help="an engine or a plan file")
    parser.add_argument(
        "-v", "--candidates", action="store_true", help="show every pattern that was weighed, too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(args: argparse.Namespace) -> int:
    """Prints what the engine or the plan holds."""
    manifest, plan, receipt = read(args.path)
    here = on_this_machine(args.path, manifest, plan)
    if args.json:
        document = {
            "manifest": dataclasses.asdict(manifest) if manifest else None,
            "plan": json.loads(plan.to_json()) if plan else None,
            "receipt": receipt,
            "here": here,
        }
        print(json.dumps(document, indent=2))
        return 0
    from nmcompile.report.terminal import show

    show(manifest, plan, receipt, args.candidates, here)
    return 0


def read(path: Path) -> tuple[Manifest | None, Plan | None, dict[str, Any] | None]:
    """Reads an engine (every part's hash is checked) or a plan file.

    Raises:
        NmcompileError: neither of them, damaged, or of another version.
    """
    from nmcompile.engine import MANIFEST, read_manifest
    from nmcompile.plan import Plan

    if path.is_dir():
        manifest = read_manifest(path)
        plan, receipt = path / _PLAN, path / _RECEIPT
        return (
            manifest,
            Plan.load(plan) if plan.is_file() else None,
            _receipt(receipt) if receipt.is_file() else None,
        )
    if not path.exists():
        raise NmcompileError(f"{path} does not exist; give an engine folder or a plan file")
    if path.name in (MANIFEST, _RECEIPT):
        raise NmcompileError(f"{path} is one part of an engine; give its folder {path.parent}")
    if not _may_be_json(path):
        raise NmcompileError(
            f"{path} is neither an engine (a folder with {MANIFEST}) nor a plan (JSON, as "
            "--save-plan writes it)"
        )
    return None, Plan.load(path), None


def on_this_machine(
    path: Path, manifest: Manifest | None, plan: Plan | None
) -> dict[str, Any] | None:
    """The kernels that an engine takes here, which need not be those it was timed with.

    None if our kernels do not run it. Raises NmcompileError if they cannot be loaded.
    """
    if manifest is None or manifest.executor not in ("native", "regions"):
        return None
    from nmcompile.isa import CAPS
    from nmcompile.runtime import load, native

    isa = load(path, threads=1, check_parts=False).isa
    layers = plan.layers if plan else ()
    names = {layer.name: layer.chosen.kernel for layer in layers}
    kernels = {}
    for layer, kernel in names.items():
        form, _, family = kernel.rpartition(".")
        kernels[layer] = f"{form}.{isa}" if family in CAPS else kernel
    return {"isa": isa, "cpu": native.cpu_name(), "kernels": kernels}


def _may_be_json(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(64).lstrip().startswith(b"{")
    except OSError as error:
        raise NmcompileError(f"{path}: cannot be read ({error.strerror})") from None


def _receipt(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NmcompileError(f"{path} is damaged ({error}); compile the engine again") from None
    if not isinstance(found, dict):
        raise NmcompileError(f"{path} is damaged (not a JSON object); compile the engine again")
    return found
