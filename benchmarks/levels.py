"""Nested patterns -> each level's time against what it keeps in a program alone, in one run.

python -m benchmarks.levels --isa avx512_bf16 "8x4:16k 8x8:16k dense" "1:8 1:4 2:4"
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import command
from nmcompile.pattern import Pattern
from nmcompile.runtime import native
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Value,
    conv_data,
    level_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram

CHANNELS, HEIGHT, WIDTH, CHAIN = 64, 180, 320, 4
Weight, Least = NDArray[np.float32], NDArray[np.uint8]


def layer(patterns: Sequence[Pattern], seed: int) -> tuple[Weight, Least]:
    """Random weights of the last pattern, and the least level that keeps each."""
    shape = (CHANNELS, CHANNELS, 3, 3)
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    kept, least = weight, np.full(shape, 255, np.uint8)
    for level in reversed(range(len(patterns))):
        kept = kept * patterns[level].largest(kept)
        least[kept != 0] = level
    return np.where(least == 255, np.float32(0), weight) / np.float32(np.sqrt(9 * CHANNELS)), least


def chain(layers: Sequence[tuple[Weight, Least]], last: int, levels: int, dense: bool) -> bytes:
    """The program of what level `last` keeps; of all levels up to it, or (1) of that one alone."""
    params = ConvShape((3, 3), padding=(1, 1, 1, 1)).params(
        family=Family.DENSE if dense else Family.SPARSE
    )
    steps = []
    for i, (weight, least) in enumerate(layers):
        kept = np.where(least <= last, weight, np.float32(0))
        data = conv_data(kept, None, not dense)
        if levels > 1:
            data = (*data, level_data(kept, least, levels))
        read, written = (0 if i == 0 else 1 + (i - 1) % 2), 1 + i % 2
        steps.append(
            Operation(Kind.CONV2D, (read,), written, params, data=data, activation=Activation.RELU)
        )
    values = [Value(i, 0, CHANNELS) for i in range(3)]
    return pack([CHANNELS] * 3, values, steps, 1, [1 + (CHAIN - 1) % 2], levels=levels)


def compare(text: str, rounds: int) -> None:
    """Prints a line for each level: milliseconds of a layer, on one thread's own CPU time."""
    patterns = [Pattern.parse(word) for word in text.split()]
    count, layers = len(patterns), [layer(patterns, seed) for seed in range(CHAIN)]
    top = patterns[-1].is_dense
    packed = chain(layers, count - 1, count, top)
    alone = [chain(layers, i, 1, top and i == count - 1) for i in range(count)]
    print(f"{text}: {len(packed) / len(alone[-1]):.3f} times the bytes of its last level alone")
    nested, singles = NativeProgram(packed), [NativeProgram(one) for one in alone]
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)

    def milliseconds(program: NativeProgram, level: int) -> float:
        before = time.thread_time()
        program.run([x], 1, level)
        return 1e3 / CHAIN * (time.thread_time() - before)

    for level, single in enumerate(singles):
        times = [
            (milliseconds(nested, level), milliseconds(single, 0), milliseconds(single, 0))
            for _ in range(rounds + 1)
        ][1:]
        own, other, again = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(2 * a / (b + c) for a, b, c in times)
        control = statistics.median(c / b for _, b, c in times)
        print(
            f"  {patterns[level]!s:8} {own:6.2f} ms, alone {(other + again) / 2:6.2f}, "
            f"ratio {ratio:.3f} (alone against itself {control:.3f})"
        )


def main() -> None:
    """Compares every ladder that the command names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ladders", nargs="+", help="patterns, from the lowest level to the last")
    parser.add_argument("--isa", default=native.isa())
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    os.environ["NMK_ISA"] = args.isa
    for text in args.ladders:
        compare(text, args.rounds)


if __name__ == "__main__":
    command(main)
