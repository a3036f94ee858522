"""A plan, a receipt and example crops -> report.html: one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmcompile.plan import Plan
from nmcompile.report import crops, curve, figures, numbers
from nmcompile.report.canvas import HEAT_STEPS
from nmcompile.report.crops import Chosen, Example
from nmcompile.report.facts import Facts, part, tensorrt_line
from nmcompile.report.verdict import ratio, verdict

_TEMPLATE = "template.html"


@dataclass(frozen=True)
class Tile:
    """One key number: after, before, and (where it makes sense) the share that is left."""

    label: str
    after: str
    before: str
    share: float | None = None


@dataclass(frozen=True)
class Picture:
    """One crop on the page."""

    caption: str
    source: str


def write_report(
    path: Path,
    plan: Plan,
    receipt: dict[str, Any],
    examples: Sequence[Example],
    chosen: Chosen | None = None,
) -> None:
    """Writes the page that tells what was compiled, what it gained and what it cost.

    Args:
        path: where the page is written.
        plan: every layer's candidates and the one chosen.
        receipt: what was measured on the finished engine; null stands for `not measured`.
        examples: crops to show side by side; may be empty.
        chosen: of an input-adaptive engine, the levels of an image.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["n"] = numbers
    environment.filters["unbroken"] = numbers.unbroken
    page = environment.get_template(_TEMPLATE).render(
        **_view(plan, receipt, examples),
        chosen=chosen,
        chosen_picture=chosen and crops.data_uri(chosen.picture),
    )
    path.write_text(page, encoding="utf-8")


def _view(plan: Plan, receipt: dict[str, Any], examples: Sequence[Example]) -> dict[str, Any]:
    """All that the template shows, under the names it uses."""
    from markupsafe import Markup

    # The pictures go in as they are: matplotlib and the canvas have escaped what they wrote.
    heat, quality = figures.loss_map(plan), part(receipt, "quality")
    amplified, shown = _pictures(examples)
    training = part(receipt, "training")
    assumed = [line for line in receipt.get("assumed") or () if line not in plan.notes]
    losses = {layer.name: layer.chosen.loss for layer in plan.layers if not layer.pattern.is_dense}
    return {
        "plan": plan,
        "receipt": Facts(receipt),
        "verdict": verdict(plan, receipt),
        "tiles": _tiles(receipt),
        "assumed": assumed,
        "heat": heat,
        "heat_svg": Markup(heat.svg),
        "bars_svg": Markup(figures.mac_bars(plan)),
        "training": training,
        "routing": part(receipt, "routing"),
        "tensorrt_line": tensorrt_line(receipt),
        "training_svg": Markup(curve.training_curve(training["curve"] or [])),
        "heat_steps": range(1, HEAT_STEPS + 1),
        "losses": losses,
        "layers": [Facts(layer) for layer in receipt.get("layers") or ()],
        "totals": {key: part(receipt, key) for key in ("macs", "params", "engine_ms")},
        "quality": quality,
        "dense": part(quality, "dense"),
        "compiled": part(quality, "compiled"),
        "verification": part(receipt, "verification"),
        "seconds": part(receipt, "seconds"),
        "amplified": amplified,
        "examples": shown,
        "commands": _commands(plan, receipt),
    }


def _tiles(receipt: dict[str, Any]) -> list[Tile]:
    macs, params, time = (part(receipt, key) for key in ("macs", "params", "engine_ms"))
    quality = part(receipt, "quality")
    dense, compiled = part(quality, "dense"), part(quality, "compiled")
    write = numbers
    rows: list[tuple[str, Callable[[float | None], str], Any, Any, bool]] = [
        ("Multiply-accumulates", write.count, macs.get("dense"), macs.get("compiled"), True),
        ("Weights kept", write.count, params.get("dense"), params.get("kept"), True),
        ("Time", write.milliseconds, time.get("dense"), time.get("compiled"), True),
        ("PSNR", write.decibel, dense.get("psnr"), compiled.get("psnr"), False),
        ("SSIM", write.similarity, dense.get("ssim"), compiled.get("ssim"), False),
    ]
    return [
        Tile(label, text(after), text(before), ratio(after, before) if bar else None)
        for label, text, before, after, bar in rows
    ]


def _pictures(examples: Sequence[Example]) -> tuple[int, list[tuple[str, list[Picture]]]]:
    """The factor by which differences are amplified, and each example's name and pictures."""
    factor, differences = crops.differences(examples)
    shown = []
    for example, difference in zip(examples, differences, strict=True):
        height, width = example.clean.shape[:2]
        pictures = [
            ("degraded", crops.enlarged(example.degraded, height, width)),
            ("dense", example.dense),
            ("compiled", example.compiled),
            ("clean", example.clean),
            (f"|compiled − dense| × {factor}", difference),
        ]
        shown.append((example.name, [Picture(text, crops.data_uri(p)) for text, p in pictures]))
    return factor, shown


def _commands(plan: Plan, receipt: dict[str, Any]) -> list[str]:
    """How a reader can measure the same again."""
    height, width = part(receipt, "engine_ms").get("size") or plan.reference_size
    threads = f" --threads {receipt['threads']}" if receipt.get("threads") else ""
    task = f" --task {receipt['task']}" if receipt.get("task") else ""
    return [
        f"nmcompile bench ENGINE --size {height}x{width}{threads}",
        f"nmcompile eval ENGINE --data IMAGES{task}",
        "nmcompile inspect ENGINE --candidates",
    ]
