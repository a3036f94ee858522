"""A receipt -> what was gained, what was not, and what is wrong, in plain sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nmcompile.plan import Plan
from nmcompile.report import numbers
from nmcompile.report.facts import part

_SAME_SPEED = 0.03  # whole-network timings of one binary differ by that much from run to run
_SAME_QUALITY = 0.005  # below this, two decimals of a dB show nothing


@dataclass(frozen=True)
class Verdict:
    """One headline, and the sentences it stands on; alarms are faults of the engine itself."""

    headline: str
    gained: tuple[str, ...]
    not_gained: tuple[str, ...]
    alarms: tuple[str, ...]


def verdict(plan: Plan, receipt: dict[str, Any]) -> Verdict:
    """Sums a compile up without flattering it.

    Where the receipt notes that ONNX Runtime's dense kernels run the whole network, a difference
    in time is not called a gain, whatever its size: the zeros cannot have caused it.
    """
    parts = [_arithmetic(plan, receipt), _quality(receipt), _speed(receipt)]
    sentences = [*parts, _weights(receipt), _dense_layers(plan), _reverted(receipt)]
    return Verdict(
        headline=", ".join(short for short, _, _ in parts),
        gained=tuple(long for _, good, long in sentences if good and long),
        not_gained=tuple(long for _, good, long in sentences if not good and long),
        alarms=tuple(_alarms(receipt)),
    )


def ratio(after: float | None, before: float | None) -> float | None:
    """after / before, or None where either is unknown or there was nothing before."""
    if after is None or not before:
        return None
    return after / before


def _arithmetic(plan: Plan, receipt: dict[str, Any]) -> tuple[str, bool, str]:
    macs = part(receipt, "macs")
    before, after = macs.get("dense"), macs.get("compiled")
    left = ratio(after, before)
    if left is None:
        return "Arithmetic not measured", False, "The multiply-accumulates were not counted."
    if left >= 1:
        dense = all(layer.pattern.is_dense for layer in plan.layers) and not receipt.get("routing")
        why = ": every layer is dense" if dense else ""
        return "No arithmetic saved", False, f"No multiply-accumulate saved{why}."
    fewer = f"{numbers.percent(1 - left)} fewer multiply-accumulates"
    amounts = numbers.change(numbers.count, before, after)
    return fewer, True, f"{fewer}: {amounts} for an input of {numbers.sizes(plan.reference_size)}."


def _quality(receipt: dict[str, Any]) -> tuple[str, bool, str]:
    quality = part(receipt, "quality")
    drop = quality.get("drop_db")
    if drop is None or numbers.missing(drop):
        return "quality not measured", False, "The quality was not measured."
    before, after = (part(quality, key).get("psnr") for key in ("dense", "compiled"))
    amounts = numbers.change(numbers.decibel, before, after)
    if abs(drop) < _SAME_QUALITY:
        return "no quality lost", True, f"The same PSNR to two decimals: {amounts}."
    words = f"{numbers.decibel(abs(drop))} {'lost' if drop > 0 else 'gained'}"
    return words, drop < 0, f"{words} (PSNR): {amounts}."


def _speed(receipt: dict[str, Any]) -> tuple[str, bool, str]:
    time = part(receipt, "engine_ms")
    gain = time.get("ratio")
    if gain is None or numbers.missing(gain):
        return "speed not measured", False, "The speed was not measured."
    amounts = numbers.change(numbers.milliseconds, time.get("dense"), time.get("compiled"))
    where = f" on {numbers.sizes(time['size'])}" if time.get("size") else ""
    amounts = f"{amounts} for the whole network{where} ({numbers.times(gain)})"
    if gain < 1 - _SAME_SPEED:
        return f"slower ({numbers.times(gain)})", False, f"Slower: {amounts}."
    dense = receipt.get("note") and receipt.get("executor") == "onnxruntime"
    if dense or gain < 1 + _SAME_SPEED:
        return "no faster", False, f"Not faster: {amounts}."
    return f"{numbers.times(gain)} as fast", True, f"Faster: {amounts}."


def _weights(receipt: dict[str, Any]) -> tuple[str, bool, str]:
    params = part(receipt, "params")
    before, after = params.get("dense"), params.get("kept")
    left = ratio(after, before)
    if left is None or left >= 1:
        return "", False, ""
    fewer = f"{numbers.percent(1 - left)} of the weights are zero"
    return "", True, f"{fewer}: {numbers.change(numbers.count, before, after)} weights kept."


def _dense_layers(plan: Plan) -> tuple[str, bool, str]:
    dense = sum(layer.pattern.is_dense for layer in plan.layers)
    if not 0 < dense < len(plan.layers):
        return "", False, ""
    verb = "stays" if dense == 1 else "stay"
    return "", False, f"{dense} of {len(plan.layers)} layers {verb} dense; the table says why."


def _reverted(receipt: dict[str, Any]) -> tuple[str, bool, str]:
    """Layers that were pruned and for which TensorRT took a dense kernel."""
    names = part(receipt, "tensorrt")["reverted"]
    if not names:
        return "", False, ""
    verb = "layer runs" if len(names) == 1 else "layers run"
    return "", False, f"{len(names)} pruned {verb} dense in TensorRT: {', '.join(names)}."


def _alarms(receipt: dict[str, Any]) -> list[str]:
    alarms = [
        f"Layer {layer.get('name')} does not keep its pattern {layer.get('pattern')}."
        for layer in receipt.get("layers") or []
        if layer.get("valid") is False
    ]
    check = part(receipt, "verification")
    found, allowed = check.get("max_abs_difference"), check.get("tolerance")
    # `not <=` rather than `>`: NaN is an alarm, too.
    if found is not None and allowed is not None and not found <= allowed:
        alarms.append(
            f"The engine differs from the pruned network by {numbers.tiny(found)}, "
            f"more than {numbers.tiny(allowed)}."
        )
    return alarms
