"""An engine's regions.json + named arrays -> the output, libnmk and ONNX Runtime taking turns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError
from nmcompile.runtime.executor import OrtExecutor, load_native

REGIONS = "regions.json"
_VERSION = 1
_RUNNERS = ("native", "onnxruntime")
_Run = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class RegionPart:
    """One region of an engine.

    Attributes:
        runner: native or onnxruntime.
        part: its file in the engine's folder.
        inputs: names of the values that it takes; a native program's in this order.
        outputs: names of the values that it gives, in the order in which it does.
        operations: names of the network's operators in it -> how often each runs.
    """

    runner: str
    part: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: Mapping[str, int]


@dataclass(frozen=True)
class RegionPlan:
    """What regions.json says.

    Attributes:
        regions: in the order in which they run.
        inputs: names of the network's inputs.
        output: name of the value that is its result.
    """

    regions: tuple[RegionPart, ...]
    inputs: tuple[str, ...]
    output: str

    def to_json(self) -> str:
        """As a file."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"


def read_regions(path: Path) -> RegionPlan:
    """Reads regions.json.

    Raises:
        NmcompileError: missing, damaged, or of another version.
    """
    try:
        data = json.loads(path.read_text())
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']}, expected {_VERSION}")
        regions = tuple(_region(item) for item in data["regions"])
        plan = RegionPlan(regions, _names(data["inputs"]), str(data["output"]))
        _check(plan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NmcompileError(f"{path} is damaged ({error!r}); compile the engine again") from None
    return plan


class RegionExecutor:
    """A network in regions, ready to run.

    Args:
        folder: the engine's.
        threads: how many threads one run may use.

    Attributes:
        isa: the family of libnmk's kernels that its native regions run in, None if there are none.

    Raises:
        NmcompileError: a part is damaged, or ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        plan = read_regions(folder / REGIONS)
        self._output = plan.output
        self.isa: str | None = None
        self._steps = [
            (region, self._runner(folder / region.part, region, threads), finished)
            for region, finished in zip(plan.regions, _finished(plan), strict=True)
        ]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Runs the regions once; NmcompileError if they need more memory than there is."""
        values = dict(inputs)
        for region, run, finished in self._steps:
            values.update(zip(region.outputs, run(values), strict=True))
            for name in finished:
                del values[name]
        return values[self._output]

    def _runner(self, path: Path, region: RegionPart, threads: int) -> _Run:
        """What turns all values into the region's outputs."""
        if region.runner == "onnxruntime":
            model = OrtExecutor(path, threads)
            return lambda values: model.run({n: values[n] for n in region.inputs}, region.outputs)
        program = load_native(path)
        self.isa = program.isa
        return lambda values: program.run([values[name] for name in region.inputs], threads)


def _finished(plan: RegionPlan) -> list[tuple[str, ...]]:
    """For each region the values that nothing after it reads."""
    alive, found = {plan.output}, []
    for region in reversed(plan.regions):
        known = dict.fromkeys((*region.inputs, *region.outputs))
        found.append(tuple(name for name in known if name not in alive))
        alive |= set(region.inputs)
    return found[::-1]


def _region(data: Mapping[str, Any]) -> RegionPart:
    operations = {str(name): int(count) for name, count in data["operations"].items()}
    return RegionPart(
        str(data["runner"]), str(data["part"]), _names(data["inputs"]), _names(data["outputs"]),
        operations,
    )  # fmt: skip


def _names(items: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"{items!r} is no list of names")
    return tuple(items)


def _check(plan: RegionPlan) -> None:
    """Raises ValueError unless every region's inputs are there when it runs."""
    known = set(plan.inputs)
    for region in plan.regions:
        if region.runner not in _RUNNERS:
            raise ValueError(f"runner {region.runner!r}, expected {' or '.join(_RUNNERS)}")
        if Path(region.part).name != region.part:
            raise ValueError(f"part {region.part!r} is no file of the engine")
        missing = set(region.inputs) - known
        if missing or not region.outputs:
            raise ValueError(f"{region.part} needs {sorted(missing)}, which nothing gives")
        known |= set(region.outputs)
    if plan.output not in known:
        raise ValueError(f"nothing gives {plan.output}")
