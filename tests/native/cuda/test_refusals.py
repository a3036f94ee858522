"""Damaged weights, impossible images, GPUs that cannot -> one line that names the layer."""

import struct

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import Activation, ConvShape, Residual
from nmcompile.runtime.native.cuda_conv import CudaBlock, CudaConv, load_library
from nmcompile.runtime.native.cuda_pack import Half, pack

SAME = ConvShape((3, 3), padding=(1, 1, 1, 1))
# Shared memory of a block and of a multiprocessor (CUDA C++ Programming Guide).
GPUS = {
    "8.0": (166912, 167936), "8.6": (101376, 102400), "8.9": (101376, 102400),
    "9.0": (232448, 233472),
}  # fmt: skip
FIELDS = 20


def _packed(text="2:4", shape=SAME, outputs=64, inputs=64, **more):
    weight = np.random.default_rng(0).standard_normal((outputs, inputs, *shape.kernel))
    weight = weight.astype(np.float32)
    return pack(weight * Pattern.parse(text).largest(weight), None, shape, **more)


def _conv(device, *args, **more):
    return CudaConv(device.library, _packed(*args, **more), "body.0")


def _run(device, conv, size=(1, 4, 4), shift=0, **more):
    memory = device.put(np.zeros(1 << 16, np.uint16))
    conv.run(memory + shift, device.put(np.zeros(1 << 16, np.uint16)), size, **more)


def _problem(device, packed):
    try:
        CudaConv(device.library, packed, "body.0")
    except NmcompileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("field", range(FIELDS + 4))
def test_damaged_header_is_refused_or_harmless(device, field):
    whole = _packed("64x1:4")
    for value in (0, 1, 2, 3, 5, 63, 65, 1000, 2**31, 2**32 - 1):
        damaged = bytearray(whole)
        struct.pack_into("<I", damaged, 4 * field, value)
        problem = _problem(device, bytes(damaged))
        assert not problem or problem.startswith("layer body.0: packed weights: found ")
    struct.pack_into("<I", damaged := bytearray(whole), 4 * field, 2**32 - 1)
    ignored = (18, 23)  # a slope may be any number, and the last word is nobody's
    assert bool(_problem(device, bytes(damaged))) == (field not in ignored)


@pytest.mark.parametrize("size", [0, 40, 79, 95, 96, 500])
def test_cut_bytes_are_refused(device, size):
    with pytest.raises(NmcompileError, match=r"layer body\.0: packed weights: found "):
        CudaConv(device.library, _packed()[:size], "body.0")


def test_gathered_channel_outside_of_its_chunk_is_refused(device):
    damaged = bytearray(_packed("64x1:4"))
    damaged[-1] = 130
    with pytest.raises(NmcompileError, match="gathered channels outside of a chunk"):
        CudaConv(device.library, bytes(damaged), "body.0")


def test_old_gpu_is_named(device):
    device.configure(major=7)
    with pytest.raises(NmcompileError, match=r"body\.0: found a GPU of compute capability 7\.0, 8"):
        _conv(device)


def test_too_little_shared_memory_is_named(device):
    device.configure(shared_of_block=49152)
    with pytest.raises(NmcompileError, match=r"found 49152 bytes of shared memory for a block, 73"):
        _conv(device)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("text", ["dense", "2:4", "64x1:4", "64x32:64"])
def test_every_gpu_has_a_kernel(device, gpu, stride, text):
    block, processor = GPUS[gpu]
    device.configure(shared_of_block=block, shared_of_processor=processor)
    shape = ConvShape((3, 3), stride=(stride,) * 2, padding=(1, 1, 1, 1))
    conv = _conv(device, text, shape)
    big = gpu == "9.0"
    assert conv.kernel().endswith("64x4_s2" if stride == 2 else "64x16_s1" if big else "64x8_s1")
    if stride == 1:
        name = CudaBlock(device.library, conv, _conv(device, text)).kernel()
        assert name.endswith("64x8" if gpu in ("8.6", "8.9") else "64x16")


def test_unknown_kernel_is_named(device, monkeypatch):
    monkeypatch.setenv("NMK_CUDA_KERNEL", "f64")
    with pytest.raises(NmcompileError, match=r"no kernel named like f64 for .* unset NMK_CUD"):
        _conv(device)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"size": (1, 0, 4)}, r"found an image of 1 x 0 x 4, expected sides from 1"),
        ({"size": (0, 4, 4)}, r"found an image of 0 x 4 x 4"),
        ({"size": (1, 4, 1 << 21)}, "expected sides from 1 to 2"),
        ({"size": (1 << 20, 1 << 20, 1 << 20)}, "more than 2.30 tiles; cut it"),
        ({"level": 1}, "found level 1, expected 0 to 0"),
        ({"level": -1}, "found level -1, expected 0 to 0"),
        ({"residual": 256}, "found a residual, the layer adds none"),
        ({"shift": 2}, "not aligned to 16 bytes; copy it"),
        ({"size": (1, 64, 64)}, "failed: an access outside of global memory"),
    ],
)
def test_impossible_run_is_refused(device, how, problem):
    with pytest.raises(NmcompileError, match=rf"layer body\.0: .*{problem}"):
        _run(device, _conv(device), **how)


def test_image_smaller_than_the_kernel_is_refused(device):
    conv = _conv(device, "2:4", ConvShape((3, 3)))
    with pytest.raises(NmcompileError, match="found an image of 2 x 4, its kernel is larger"):
        _run(device, conv, (1, 2, 4))
    with pytest.raises(NmcompileError, match="its kernel is larger"):
        conv.output_shape(2, 2)


def test_missing_residual_is_refused(device):
    with pytest.raises(NmcompileError, match="found no residual, the layer adds one"):
        _run(device, _conv(device, residual=Residual.AFTER_ACTIVATION))


@pytest.mark.parametrize(
    "second",
    [
        {"text": "dense"},
        {"half": Half.BF16},
        {"outputs": 128},
        {"inputs": 128},
        {"shape": ConvShape((1, 1))},
        {"shape": ConvShape((3, 3))},
        {"shape": ConvShape((3, 3), stride=(2, 2), padding=(1, 1, 1, 1))},
        {"shuffle": 2},
    ],
)
def test_two_that_make_no_block_are_refused(device, second):
    first = _conv(device, activation=Activation.RELU)
    with pytest.raises(NmcompileError, match=r"body\.0 and body\.0: found .* one after the other"):
        CudaBlock(device.library, first, _conv(device, **second))


def test_unknown_level_has_no_kernel(device):
    with pytest.raises(NmcompileError, match="found no level 3"):
        _conv(device).kernel(3)


def test_foreign_library_says_what_to_do(tmp_path):
    path = tmp_path / "libnmk_cuda.so"
    path.write_bytes(b"not a library")
    with pytest.raises(NmcompileError, match=r"does not load .*NMCOMPILE_CUDA=ON"):
        load_library(path)
