"""The kernels as nvcc compiles them, on a real GPU -> the plain convolution, to the last bit?

The same sweep as on the emulated device (tests/native/cuda), so that the two cannot drift apart.
"""

import pytest

from benchmarks import gpu
from benchmarks.gpu_build import ROOT, BuildError, build, resources
from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.cuda_conv import kernel_names
from tests.native.cuda.cases import (
    BLOCK_KERNELS,
    CASES,
    CONV_KERNELS,
    LEVELS,
    Case,
    check,
    check_block,
    kernel_blocks,
    kernel_case,
)
from tests.native.cuda.device import GpuDevice


@pytest.fixture(scope="module")
def built():
    """The library for this GPU, and what ptxas said."""
    lacking = gpu.missing()
    if lacking:
        pytest.skip(lacking)
    try:
        return build(ROOT / "build" / "gpu", [gpu.own_target()])
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def device(built):
    device = GpuDevice(built[0])
    yield device
    device.clear()


def _fits(run):
    """Runs it, or skips what this GPU's shared memory does not hold."""
    try:
        return run()
    except NmcompileError as error:
        if "shared memory" not in str(error):
            raise
        pytest.skip(str(error))


def test_every_kernel_is_in_the_sweep(device):
    assert sorted(kernel_names(device.library)) == sorted(CONV_KERNELS + BLOCK_KERNELS)


def test_nothing_spills(built):
    assert not [found for found in resources(built[1]) if found.spill_bytes or found.stack_bytes]


@pytest.mark.parametrize("kernel", CONV_KERNELS)
def test_kernel_is_the_convolution(device, monkeypatch, kernel):
    monkeypatch.setenv("NMK_CUDA_KERNEL", kernel)
    assert _fits(lambda: check(device, kernel_case(kernel))) == [kernel]


@pytest.mark.parametrize("kernel", BLOCK_KERNELS)
def test_block_is_two_convolutions(device, monkeypatch, kernel):
    monkeypatch.setenv("NMK_CUDA_KERNEL", kernel.removeprefix("block_"))
    assert _fits(lambda: check_block(device, *kernel_blocks(kernel))) == [kernel]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_is_the_convolution(device, case):
    check(device, case)


@pytest.mark.parametrize("patterns", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("on_device", [False, True])
def test_level_is_the_convolution_of_what_it_keeps(device, patterns, on_device):
    check(device, Case(patterns, height=7, width=18), on_device)


@pytest.mark.parametrize("pattern", ["dense", "2:4", "64x1:4"])
def test_many_tiles_a_block(device, pattern):
    """More tiles than a GPU holds blocks, so that every block goes round its loop."""
    check(device, Case(pattern, inputs=128, outputs=128, height=501, width=333, batch=2))
