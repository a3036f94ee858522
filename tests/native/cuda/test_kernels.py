"""Every CUDA kernel's own source, run on an emulated GPU -> the plain convolution, to the last bit?

Asynchronous copies come as early as they may, then as late; warps run in an order drawn at random;
every access is checked, and what nobody wrote reads as NaN.
"""

import pytest

from nmcompile.runtime.native.blob import Activation, Residual
from nmcompile.runtime.native.cuda_conv import kernel_names
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import (
    BLOCK_KERNELS,
    CONV_KERNELS,
    PATTERNS,
    Case,
    check,
    check_block,
)

SHUFFLED = Case("2:4", outputs=128, height=10, shuffle=2, residual=Residual.AFTER_ACTIVATION)
CASES = {
    "1x1": Case("2:4", kernel=1, padding=(0,) * 4),
    "1x1 gathered": Case("64x1:4", kernel=1, padding=(0,) * 4),
    "one pixel": Case(height=1, width=1),
    "one column": Case("1:4", height=33, width=1),
    "batch": Case("1:8", batch=3, height=5, width=7),
    "no padding": Case("2:8", padding=(0,) * 4),
    "padding of one side": Case("2:4", padding=(2, 0, 0, 1)),
    "two chunks": Case("2:4", inputs=128, height=17, width=9),
    "two chunks, 1x1": Case("2:4", inputs=128, kernel=1, padding=(0,) * 4),
    "two blocks of outputs": Case("64x1:4", outputs=128, height=9),
    "128 to 128": Case("64x2:8", inputs=128, outputs=128, height=6),
    "64x2:4 as sparse": Case("64x2:4", height=9),
    "32 of 64": Case("64x32:64", height=9, width=9),
    "channels that fill no chunk": Case("2:4", inputs=40, outputs=72, height=8),
    "channels that fill no vector": Case(
        inputs=3, outputs=20, height=8, activation=Activation.RELU
    ),
    "few outputs": Case(outputs=3, residual=Residual.BEFORE_ACTIVATION),
    "few outputs, sparse": Case("1:4", outputs=16),
    "few outputs, stride 2": Case("2:4", outputs=12, stride=2, height=9),
    "stride 2, no padding": Case("2:4", stride=2, padding=(0,) * 4),
    "stride 2, 1x1": Case(stride=2, kernel=1, padding=(0,) * 4, inputs=72),
    "relu": Case(height=6, activation=Activation.RELU, bias=False),
    "leaky relu": Case("2:4", height=6, activation=Activation.LEAKY_RELU, slope=0.25),
    "residual, relu": Case(
        height=6, residual=Residual.BEFORE_ACTIVATION, activation=Activation.RELU
    ),
    "relu, residual": Case(
        height=6, residual=Residual.AFTER_ACTIVATION, activation=Activation.RELU
    ),
    "shuffle": SHUFFLED,
    "shuffle to 3": Case(outputs=12, height=9, shuffle=2, residual=Residual.AFTER_ACTIVATION),
    "shuffle by 3": Case("2:4", outputs=72, height=6, width=6, shuffle=3),
}
LEVELS = {
    "sparse": ("1:8", "1:4", "2:4"),
    "shared": ("64x1:8", "64x1:4", "64x2:4"),
    "up to dense": ("64x1:4", "2:4", "dense"),
}


def test_every_kernel_is_in_the_sweep(device):
    assert sorted(kernel_names(device.library)) == sorted(CONV_KERNELS + BLOCK_KERNELS)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kernel", CONV_KERNELS)
def test_kernel_is_the_convolution(device, monkeypatch, kernel, late):
    monkeypatch.setenv("NMK_CUDA_KERNEL", kernel)
    device.configure(late=late, seed=int(late))
    half, kind, shape = kernel.split("_", 2)
    case = Case(
        PATTERNS[kind], half=Half.BF16 if half == "bf16" else Half.FP16,
        outputs=16 if shape.startswith("16x") else 64, stride=int(shape[-1]),
    )  # fmt: skip
    assert check(device, case) == [kernel]
    if "s1" in shape:
        assert device.conflicts == 0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_is_the_convolution(device, case):
    device.configure(late=True, seed=3)
    check(device, case)


@pytest.mark.parametrize("patterns", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("on_device", [False, True])
def test_level_is_the_convolution_of_what_it_keeps(device, patterns, on_device):
    check(device, Case(patterns, height=7, width=18), on_device)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kernel", BLOCK_KERNELS)
def test_block_is_two_convolutions(device, monkeypatch, kernel, late):
    monkeypatch.setenv("NMK_CUDA_KERNEL", kernel.removeprefix("block_"))
    _, half, kind, _ = kernel.split("_")
    device.configure(late=late, seed=int(late), shared_of_processor=1 << 18)
    own = {"half": Half.BF16 if half == "bf16" else Half.FP16, "height": 15, "width": 17}
    first = Case(PATTERNS[kind], activation=Activation.RELU, **own)
    second = Case(PATTERNS[kind], residual=Residual.AFTER_ACTIVATION, **own)
    assert check_block(device, first, second) == [kernel]


def test_block_with_levels_and_an_activation_after_the_sum(device):
    first = Case(("1:4", "2:4"), height=9, width=9, activation=Activation.LEAKY_RELU, slope=0.5)
    second = Case(("1:8", "1:4"), height=9, width=9, residual=Residual.BEFORE_ACTIVATION,
                  activation=Activation.RELU)  # fmt: skip
    check_block(device, first, second)
