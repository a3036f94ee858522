"""A receipt -> the table that a compilation ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nmcompile.report.facts import tensorrt_line


def print_summary(output: Path, receipt: dict[str, Any]) -> None:
    """Prints cost and quality, dense against compiled, and what the user must know."""
    console = Console(highlight=False)
    table = Table(title=f"{receipt['model']} -> {output}", title_justify="left")
    for heading in ("", "dense", "compiled", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for row in _rows(receipt):
        table.add_row(*row)
    console.print(table)
    if routing := receipt["routing"]:
        _print_levels(console, routing)
    precision = receipt["precision"]
    console.print(f"precision {precision['chosen']}: {precision['why']}")
    if training := receipt["training"]:
        console.print(
            f"fine-tuned: {training['steps']} steps, {training['seconds']:.0f} s, validation "
            f"{_decibels(training['start_psnr'])} -> {_decibels(training['best_psnr'])} dB "
            f"(step {training['best_step']})"
            f"{'; ' + training['masks'] if training['masks'] else ''}"
        )
    if said := tensorrt_line(receipt):
        console.print(f"TensorRT {said}")
    if receipt["note"]:
        console.print(f"[bold]note: {receipt['note']}[/bold]")
    console.print(f"every layer: nmcompile inspect {output}    pictures: {output / 'report.html'}")


def _print_levels(console: Console, routing: dict[str, Any]) -> None:
    """Each level alone, and how much of the validation images it takes at the default effort."""
    table = Table(title="levels, each alone", title_justify="left")
    for heading in ("level", "budget", "MACs", "time", "PSNR", "of the pixels"):
        table.add_column(heading, justify="left" if heading == "budget" else "right")
    for number, level in enumerate(routing["levels"]):
        table.add_row(
            str(number),
            level["budget"],
            f"{level['cost']:.0%}",
            f"{level['ms']:.1f} ms",
            f"{level['psnr']:.2f} dB",
            f"{level['share']:.0%}",
        )
    console.print(table)
    size = f" of {routing['tile']} pixels" if routing["tile"] else ""
    console.print(
        f"a level for each {routing['by']}{size}, effort {routing['effort']:g}: "
        f"{routing['macs']:.0%} of the dense MACs on the validation images, head and overlap "
        "included"
    )


def _where(receipt: dict[str, Any]) -> str:
    return receipt["gpu"] or f"{receipt['threads']} threads"


def _decibels(psnr: float | None) -> str:
    """The receipt has null where images are equal to the last bit, or no numbers."""
    return "-" if psnr is None else f"{psnr:.2f}"


def _rows(receipt: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    macs, params, quality = receipt["macs"], receipt["params"], receipt["quality"]
    timed, dense, compiled = receipt["engine_ms"], quality["dense"], quality["compiled"]
    height, width = receipt["reference_size"]
    return [
        (
            f"GMACs at {height}x{width}",
            f"{macs['dense'] / 1e9:.2f}",
            f"{macs['compiled'] / 1e9:.2f}",
            f"{macs['compiled'] / macs['dense']:.0%} left",
        ),
        (
            "weights",
            f"{params['dense']:,}",
            f"{params['kept']:,}",
            f"{params['kept'] / params['dense']:.0%} left",
        ),
        (
            f"time, {_where(receipt)} (dense: {receipt['compared_with']})",
            f"{timed['dense']:.1f} ms",
            f"{timed['compiled']:.1f} ms",
            f"{timed['ratio']:.2f}x",
        ),
        (
            f"PSNR, {receipt['task']}",
            f"{dense['psnr']:.2f} dB",
            f"{compiled['psnr']:.2f} dB",
            f"{compiled['psnr'] - dense['psnr']:+.2f} dB",
        ),
        (
            f"SSIM, {quality['images']} images",
            f"{dense['ssim']:.4f}",
            f"{compiled['ssim']:.4f}",
            f"{compiled['ssim'] - dense['ssim']:+.4f}",
        ),
    ]
