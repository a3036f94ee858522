"""Every CUDA kernel's own source, run on an emulated GPU -> the plain convolution, to the last bit?

Asynchronous copies come as early as they may, then as late; warps run in an order drawn at random;
every access is checked, and what nobody wrote reads as NaN.
"""

import numpy as np
import pytest

from nmcompile.runtime.native.blob import Activation, Residual
from nmcompile.runtime.native.cuda_conv import CudaConv, kernel_names
from nmcompile.runtime.native.cuda_pack import pack
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
    weights,
)


def test_every_kernel_is_in_the_sweep(device):
    assert sorted(kernel_names(device.library)) == sorted(CONV_KERNELS + BLOCK_KERNELS)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kernel", CONV_KERNELS)
def test_kernel_is_the_convolution(device, monkeypatch, kernel, late):
    monkeypatch.setenv("NMK_CUDA_KERNEL", kernel)
    device.configure(late=late, seed=int(late))
    assert check(device, kernel_case(kernel)) == [kernel]
    assert device.conflicts == 0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_is_the_convolution(device, case):
    device.configure(late=True, seed=3)
    check(device, case)


@pytest.mark.parametrize("patterns", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("on_device", [False, True])
def test_level_is_the_convolution_of_what_it_keeps(device, patterns, on_device):
    check(device, Case(patterns, height=7, width=18), on_device)


def test_layers_of_one_kernel_may_need_different_shared_memory(device):
    larger, smaller = (
        CudaConv(
            device.library, pack(weights(case, np.random.default_rng(0))[0], None, case.shape), ""
        )
        for case in (Case("64x32:64"), Case("64x16:64"))
    )
    assert larger.kernel() == smaller.kernel()
    x, y = (device.put(np.zeros((9, 9, 64), np.uint16)) for _ in range(2))
    larger.run(x, y, (1, 9, 9))
    assert not device.get(y, (9, 9, 64)).any()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kernel", BLOCK_KERNELS)
def test_block_is_two_convolutions(device, monkeypatch, kernel, late):
    monkeypatch.setenv("NMK_CUDA_KERNEL", kernel.removeprefix("block_"))
    device.configure(late=late, seed=int(late), shared_of_processor=1 << 18)
    assert check_block(device, *kernel_blocks(kernel)) == [kernel]


def test_block_with_levels_and_an_activation_after_the_sum(device):
    first = Case(("1:4", "2:4"), height=9, width=9, activation=Activation.LEAKY_RELU, slope=0.5)
    second = Case(("1:8", "1:4"), height=9, width=9, residual=Residual.BEFORE_ACTIVATION,
                  activation=Activation.RELU)  # fmt: skip
    check_block(device, first, second)
