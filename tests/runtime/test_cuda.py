"""The driver through ctypes: one GPU, memory, copies; and errors that say what they were for."""

import threading

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuda import Gpu, open_device
from tests.nvidia.machine import use_driver


def test_gpu_and_its_memory(fake_gpu):
    fake_gpu.setenv("FAKE_GPU", "NVIDIA H200")
    device = open_device()
    assert device.gpu == Gpu("NVIDIA H200", "9.0")
    assert str(device.gpu) == "NVIDIA H200 (compute capability 9.0)"
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    memory = device.allocate(values.nbytes, "a test")
    device.copy_in(memory, values, "a test")
    assert np.array_equal(device.copy_out(memory, (3, 2), "a test"), values.reshape(3, 2))
    assert open_device() is device


def test_other_threads_enter_it_first(fake_gpu):
    device, found = open_device(), []

    def run():
        for enter in (False, True):
            if enter:
                device.enter("layer a")
            try:
                device.allocate(4, "layer a")
                found.append("")
            except NmcompileError as error:
                found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    said = "layer a: cuMemAlloc_v2 failed with CUDA error 201 (invalid device context)"
    assert found == [said, ""]


@pytest.mark.parametrize(
    "function",
    ["cuInit", "cuDeviceGet", "cuStreamCreate"],
)
def test_failures_while_opening(fake_gpu, function):
    fake_gpu.setenv("FAKE_FAILS", function)
    with pytest.raises(NmcompileError, match=rf"GPU: {function} failed with CUDA error 2 \(out of"):
        open_device()


@pytest.mark.parametrize(
    "function",
    ["cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"],
)
def test_failures_carry_the_name_of_what_failed(fake_gpu, function):
    device = open_device()
    values = np.zeros(4, np.float32)

    def there_and_back():
        memory = device.allocate(values.nbytes, "body.3")
        device.copy_in(memory, values, "body.3")
        return device.copy_out(memory, values.shape, "body.3")

    assert np.array_equal(there_and_back(), values)
    fake_gpu.setenv("FAKE_FAILS", function)
    with pytest.raises(NmcompileError, match=f"body.3: {function} failed with CUDA error 2"):
        there_and_back()


def test_no_gpu(fake_gpu):
    fake_gpu.setenv("FAKE_GPUS", "0")
    with pytest.raises(NmcompileError, match="found no NVIDIA GPU: the driver shows none; see"):
        open_device()


def test_no_driver(no_gpu_after, monkeypatch):
    use_driver("libcuda_that_is_not_here.so", monkeypatch)
    with pytest.raises(NmcompileError, match=r"found no NVIDIA GPU: libcuda_that.*does not load"):
        open_device()
