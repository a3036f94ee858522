"""A manifest, a plan and a receipt -> facts and tables that a terminal or a file shows whole."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from nmcompile.engine import Manifest
from nmcompile.plan import Layer, Plan
from nmcompile.report import numbers
from nmcompile.report.facts import Facts, part, tensorrt_line

_UNLIMITED = 100_000
_NUMBERS = ("MACs", "latency", "loss")
_PROSE = ("status", "reason")

Rows = list[tuple[str, str]]


def show(
    manifest: Manifest | None,
    plan: Plan | None,
    receipt: dict[str, Any] | None,
    candidates: bool,
    here: dict[str, Any] | None = None,
) -> None:
    """Prints all there is to stdout.

    Args:
        manifest: of the engine, if it is one.
        plan: its plan, or the plan alone.
        receipt: its receipt.
        candidates: whether to add every pattern that was weighed.
        here: what runs on this machine: `isa`, `cpu`, `kernels` (layer -> kernel).
    """
    # What is no terminal has no width: a table there has one line per row.
    width = None if sys.stdout.isatty() else _UNLIMITED
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    rows = [
        *_of_manifest(manifest),
        *_of_here(here),
        *_of_plan(plan),
        *_of_receipt(receipt or {}, plan),
    ]
    indent = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        console.print(f"{name:{indent}}  {value}", soft_wrap=True)
    if plan is None:
        console.print("the engine holds no plan: nothing is known of its layers", soft_wrap=True)
        return
    _print(console, layer_table(plan, receipt, here))
    if candidates:
        _print(console, candidate_table(plan))


def layer_table(
    plan: Plan, receipt: dict[str, Any] | None, here: dict[str, Any] | None = None
) -> Table:
    """One row per layer; what the receipt says of it goes before what the plan foresaw.

    The kernel is the one that runs on this machine, where that is known.
    """
    kernels = here["kernels"] if here else {}
    written = {row.get("name"): Facts(row) for row in (receipt or {}).get("layers") or ()}
    status = ["status"] if written else []
    table = _table("layer", "op", "shape", "pattern", *_NUMBERS, "kernel", *status, "reason")
    for layer in plan.layers:
        row = written.get(layer.name) or _foreseen(layer)
        kept = "" if row["valid"] in (True, None) else "PATTERN NOT KEPT; "
        table.add_row(
            layer.name,
            layer.op,
            numbers.sizes(layer.shape),
            str(layer.pattern),
            numbers.change(numbers.count, layer.macs, layer.chosen.macs),
            numbers.change(numbers.milliseconds, row["dense_ms"], row["chosen_ms"]),
            "-" if layer.pattern.is_dense else numbers.tiny(layer.chosen.loss),
            kernels.get(layer.name) or row["kernel"] or "-",
            *([f"{kept}{row['status'] or '-'}"] if written else []),
            layer.reason or "-",
        )
    return table


def candidate_table(plan: Plan) -> Table:
    """One row per layer and pattern; the chosen ones are marked."""
    table = _table("candidate of", "pattern", *_NUMBERS, "kernel", "chosen")
    for layer in plan.layers:
        for choice in layer.choices:
            table.add_row(
                layer.name,
                str(choice.pattern),
                numbers.count(choice.macs),
                numbers.milliseconds(choice.latency_ms),
                "-" if choice.pattern.is_dense else numbers.tiny(choice.loss),
                choice.kernel or "-",
                "chosen" if choice.pattern == layer.pattern else "",
            )
    return table


def _foreseen(layer: Layer) -> Facts:
    dense, chosen = layer.choices[0], layer.chosen
    return Facts(dense_ms=dense.latency_ms, chosen_ms=chosen.latency_ms, kernel=chosen.kernel)


def _of_manifest(manifest: Manifest | None) -> Rows:
    if manifest is None:
        return []
    bytes_ = sum(part["bytes"] for part in manifest.parts.values())
    larger = "" if manifest.scale == 1 else f", output {manifest.scale} times the size"
    halo = f"its surroundings, {manifest.halo} pixels of the input around"
    if manifest.halo is None:
        halo = f"the whole image ({manifest.halo_reason or 'reason unknown'})"
    return [
        ("made by", manifest.created_by or "unknown"),
        ("target", f"{manifest.target}, run by {manifest.executor}"),
        ("task", manifest.task),
        ("image", f"{manifest.channels} channels, 0..{manifest.value_range:g}{larger}"),
        ("input size", _extents(manifest)),
        ("a pixel sees", halo),
        *(("extra input", f"{extra.name} = {extra.value:g}") for extra in manifest.extra_inputs),
        ("parts", f"{len(manifest.parts)} files, {bytes_ / 1e6:.2f} MB, every SHA-256 as written"),
    ]


def _of_here(here: dict[str, Any] | None) -> Rows:
    return [("kernels here", f"{here['isa']}, {here['cpu']}")] if here else []


def _extents(manifest: Manifest) -> str:
    if manifest.fixed_size:
        return f"{numbers.sizes(manifest.fixed_size)} only"
    step = "" if manifest.multiple == 1 else f", padded to multiples of {manifest.multiple}"
    return f"at least {numbers.sizes((manifest.minimum, manifest.minimum))}{step}"


def _of_plan(plan: Plan | None) -> Rows:
    if plan is None:
        return []
    left = numbers.percent(plan.macs / plan.dense_macs if plan.dense_macs else None)
    macs = numbers.change(numbers.count, plan.dense_macs, plan.macs)
    weights = sum(layer.params for layer in plan.layers)
    kept = sum(_kept(layer) for layer in plan.layers)
    dense = sum(layer.pattern.is_dense for layer in plan.layers)
    size = numbers.sizes(plan.reference_size)
    return [
        ("budget", plan.budget or "none"),
        ("layers", f"{len(plan.layers)}, {dense} of them dense"),
        ("MACs", f"{macs} ({left}) at {size}, planned for {plan.target}"),
        ("weights", f"{numbers.change(numbers.count, weights, kept)}, biases not counted"),
        ("loss", f"{numbers.tiny(plan.loss)} in sum: {plan.loss_quantity}"),
        *(("note", note) for note in plan.notes),
    ]


def _kept(layer: Layer) -> int:
    inner = layer.shape[1]
    return layer.params * layer.pattern.kept(inner) // inner


def _of_receipt(receipt: dict[str, Any], plan: Plan | None) -> Rows:
    if not receipt:
        return []
    said = plan.notes if plan else ()
    assumed = [line for line in receipt.get("assumed") or () if line not in said]
    time, quality = part(receipt, "engine_ms"), part(receipt, "quality")
    dense, ours = part(quality, "dense"), part(quality, "compiled")
    times = numbers.change(numbers.milliseconds, time["dense"], time["compiled"])
    ratio = "" if time["ratio"] is None else f" ({numbers.times(time['ratio'])})"
    machine = receipt.get("gpu") or receipt.get("cpu") or "unknown processor"
    images = f", {quality['where']}" if quality["where"] else ""
    return [
        ("time", f"{times}{ratio} for the whole network, {machine}"),
        ("PSNR", numbers.change(numbers.decibel, dense["psnr"], ours["psnr"]) + images),
        ("SSIM", numbers.change(numbers.similarity, dense["ssim"], ours["ssim"]) + images),
        *(("assumed", line) for line in assumed),
        *([("TensorRT", line)] if (line := tensorrt_line(receipt)) else []),
        *([("note", receipt["note"])] if receipt.get("note") else []),
        *(("region", _region(region)) for region in receipt.get("regions") or ()),
    ]


def _region(region: dict[str, Any]) -> str:
    """Where a region is written, and what it does."""
    found = Facts(region)
    operations = ", ".join(f"{n} {name}" for name, n in (found["operations"] or {}).items())
    return f"{found['part']}, run by {found['runner']}: {operations}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        side: Any = "right" if heading in _NUMBERS else "left"
        table.add_column(heading, justify=side, no_wrap=heading not in _PROSE, overflow="fold")
    return table


def _print(console: Console, table: Table) -> None:
    """Prints a table, or a block per row where it is too wide.

    rich would shrink columns to nothing, and the reader would not know what is missing.
    """
    console.print()
    unlimited = console.options.update(max_width=_UNLIMITED)
    if Measurement.get(console, unlimited, table).minimum <= console.width:
        console.print(table)
        return
    columns = [(str(column.header), list(column.cells)) for column in table.columns]
    for cells in zip(*(cells for _, cells in columns), strict=True):
        console.print(str(cells[0]), style="bold", soft_wrap=True)
        for (heading, _), cell in zip(columns[1:], cells[1:], strict=True):
            console.print(f"  {heading:8}{cell}", soft_wrap=True)
