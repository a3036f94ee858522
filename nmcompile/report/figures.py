"""A plan -> two pictures with a row per layer: what each pattern loses, and the MACs left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nmcompile.pattern import Pattern
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.report import canvas, numbers
from nmcompile.report.canvas import Canvas

_GAP = 1.5  # pixels left free around a cell
_BAR_WIDTH = 190
_BAR_NOTE_WIDTH = 120


@dataclass(frozen=True)
class HeatMap:
    """A picture of losses, what its palest and strongest colour stand for, and if any is hollow."""

    svg: str
    low: float | None
    high: float | None
    unmeasured: bool


def loss_map(plan: Plan) -> HeatMap:
    """Layers x patterns, coloured by the logarithm of the loss; the chosen pattern is framed."""
    patterns = _patterns(plan)
    losses = [choice.loss or 0.0 for layer in plan.layers for choice in layer.choices]
    positive = [loss for loss in losses if 0 < loss < math.inf]
    low, high = (min(positive), max(positive)) if positive else (None, None)
    cell = 34 if len(patterns) <= 8 else 25
    names = [layer.name for layer in plan.layers]
    picture = Canvas(names, len(patterns) * cell, "Loss of every candidate pattern in each layer")
    for column, pattern in enumerate(patterns):
        picture.heading((column + 0.5) * cell, str(pattern), cell)
    for row, layer in enumerate(plan.layers):
        choices = {choice.pattern: choice for choice in layer.choices}
        for column, pattern in enumerate(patterns):
            choice = choices.get(pattern)
            place, width = column * cell + _GAP, cell - 2 * _GAP
            style = _style(choice, low, high)
            picture.box(row, place, width, _words(layer, pattern, choice), **style)
            if pattern == layer.pattern:
                picture.frame(row, place, width)
    unknown = any(
        numbers.missing(choice.loss)
        for layer in plan.layers
        for choice in layer.choices
        if not choice.pattern.is_dense
    )
    return HeatMap(picture.svg(), low, high, unknown)


def mac_bars(plan: Plan) -> str:
    """A bar for each layer: multiply-accumulates when dense, and over it those that are left."""
    from matplotlib.ticker import MaxNLocator

    most = max((layer.macs for layer in plan.layers), default=0) or 1
    names = [layer.name for layer in plan.layers]
    label = "Multiply-accumulates of each layer, dense and compiled"
    picture = Canvas(names, _BAR_WIDTH + _BAR_NOTE_WIDTH, label)
    for tick in MaxNLocator(3).tick_values(0, most):
        if tick <= most:
            picture.tick(tick / most * _BAR_WIDTH, numbers.count(tick))
    for row, layer in enumerate(plan.layers):
        left = layer.chosen.macs
        words = f"{layer.name}, {layer.pattern}: {numbers.change(numbers.count, layer.macs, left)}"
        picture.box(row, 0, layer.macs / most * _BAR_WIDTH, words, facecolor=canvas.DENSE)
        picture.box(row, 0, left / most * _BAR_WIDTH, words, facecolor=canvas.ACCENT)
        share = numbers.percent(left / layer.macs if layer.macs else None)
        end = layer.macs / most * _BAR_WIDTH + 6
        picture.note(row, end, f"{share} of {numbers.count(layer.macs)}")
    return picture.svg()


def _patterns(plan: Plan) -> list[Pattern]:
    """Every pattern that some layer could take: dense first, then sparser and sparser."""
    found = {choice.pattern for layer in plan.layers for choice in layer.choices}
    return sorted(found, key=lambda p: (-p.n / p.m, p.v, p.m))


def _style(choice: Choice | None, low: float | None, high: float | None) -> dict[str, Any]:
    """How a cell is painted: hatched if impossible, hollow if unmeasured, else by its loss."""
    if choice is None:
        return {"facecolor": canvas.HOLE, "edgecolor": canvas.HATCH, "hatch": "//////"}
    if choice.pattern.is_dense:
        return {"facecolor": canvas.HOLE}
    if numbers.missing(choice.loss):
        return {"facecolor": canvas.CARD, "edgecolor": canvas.LINE}
    if low is None or high is None or not choice.loss or choice.loss <= low:
        return {"facecolor": canvas.HEAT[0]}
    if choice.loss >= high:
        return {"facecolor": canvas.HEAT[-1]}
    place = math.log(choice.loss / low) / math.log(high / low)
    return {"facecolor": canvas.HEAT[int(place * canvas.HEAT_STEPS)]}


def _words(layer: Layer, pattern: Pattern, choice: Choice | None) -> str:
    """What a cell says under the pointer."""
    title = f"{layer.name}, {pattern}"
    if choice is None:
        obstacle = layer.obstacle(pattern)
        return f"{title}: cannot be taken ({obstacle or layer.reason or 'not tried'})"
    loss = "" if pattern.is_dense else f"loss {numbers.tiny(choice.loss)}; "
    time = "" if choice.latency_ms is None else f", {numbers.milliseconds(choice.latency_ms)}"
    chosen = f". Chosen: {layer.reason}" if pattern == layer.pattern and layer.reason else ""
    return f"{title}: {loss}{numbers.count(choice.macs)} MACs{time}{chosen}"
