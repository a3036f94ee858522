"""One convolution at several densities -> its time against ONNX Runtime and OpenVINO, one run.

python -m benchmarks.kernels --threads 1 --json kernels.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import command
from nmcompile.pattern import Pattern
from nmcompile.runtime import native
from nmcompile.runtime.executor import OrtExecutor, available_cores
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Precision,
    Value,
    conv_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram

CHANNELS, HEIGHT, WIDTH = 64, 180, 320
# Convolutions one after the other in every contender, so that bringing the image into and out of
# a runtime's own layout weighs little.
CHAIN = 8
PATTERNS = (
    "dense", "8x3:4k", "8x2:4k", "8x1:4k", "8x1:8k", "3:4", "2:4", "1:4", "1:8", "64x2:4", "64x1:4",
)  # fmt: skip
Image = NDArray[np.float32]


def weights(pattern: Pattern) -> list[Image]:
    """A chain of random convolutions that keep the pattern and keep values near 1."""
    random = np.random.default_rng(0)
    shape = (CHANNELS, CHANNELS, 3, 3)
    chain = []
    for _ in range(CHAIN):
        weight = random.standard_normal(shape).astype(np.float32)
        weight *= pattern.largest(weight)
        chain.append(weight / np.float32(np.sqrt((weight**2).sum((1, 2, 3)).mean() / 2)))
    return chain


def ours(pattern: Pattern, isa: str, x: Image, threads: int) -> Callable[[], Image]:
    """The native program of the chain, for one family of kernels."""
    shared = Family.SHARED if pattern.v > 1 else Family.SPARSE
    family = Family.DENSE if pattern.is_dense else shared
    params = ConvShape((3, 3), padding=(1, 1, 1, 1)).params(family=family, precision=Precision.BF16)
    steps = [
        Operation(
            Kind.CONV2D, (0 if i == 0 else 1 + (i - 1) % 2,), 1 + i % 2, params,
            data=conv_data(weight, np.zeros(CHANNELS, np.float32), not pattern.is_dense),
            activation=Activation.RELU,
        )
        for i, weight in enumerate(weights(pattern))
    ]  # fmt: skip
    values = [Value(i, 0, CHANNELS) for i in range(3)]
    os.environ["NMK_ISA"] = isa
    program = NativeProgram(pack([CHANNELS] * 3, values, steps, 1, [1 + (CHAIN - 1) % 2]))
    return lambda: program.run([x], threads)[0]


def model(folder: Path) -> Path:
    """The dense chain as ONNX."""
    nodes, tensors, name = [], [], "x"
    for i, weight in enumerate(weights(Pattern.parse("dense"))):
        tensors += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(np.zeros(CHANNELS, np.float32), f"b{i}"),
        ]
        nodes += [
            helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        name = f"r{i}"
    shape = [1, CHANNELS, HEIGHT, WIDTH]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", name)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    path = folder / "chain.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def openvino(path: Path, x: Image, threads: int, precision: str) -> Callable[[], Image]:
    """OpenVINO over the dense chain; precision "" is its own choice."""
    runtime = importlib.import_module("openvino")
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    request = runtime.Core().compile_model(str(path), "CPU", options).create_infer_request()
    return lambda: next(iter(request.infer({"x": x}, share_inputs=True).values()))


def contenders(args: argparse.Namespace, folder: Path, x: Image) -> dict[str, Callable[[], Image]]:
    """Everything that is timed; the first is what the others are compared with."""
    path = model(folder)
    executor = OrtExecutor(path, args.threads)
    runs: dict[str, Callable[[], Image]] = {"onnxruntime f32": lambda: executor({"x": x})}
    if util.find_spec("openvino"):
        runs["openvino f32"] = openvino(path, x, args.threads, "f32")
        runs["openvino default"] = openvino(path, x, args.threads, "")
    for isa in args.isa:
        for text in args.patterns:
            runs[f"{text}.{isa}"] = ours(Pattern.parse(text), isa, x, args.threads)
    return runs


def measure(runs: dict[str, Callable[[], Image]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds for one convolution, every contender once a round so that noise hits all."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - started) / CHAIN)
    return times


def row(name: str, times: dict[str, list[float]]) -> dict[str, float | str]:
    """Median, spread (quartiles), dense-equivalent rate, and median ratios to the peers."""
    own = times[name]
    low, median, high = statistics.quantiles(own, n=4)
    macs = CHANNELS**2 * 9 * HEIGHT * WIDTH
    result: dict[str, float | str] = {
        "name": name, "ms": median, "low_ms": low, "high_ms": high, "gmacs": macs / median / 1e6,
    }  # fmt: skip
    for peer in ("onnxruntime f32", "openvino f32", "openvino default"):
        if peer in times:
            pairs = zip(times[peer], own, strict=True)
            result[f"x {peer}"] = statistics.median(a / b for a, b in pairs)
    return result


def main() -> int:
    """Measures, prints a table, writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--isa", nargs="+", default=[native.isa()])
    parser.add_argument("--patterns", nargs="+", default=PATTERNS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(contenders(args, Path(folder), x), args.rounds)
    rows = [row(name, times) for name in times]
    print(
        f"{native.cpu_name()}, {args.threads} threads, 3x3 {CHANNELS}->{CHANNELS}, one of {CHAIN}"
    )
    for item in rows:
        ratios = "  ".join(f"{k} {v:.2f}" for k, v in item.items() if k.startswith("x "))
        spread = f"{item['ms']:7.2f} ms ({item['low_ms']:.2f}..{item['high_ms']:.2f})"
        print(f"{item['name']:20} {spread:26} {item['gmacs']:6.1f} GMAC/s  {ratios}")
    if args.json:
        facts = {"cpu": native.cpu_name(), "threads": args.threads, "chain": CHAIN, "rows": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command(main)
