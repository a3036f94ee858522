"""Times on a GPU, bytes and operations -> what bounds each row, and whether it meets its target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# (shape, pattern) -> the peer and how many times faster than it; at 1280x720, 3x3, fp16.
TARGETS = {
    ("64->64", "2:4"): ("cudnn", 1.3),
    ("64->64", "64x1:4"): ("cudnn", 1.5),
    ("128->128", "2:4"): ("cudnn", 1.5),
    ("128->128", "64x1:4"): ("cudnn", 2.0),
    ("256->256", "2:4"): ("cudnn", 1.5),
    ("256->256", "64x1:4"): ("cudnn", 2.5),
    ("block 64", "2:4"): ("cudnn", 2.0),
    ("block 64", "64x1:4"): ("cudnn", 2.3),
    ("edsr x2", "2:4"): ("compile", 1.5),
    ("edsr x2", "64x1:4"): ("compile", 2.0),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU's ceilings: bytes a second, and dense fp16 operations (2 a multiply-add) a second."""

    name: str
    bandwidth: float
    rate: float


# Data sheets of the SXM parts; on the machine both are measured instead.
DATA_SHEETS = (
    Gpu("A100 80 GB", 2.039e12, 312e12),
    Gpu("H100 80 GB", 3.35e12, 989e12),
    Gpu("H200", 4.8e12, 989e12),
)


@dataclass(frozen=True)
class Work:
    """What a row must do: bytes in and out of device memory, and tensor core operations.

    `flops` count what the kernel multiplies, so that 2:4 counts half of the dense ones; the sparse
    instruction does them at the dense rate, in dense terms at twice it.
    """

    bytes: float
    flops: float

    def floor(self, gpu: Gpu) -> tuple[float, str]:
        """The least milliseconds on a GPU, and what bounds them."""
        memory, tensor = 1e3 * self.bytes / gpu.bandwidth, 1e3 * self.flops / gpu.rate
        return max(memory, tensor), "memory" if memory > tensor else "tensor cores"


def conv_work(
    inputs: int, outputs: int, pixels: int, density: float, convs: int = 1, taps: int = 9
) -> Work:
    """Work of a convolution in 16 bits, or of several in a row of which only the ends are moved.

    Args:
        inputs: channels.
        outputs: channels.
        pixels: of the output; the input has as many.
        density: of the multiplications that the kernel does.
        convs: how many in a row, of equal shape, and their residual, which is the input.
        taps: kernel positions.
    """
    macs = convs * pixels * inputs * outputs * taps * density
    weights = convs * 2 * inputs * outputs * taps * density
    return Work(2.0 * pixels * (inputs + outputs) + weights, 2.0 * macs)


def quartiles(times: Sequence[float]) -> dict[str, float]:
    """Milliseconds -> their median and quartiles."""
    low, median, high = statistics.quantiles(times, n=4)
    return {"ms": median, "low_ms": low, "high_ms": high}


def row(
    shape: str,
    pattern: str,
    kernel: str,
    work: Work,
    times: Mapping[str, Sequence[float]],
    gpu: Gpu,
) -> dict[str, Any]:
    """One line of the results; `times` holds ours as "ours" and a peer's under its name."""
    own = quartiles(times["ours"])
    floor, bound = work.floor(gpu)
    peers = {name: quartiles(found) for name, found in times.items() if name != "ours"}
    result = {
        "shape": shape, "pattern": pattern, "kernel": kernel, **own, "peers": peers,
        **asdict(work), "floor_ms": floor, "of_floor": floor / own["ms"], "bound": bound,
    }  # fmt: skip
    if (shape, pattern) in TARGETS:
        peer, factor = TARGETS[shape, pattern]
        result |= {"target": {"peer": peer, "factor": factor}}
        if peer in peers:
            ratio = peers[peer]["ms"] / own["ms"]
            result["target"] |= {"found": ratio, "met": ratio >= factor}
    return result


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text, peers as how many times longer they take."""
    head = f"{'shape':10} {'pattern':8} {'kernel':28} {'ms':>8} {'floor':>8} {'bound':12} "
    lines = [f"{head}{'target':>16}  peers"]
    for item in rows:
        peers = "  ".join(f"{k} {v['ms'] / item['ms']:.2f}" for k, v in item["peers"].items())
        lines.append(
            f"{item['shape']:10} {item['pattern']:8} {item['kernel']:28} {item['ms']:8.4f} "
            f"{item['of_floor']:8.0%} {item['bound']:12} {_verdict(item):>16}  {peers}"
        )
    return "\n".join(lines)


def _verdict(item: Mapping[str, Any]) -> str:
    target = item.get("target")
    if not target:
        return ""
    if "met" not in target:
        return f"{target['factor']} ({target['peer']}: none)"
    return f"{target['factor']} {'met' if target['met'] else 'missed'}"


def ceilings(pixels: int = 1280 * 720) -> str:
    """README's table: the least time of every row on data-sheet GPUs, in microseconds."""
    lines = [
        "| 3x3, 1280x720 | MB | GFLOP | " + " | ".join(gpu.name for gpu in DATA_SHEETS) + " |",
        "| --- | --- | --- |" + " --- |" * len(DATA_SHEETS),
    ]
    for channels, convs in ((64, 1), (128, 1), (256, 1), (64, 2)):
        for pattern, density in (("dense", 1.0), ("2:4", 0.5), ("64x1:4", 0.25)):
            work = conv_work(channels, channels, pixels, density, convs)
            name = "fused block 64" if convs == 2 else f"{channels}->{channels}"
            cells = [
                f"{1e3 * floor:.0f} ({bound})" for floor, bound in map(work.floor, DATA_SHEETS)
            ]
            lines.append(
                f"| {name}, {pattern} | {work.bytes / 1e6:.0f} | {work.flops / 1e9:.1f} | "
                + " | ".join(cells) + " |"
            )  # fmt: skip
    return "\n".join(lines)
