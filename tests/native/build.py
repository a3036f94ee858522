"""One operation -> a packed program, and random arrays for it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.pattern import Pattern
from nmcompile.runtime import native
from nmcompile.runtime.native.blob import (
    Activation,
    Border,
    ConvShape,
    Family,
    Kind,
    Operation,
    Pointwise,
    Residual,
    Value,
    conv_data,
    level_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram

_AVX512 = {"AVX512F", "AVX512BW", "AVX512VL"}
ISAS = {
    "amx": {*_AVX512, "AVX512_BF16", "AVX512_FP16", "AMX_TILE", "AMX_BF16"},
    "avx512_fp16": {*_AVX512, "AVX512_BF16", "AVX512_FP16"},
    "avx512_bf16": {*_AVX512, "AVX512_BF16"},
    "avx512": _AVX512,
    "avx2": {"AVX2", "FMA"},
    "portable": set(),
}
RANDOM = np.random.default_rng(5)

THREE, ONE = ConvShape((3, 3), padding=(1, 1, 1, 1)), ConvShape((1, 1))  # the usual ones


def isas() -> list[str]:
    """The families of kernels that this processor runs, and AMX's in plain C++."""
    return [*families(), "tiles"]


def families() -> list[str]:
    """The families of kernels that this processor runs, the best first."""
    features = set(native.cpu_features())
    return [name for name, needed in ISAS.items() if needed <= features]


def single(kind: Kind, inputs: Sequence[int], outputs: int, **more: Any) -> bytes:
    """A program of one operation; `inputs` and `outputs` are numbers of channels."""
    channels = [*inputs, outputs]
    values = [Value(index, 0, count) for index, count in enumerate(channels)]
    step = Operation(kind, tuple(range(len(inputs))), len(inputs), **more)
    return pack(channels, values, [step], len(inputs), [len(inputs)])


def check(
    packed: bytes,
    inputs: Sequence[NDArray[np.float32]],
    expected: Any,
    threads: int,
    scale: float | None = None,
) -> None:
    """Runs a program and compares with a reference; `scale` is what errors are relative to."""
    scale = max(np.abs(expected).max(), 1e-2) if scale is None else scale
    (found,) = NativeProgram(packed).run(inputs, threads)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def noise(*shape: int) -> NDArray[np.float32]:
    """Normal noise."""
    return RANDOM.standard_normal(shape).astype(np.float32)


def pruned(pattern: Pattern, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Random weights [out, in, kh, kw] that keep the pattern."""
    weight = noise(*shape)
    return weight * pattern.largest(weight)


def ladder(
    patterns: Sequence[Pattern], shape: tuple[int, int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Random weights that keep the last pattern, and for each the least level that keeps it.

    Level l keeps, of what the next one does, what its own pattern keeps.
    """
    weight, least = noise(*shape), np.full(shape, 255, np.uint8)
    for level in reversed(range(len(patterns))):
        left = np.where(least == level + 1, weight, 0) if level + 1 < len(patterns) else weight
        least[patterns[level].largest(left) & (left != 0)] = level
    return np.where(least == 255, 0, weight).astype(np.float32), least


def levelled() -> bytes:
    """A program of three levels: whole kernels, single weights, and a layer without levels."""
    shape, one = ConvShape((3, 3), padding=(1, 1, 1, 1)), ConvShape((1, 1))
    operations = []
    for index, text in enumerate(("8x2:8k 8x4:8k dense", "1:8 1:4 2:4")):
        weight, least = ladder([*map(Pattern.parse, text.split())], (16, 16, 3, 3))
        family = Family.DENSE if "dense" in text else Family.SPARSE
        sparse = family is Family.SPARSE
        data = (*conv_data(weight, noise(16), sparse), level_data(weight, least, 3))
        params = shape.params(family=family)
        operations.append(Operation(Kind.CONV2D, (index,), index + 1, params, data=data))
    data = conv_data(noise(4, 16, 1, 1), None, False)
    operations.append(Operation(Kind.CONV2D, (2,), 3, one.params(), data=data))
    values = [Value(0, 0, 16), Value(1, 0, 16), Value(2, 0, 16), Value(3, 0, 4)]
    return pack([16, 16, 16, 4], values, operations, 1, [3], levels=3)


def bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounds to bf16, to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    near = bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))
    return (near & np.uint32(0xFFFF0000)).view(np.float32)


def everything() -> bytes:
    """A small program with every kind of operation."""
    shape, one = ConvShape((3, 3), padding=(1, 1, 1, 1)), ConvShape((1, 1))
    weight = noise(4, 4, 3, 3) * (noise(4, 4, 3, 3) > 0)
    buffers = [4, 8, 4, 4, 1, 4, 4, 4, 4, 4, 4, 1]
    values = [
        Value(0, 0, 4), Value(1, 0, 4), Value(1, 4, 4), Value(1, 0, 8), Value(2, 0, 4),
        Value(3, 0, 4), Value(4, 0, 1), Value(5, 0, 4), Value(6, 0, 4), Value(7, 0, 4),
        Value(8, 0, 4), Value(0, 1, 1), Value(9, 0, 4), Value(10, 0, 4), Value(11, 0, 1),
    ]  # fmt: skip
    operations = [
        Operation(Kind.CONV2D, (0,), 1, shape.params(family=Family.SPARSE),
                  data=conv_data(weight, noise(4), True), activation=Activation.RELU),
        Operation(Kind.CONV2D, (0, 1), 2, shape.params(Residual.BEFORE_ACTIVATION),
                  data=conv_data(weight, noise(4), False, noise(4)), activation=Activation.PRELU),
        Operation(Kind.CONV2D, (3,), 4, one.params(),
                  data=conv_data(noise(4, 8, 1, 1), None, False)),
        Operation(Kind.MOMENTS, (4,), 5, (1, 0)),
        Operation(Kind.PIXEL_SHUFFLE, (4,), 6, (2,)),
        Operation(Kind.POINTWISE, (4, 5), 7, (int(Pointwise.GATE),)),
        Operation(Kind.MAX_POOL, (7,), 8, ConvShape((2, 2), (2, 2)).params()),
        Operation(Kind.BILINEAR, (8, 0), 9, (0,)),
        Operation(Kind.NEAREST, (9,), 10, (2,)),
        Operation(Kind.PAD, (10,), 12, (3, -1, 2, -1, int(Border.REFLECT))),
        Operation(Kind.BILINEAR, (10,), 13, (1, 2)),
        Operation(Kind.POINTWISE, (0, 11), 7, (int(Pointwise.QUOTIENT),)),
        Operation(Kind.CONV2D, (8,), 14, one.params(),
                  data=conv_data(noise(4, 4, 1, 1), None, False), shuffle=2),
    ]  # fmt: skip
    return pack(buffers, values, operations, 1, [6, 10, 12, 13, 14])


_PEAK = """
import sys
from pathlib import Path
import numpy as np
from nmcompile.runtime.native.program import NativeProgram

def read(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

program = NativeProgram(Path(sys.argv[1]).read_bytes())
channels, height, width, threads = map(int, sys.argv[2:])
x = np.zeros((1, channels, height, width), np.float32)
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of who began this process
before = read("VmRSS:")
program.run([x], threads)
print(read("VmHWM:") - before)
"""


def peak(packed: bytes, folder: Path, image: tuple[int, int, int], threads: int) -> int:
    """KiB that a run takes at most in a process of its own, for an image C x H x W."""
    path = folder / "program"
    path.write_bytes(packed)
    command = [sys.executable, "-c", _PEAK, str(path), *map(str, (*image, threads))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
