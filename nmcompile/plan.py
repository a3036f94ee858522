"""What was measured and decided for every layer <-> plan.json (frozen, versioned, strict)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, SKIP, Pattern

PLAN_VERSION = 1
LOSS_QUANTITY = (
    "mean squared error added to the network's output (0..1 range) when only this layer takes the "
    "pattern, pruned one-shot, against the dense network's output on the calibration crops"
)


@dataclass(frozen=True)
class Choice:
    """One pattern that a layer could take, and what it would cost.

    Attributes:
        pattern: the N:M pattern.
        macs: multiply-accumulates left at the plan's reference size, all uses of the weight.
        latency_ms: measured on the target at the reference size, all uses; None if unmeasured.
            Of a pattern of channels both depend on the next layer: see measure_latency.
        loss: see LOSS_QUANTITY; None if unmeasured.
        kernel: the kernel that would run it.
    """

    pattern: Pattern
    macs: int
    latency_ms: float | None = None
    loss: float | None = None
    kernel: str = ""


@dataclass(frozen=True)
class Layer:
    """One weight tensor (a weight shared by several nodes is one layer with several uses).

    Attributes:
        name: the weight's parameter name in the model.
        op: conv2d, conv_transpose2d or linear.
        shape: (out, in/groups, kh, kw), whatever order the operator stores.
        groups: convolution groups.
        uses: how many nodes of the graph apply this weight.
        params: weights, bias not counted.
        macs: dense multiply-accumulates at the reference size, all uses.
        macs_formula: the same, symbolic in the input's N, H and W.
        activation_bytes: bytes written (fp32) at the reference size, all uses.
        choices: what it could be; the first is dense.
        pattern: what it is.
        reason: why.
        through: layers that all it gives passes through; if one of them is skipped, so may it be.
        repeats: layers each of which, if it is skipped, gives this one what it reads elsewhere too,
            in as many of its inputs as that layer has outputs: so many it need not read.
    """

    name: str
    op: str
    shape: tuple[int, int, int, int]
    groups: int
    uses: int
    params: int
    macs: int
    macs_formula: str
    activation_bytes: int
    choices: tuple[Choice, ...] = ()
    pattern: Pattern = DENSE
    reason: str = ""
    through: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()

    @property
    def chosen(self) -> Choice:
        """The choice whose pattern the layer takes."""
        for choice in self.choices:
            if choice.pattern == self.pattern:
                return choice
        raise NmcompileError(
            f"plan: layer {self.name} takes {self.pattern}, which is not among its choices "
            f"({', '.join(str(c.pattern) for c in self.choices) or 'none'})"
        )

    def obstacle(self, pattern: Pattern) -> str | None:
        """Why the layer cannot take that pattern, or None."""
        outputs, inputs, height, width = self.shape
        return pattern.obstacle(outputs // max(self.groups, 1), inputs, height * width)


@dataclass(frozen=True)
class Plan:
    """The pattern of every layer, and the measurements it rests on.

    Attributes:
        reference_size: (H, W) of the input at which MACs and latencies are stated, batch 1.
        target: the backend that latencies were measured on.
        budget: the budget as the user wrote it.
        layers: in execution order.
        notes: what a reader must know (what was assumed, what could not be done).
    """

    reference_size: tuple[int, int]
    target: str
    layers: tuple[Layer, ...]
    budget: str = ""
    notes: tuple[str, ...] = ()
    loss_quantity: str = LOSS_QUANTITY
    version: int = PLAN_VERSION

    def layer(self, name: str) -> Layer:
        """The layer of that parameter name; KeyError if there is none."""
        return {layer.name: layer for layer in self.layers}[name]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers with their chosen patterns."""
        return sum(layer.chosen.macs for layer in self.layers)

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of all layers when dense."""
        return sum(layer.macs for layer in self.layers)

    @property
    def loss(self) -> float | None:
        """Sum of the chosen patterns' losses, or None where one is unmeasured.

        A layer that is skipped because one behind it is loses nothing more.
        """
        skipped = {layer.name for layer in self.layers if layer.pattern == SKIP}
        losses = [
            layer.chosen.loss
            for layer in self.layers
            if not layer.pattern.is_dense
            and not (layer.name in skipped and skipped.intersection(layer.through))
        ]
        return None if any(x is None for x in losses) else float(sum(x or 0.0 for x in losses))

    def with_layers(self, layers: Iterable[Layer]) -> Plan:
        """The same plan with other layers."""
        return dataclasses.replace(self, layers=tuple(layers))

    def assign(self, patterns: dict[str, Pattern], reasons: dict[str, str]) -> Plan:
        """The same plan with new patterns (and reasons) for the layers named."""
        return self.with_layers(
            dataclasses.replace(
                layer,
                pattern=patterns.get(layer.name, layer.pattern),
                reason=reasons.get(layer.name, layer.reason),
            )
            for layer in self.layers
        )

    def to_json(self) -> str:
        """The plan as an indented JSON document."""
        return json.dumps(_plain(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "plan") -> Plan:
        """Reads what to_json wrote; raises NmcompileError that names the fault."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise NmcompileError(f"{source}: not JSON ({error})") from None
        if not isinstance(data, dict) or data.get("version") != PLAN_VERSION:
            found = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise NmcompileError(
                f"{source}: plan version {found!r}, this nmcompile reads version {PLAN_VERSION}; "
                "make it anew with --save-plan"
            )
        fields = _known(cls, data, source)
        layers = tuple(_layer(item, source) for item in _list(data, "layers", source))
        names = [layer.name for layer in layers]
        if twice := [name for name in names if names.count(name) > 1]:
            raise NmcompileError(f"{source}: layer {twice[0]} is there twice; remove one")
        return cls(**{**fields, "layers": layers})

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads a plan file."""
        try:
            return cls.from_json(path.read_text(), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise NmcompileError(f"{path}: cannot read the plan ({error})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Pattern):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


# A field's annotation -> what JSON must hold there, and whether it does.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda x: type(x) is int),
    "str": ("text", lambda x: isinstance(x, str)),
    "Pattern": ("a pattern such as '2:4'", lambda x: isinstance(x, str)),
    "float | None": ("a number or null", lambda x: x is None or type(x) in (int, float)),
    "tuple[int, int]": ("two whole numbers", lambda x: _are_ints(x, 2)),
    "tuple[int, int, int, int]": ("four whole numbers", lambda x: _are_ints(x, 4)),
    "tuple[str, ...]": ("a list of texts", lambda x: isinstance(x, list) and _are_texts(x)),
}


def _are_ints(value: Any, count: int) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == [int] * count


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(item, str) for item in values)


def _known(cls: type, data: dict[str, Any], source: str) -> dict[str, Any]:
    """The object's values by field, their kinds checked; lists become tuples."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    missing = sorted(
        name for name, f in fields.items() if name not in data and f.default is dataclasses.MISSING
    )
    if unknown or missing:
        fault = f"unknown key {unknown[0]!r}" if unknown else f"missing key {missing[0]!r}"
        raise NmcompileError(f"{source}: {fault} in {cls.__name__.lower()}")
    for name, value in data.items():
        wanted, fits = _KINDS.get(str(fields[name].type), ("", lambda _: True))
        if not fits(value):
            raise NmcompileError(f"{source}: {name!r} must be {wanted}, found {value!r}")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}


def _list(data: dict[str, Any], key: str, source: str) -> list[dict[str, Any]]:
    items = data.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise NmcompileError(f"{source}: {key!r} must be a list of objects")
    return items


def _choice(data: dict[str, Any], source: str) -> Choice:
    fields = _known(Choice, data, source)
    return Choice(**{**fields, "pattern": Pattern.parse(fields["pattern"])})


def _layer(data: dict[str, Any], source: str) -> Layer:
    fields = _known(Layer, data, source)
    fields["choices"] = tuple(_choice(item, source) for item in _list(data, "choices", source))
    if "pattern" in fields:
        fields["pattern"] = Pattern.parse(fields["pattern"])
    layer = Layer(**fields)
    _ = layer.chosen
    return layer
