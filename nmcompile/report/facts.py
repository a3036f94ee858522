"""A receipt's JSON objects -> the same, with None for whatever they lack."""

from __future__ import annotations

from typing import Any


class Facts(dict[str, Any]):
    """A JSON object in which what is absent is null: neither was measured."""

    def __missing__(self, key: str) -> None:
        return None


def part(facts: dict[str, Any], key: str) -> Facts:
    """A section of the receipt; empty where it is null or absent."""
    return Facts(facts.get(key) or {})


def tensorrt_line(receipt: dict[str, Any]) -> str:
    """How many of the pruned layers really run sparse in TensorRT; "" for other engines."""
    facts = part(receipt, "tensorrt")
    if not facts:
        return ""
    reverted = facts["reverted"] or []
    line = (
        f"{facts['version']}, {facts['pruned']} layers pruned: {facts['sparse_tactics']} in sparse "
        f"tactics, {facts['plugins']} in our plugin, {len(reverted)} run dense"
    )
    return f"{line}: {', '.join(reverted)}" if reverted else line
