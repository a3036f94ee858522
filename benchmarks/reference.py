"""Pretrained networks, dense -> their PSNR through nmcompile beside the reference measurement.

    python -m benchmarks.reference [NETWORK ...] [--sets Set5,Set14]

The reference (measured.json in the data folder) was made by other implementations of the networks.
Exits with 1 if a mean differs by more than 0.01 dB.
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from benchmarks import check_names, command
from benchmarks.networks import NETWORKS, data_root, evaluation_set
from nmcompile.evaluate import evaluate
from nmcompile.tasks import Task

_TOLERANCE = 0.01


def main() -> int:
    """Prints a line for every network and test set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--sets", help="only test sets that begin with one of these")
    args = parser.parse_args()
    check_names(parser, "network", args.networks, NETWORKS)
    console, worst = Console(highlight=False, width=100), 0.0
    known = json.loads((data_root() / "measured.json").read_text())
    for name in args.networks:
        program = NETWORKS[name].program()
        for place, row in known[name].items():
            if args.sets and not place.startswith(tuple(args.sets.split(","))):
                continue
            text, source = evaluation_set(place)
            task, interface = Task.parse(text), program.interface
            samples = source.samples(task, interface.channels, interface.scale)
            ours = evaluate(program, samples, task).psnr
            worst = max(worst, abs(ours - row["mean"]))
            console.print(f"{name:24} {place:20} {ours:8.3f}  reference {row['mean']:8.3f}")
    console.print(f"largest difference {worst:.4f} dB")
    return int(worst > _TOLERANCE)


if __name__ == "__main__":
    command(main)
