"""Networks in bands of rows -> the same bits as operation by operation, in less memory?"""

import concurrent.futures
import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime import native
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Pointwise,
    Residual,
    Value,
    conv_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import levelled, noise, peak
from tests.native.networks import SAME, random_network

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((1, 40), (7, 16), (13, 90), (64, 33), (101, 17))


def _results(program: NativeProgram, x: np.ndarray, threads: int) -> list[np.ndarray] | str:
    try:
        return program.run([x], threads)
    except NmcompileError as error:
        return str(error)


def _same(deep: NativeProgram, apart: NativeProgram, sizes: Sequence[tuple[int, int]]) -> int:
    """Compares the two at every size and thread count; how many sizes were possible."""
    possible = 0
    for size in sizes:
        x = noise(2, 4, *size)
        expected = _results(apart, x, 1)
        for threads in (1, 2, 3, 5):
            found = _results(deep, x, threads)
            if isinstance(expected, str):
                assert found == expected
                continue
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        possible += not isinstance(expected, str)
    return possible


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed):
    net = random_network(seed)
    deep, apart = NativeProgram(net.packed(apart=False)), NativeProgram(net.packed(apart=True))
    assert _same(deep, apart, SIZES) > 0


def _chain(length: int, channels: int, skip: bool = False) -> bytes:
    """3x3 convolutions through two buffers in turn; the first one's result is added at the end."""
    shape, weight = ConvShape((3, 3), padding=SAME), noise(channels, channels, 3, 3) / 8
    weight[:, 1:] *= 0.3
    first = noise(channels, 4, 3, 3)
    values = [Value(0, 0, 4), Value(1, 0, channels), Value(2, 0, channels), Value(3, 0, channels)]
    steps = [Operation(Kind.CONV2D, (0,), 1, shape.params(), data=conv_data(first, None, False))]
    source = 1
    for index in range(length):
        last = skip and index == length - 1
        output = 2 + index % 2
        steps.append(Operation(
            Kind.CONV2D, (source, 1) if last else (source,), output,
            shape.params(Residual.AFTER_ACTIVATION if last else Residual.NONE),
            data=conv_data(weight, None, False), activation=Activation.RELU,
        ))  # fmt: skip
        source = output
    return pack([4, channels, channels, channels], values, steps, 1, [source])


@pytest.mark.parametrize("skip", [False, True])
def test_what_threads_share(skip):
    """Images of few rows a thread: parts that need many rows of the next one."""
    program = NativeProgram(_chain(20, 4, skip))
    for height in (1, 2, 3, 9, 16, 17, 40, 41, 65, 130):
        x = noise(1, 4, height, 24)
        (expected,) = program.run([x])
        for threads in (2, 3, 4, 5):
            np.testing.assert_array_equal(program.run([x], threads)[0], expected)


def test_sizes_and_callers_change_between_runs():
    net = random_network(3)
    deep, apart = NativeProgram(net.packed(apart=False)), NativeProgram(net.packed(apart=True))
    images = [noise(1, 4, 30 + 7 * i, 20 + 9 * i) for i in range(4)]
    expected = [apart.run([image]) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for threads in (1, 3, 2):
            found = pool.map(lambda image, n=threads: deep.run([image], n), images * 3)
            for ones, others in zip(found, expected * 3, strict=True):
                for one, other in zip(ones, others, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_every_operation_has_its_seconds():
    program = NativeProgram(_chain(3, 8))
    seconds = program.profile([noise(1, 4, 200, 100)], 2)
    assert len(seconds) == 4
    assert min(seconds) > 0


def test_what_lies_between_operations_is_never_whole(tmp_path):
    """A whole image of 64 channels would take 384 MB, and there are four."""
    channels, one = 64, ConvShape((1, 1))
    values = [Value(0, 0, 4), *(Value(i, 0, channels) for i in (1, 2, 3)), Value(4, 0, 1)]
    scaled = (int(Pointwise.AFFINE),)
    steps = [
        Operation(Kind.CONV2D, (0,), 1, one.params(family=Family.SPARSE),
                  data=conv_data(noise(channels, 4, 1, 1), None, True)),
        Operation(Kind.POINTWISE, (1,), 2, scaled),
        Operation(Kind.POINTWISE, (2, 1), 3, (int(Pointwise.SUM),)),
        Operation(Kind.CONV2D, (3,), 4, one.params(family=Family.SPARSE),
                  data=conv_data(noise(1, channels, 1, 1), None, True)),
    ]  # fmt: skip
    packed = pack([4, channels, channels, channels, 1], values, steps, 1, [4])
    assert peak(packed, tmp_path, (4, 1500, 1000), 2) < 60e3


@pytest.mark.parametrize("packed", [random_network(3).packed(apart=False), levelled()], ids=len)
def test_a_second_run_of_a_size_allocates_nothing(tmp_path, packed):
    """Whatever the level, each run's being the next one, and however threads divide the work."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    harness, program = tmp_path / "allocations", tmp_path / "program"
    library = Path(native.library()._name)
    subprocess.run(
        [compiler, str(ROOT / "tests/native/allocations.c"), "-o", str(harness),
         f"-I{ROOT}/runtime/native/include", str(library), f"-Wl,-rpath,{library.parent}"],
        check=True,
    )  # fmt: skip
    program.write_bytes(packed)
    for size, threads in itertools.product((("70", "50"), ("20", "900")), ("1", "3")):
        ran = subprocess.run(
            [harness, program, *size, threads], capture_output=True, text=True, check=True
        )
        first, third = map(int, ran.stdout.split())
        assert first > 0
        assert third == 0
