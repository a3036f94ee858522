"""What TensorRT says of an engine (build log, inspector, profile) -> facts, whatever its major."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nmcompile.errors import NmcompileError

_ELIGIBLE = re.compile(r"\(Sparsity\) Layers eligible for sparse math:(.*)")
_PICKED = re.compile(
    r"\(Sparsity\) TRT inference plan picked sparse implementation for layers:(.*)"
)
# What joins the names of layers that were fused: `a + b`, `PWN(a, b)`, `{ForeignNode[a...b]}`.
_JOINTS = re.compile(r" \+ | \|\| |, |\.\.\.|[(){}\[\]]")
_METADATA = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_AGAIN = "please report it with the engine's TensorRT version"


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: TensorRT's, of all that was fused into it.
        kind: its LayerType.
        tactic: the kernel; "" where it has none.
        nodes: names of the ONNX nodes that it computes, as far as TensorRT tells.
        types: data type and format of every input and output.
    """

    name: str
    kind: str = ""
    tactic: str = ""
    nodes: frozenset[str] = frozenset()
    types: tuple[str, ...] = ()

    @property
    def computes(self) -> bool:
        """Whether it does more than to copy a tensor into another format."""
        return self.kind not in ("Reformat", "NoOp")


@dataclass(frozen=True)
class Inspected:
    """What the engine inspector says.

    Attributes:
        layers: in execution order.
        tensors: names of inputs and outputs.
    """

    layers: tuple[EngineLayer, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class SparsityLog:
    """What the build log says; None where it says nothing.

    Attributes:
        eligible: ONNX nodes whose weights TensorRT found to be 2:4.
        picked: those for which a sparse tactic was fastest.
    """

    eligible: frozenset[str] | None = None
    picked: frozenset[str] | None = None


def node_names(layer: str) -> frozenset[str]:
    """The names that a layer's name was put together from.

    `conv1 + PWN(PWN(sigmoid), mul)` gives conv1, sigmoid and mul (and PWN, which no node is).
    """
    return frozenset(filter(None, (part.strip() for part in _JOINTS.split(layer))))


def read_log(lines: Iterable[str]) -> SparsityLog:
    """Reads the messages of a build, with or without the prefixes that trtexec writes.

    A log of several builds counts as one.
    """
    found: dict[re.Pattern[str], frozenset[str] | None] = {_ELIGIBLE: None, _PICKED: None}
    for line in lines:
        for pattern, names in found.items():
            if said := pattern.search(line):
                found[pattern] = (names or frozenset()) | node_names(said[1])
    return SparsityLog(found[_ELIGIBLE], found[_PICKED])


def read_inspector(text: str) -> Inspected:
    """Reads the engine inspector's JSON of TensorRT 10 or 11, as DETAILED profiling gives it.

    Keys that are not known are passed over; so is the schema's difference: 10 lists `Bindings` and
    joins `Format/Datatype`, 11 lists `I/O Tensors` and tells `Format` and `DataType` apart.

    Raises:
        NmcompileError: not JSON, no layers, or layers without details.
    """
    data = _parsed(text, "engine inspector")
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(layers, list):
        raise NmcompileError(f"TensorRT's engine inspector gives no list of 'Layers'; {_AGAIN}")
    if any(isinstance(layer, str) for layer in layers):
        raise NmcompileError(
            "TensorRT's engine inspector gives names alone; build the engine with "
            "ProfilingVerbosity.DETAILED (trtexec --profilingVerbosity=detailed)"
        )
    named = [layer for layer in layers if isinstance(layer, dict) and _text(layer, "Name")]
    if len(named) != len(layers):
        raise NmcompileError(f"TensorRT's engine inspector gives layers without a Name; {_AGAIN}")
    tensors = data.get("I/O Tensors", data.get("Bindings")) or []
    names = [item.get("Name") if isinstance(item, dict) else item for item in tensors]
    return Inspected(tuple(map(_layer, named)), tuple(str(name) for name in names))


def read_profile(text: str) -> dict[str, float]:
    """Layer -> median milliseconds, of a profile as trtexec's --exportProfile writes it.

    Raises:
        NmcompileError: it is not such a profile.
    """
    data = _parsed(text, "profile")
    rows = data if isinstance(data, list) else []
    named = [row for row in rows if isinstance(row, dict) and "name" in row]  # the first counts
    if not named or not all(isinstance(row.get("medianMs"), int | float) for row in named):
        raise NmcompileError(f"TensorRT's profile gives no layer's medianMs; {_AGAIN}")
    found: dict[str, float] = {}
    for row in named:  # a layer may come several times
        found[row["name"]] = found.get(row["name"], 0.0) + float(row["medianMs"])
    return found


def _layer(data: dict[str, Any]) -> EngineLayer:
    name = _text(data, "Name")
    metadata = _METADATA.findall(_text(data, "Metadata"))
    sides = [data.get(side) for side in ("Inputs", "Outputs")]
    tensors = [item for side in sides if isinstance(side, list) for item in side]
    return EngineLayer(
        name,
        _text(data, "LayerType"),
        _text(data, "TacticName"),
        node_names(name) | frozenset(metadata),
        tuple(_type(item) for item in tensors if isinstance(item, dict)),
    )


def _type(tensor: dict[str, Any]) -> str:
    joined = _text(tensor, "Format/Datatype") or _text(tensor, "Format/DataType")
    return joined or f"{_text(tensor, 'DataType')} {_text(tensor, 'Format')}".strip()


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise NmcompileError(f"TensorRT's {what} is not JSON ({error}); {_AGAIN}") from None
