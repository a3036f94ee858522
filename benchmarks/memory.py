"""An engine and a runtime -> the peak memory of a process that runs it once, as JSON.

    python -m benchmarks.memory ENGINE --runtime ours|onnxruntime|openvino|... --size 1080x1920

`peak_mb` is the most resident memory that the process ever had, `idle_mb` what it had before the
network was opened (Python, NumPy, the runtime's libraries): the network's own is the difference.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil

from benchmarks import command
from nmcompile.bench import natural_image
from nmcompile.engine import read_manifest
from nmcompile.errors import NmcompileError
from nmcompile.peers import PEERS, open_peer
from nmcompile.runtime import load, native

OURS = "ours"
_KIB, _MB = 1024, 1e6


def peak_memory(
    engine: Path, runtime: str, size: tuple[int, int], threads: int
) -> dict[str, float]:
    """Measures in a process of its own; raises NmcompileError if that fails."""
    words = ["--runtime", runtime, "--size", f"{size[0]}x{size[1]}", "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.memory", str(engine), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NmcompileError(f"{runtime} did not run {engine} ({last}); give fewer --against")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Opens the network, runs it once, prints what the process took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--runtime", default=OURS, choices=(OURS, *PEERS))
    parser.add_argument("--size", required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    manifest = read_manifest(args.engine)
    height, width = map(int, args.size.split("x"))
    image = natural_image((1, manifest.channels, height, width), manifest.value_range)
    image = image.copy()
    if args.runtime == OURS:
        native.library()
    else:
        importlib.import_module(PEERS[args.runtime][0])
    idle = psutil.Process().memory_info().rss / _MB
    # Making the image took more than it holds; only what the network takes shall count.
    Path("/proc/self/clear_refs").write_text("5")
    if args.runtime == OURS:
        load(args.engine, args.threads).run(image)
    else:
        inputs = {manifest.input_name: image}
        open_peer(args.runtime, args.engine, inputs, args.threads).run()
    print(json.dumps({"peak_mb": _peak() / _MB, "idle_mb": idle}))
    return 0


def _peak() -> float:
    """Bytes: the peak since it was last reset, which getrusage does not know of."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * _KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


if __name__ == "__main__":
    command(main)
