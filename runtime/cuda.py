"""NVIDIA's driver through ctypes -> the GPU's name, memory on it, and copies to and from it.

The driver's own library is enough (and is wherever a GPU is): no CUDA toolkit or package is needed.
Its streams and addresses are those of the CUDA runtime that other libraries use.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError

_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_pointer, _size, _int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_FUNCTIONS: dict[str, list[Any]] = {
    "cuInit": [ctypes.c_uint],
    "cuGetErrorString": [_int, ctypes.POINTER(ctypes.c_char_p)],
    "cuDeviceGetCount": [ctypes.POINTER(_int)],
    "cuDeviceGet": [ctypes.POINTER(_int), _int],
    "cuDeviceGetName": [ctypes.c_char_p, _int, _int],
    "cuDeviceGetAttribute": [ctypes.POINTER(_int), _int, _int],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(_pointer), _int],
    "cuCtxSetCurrent": [_pointer],
    "cuStreamCreate": [ctypes.POINTER(_pointer), ctypes.c_uint],
    "cuStreamSynchronize": [_pointer],
    "cuMemAlloc_v2": [ctypes.POINTER(ctypes.c_uint64), _size],
    "cuMemFree_v2": [ctypes.c_uint64],
    "cuMemcpyHtoDAsync_v2": [ctypes.c_uint64, _pointer, _size, _pointer],
    "cuMemcpyDtoHAsync_v2": [_pointer, ctypes.c_uint64, _size, _pointer],
}


@dataclass(frozen=True)
class Gpu:
    """What an engine is built for.

    Attributes:
        name: as the driver gives it.
        compute_capability: such as 9.0.
    """

    name: str
    compute_capability: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


class Device:
    """The first GPU that this process may use (CUDA_VISIBLE_DEVICES).

    Attributes:
        gpu: its name and compute capability.
        stream: a CUstream, which is a cudaStream_t.

    Every method raises NmcompileError with CUDA's own words and what it was for.
    """

    def __init__(self) -> None:
        """Opens it; NmcompileError if there is no driver or no GPU."""
        self._driver = _driver()
        number, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("opening the GPU", "cuDeviceGet", ctypes.byref(number), 0)
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("opening the GPU", "cuDeviceGetName", text, _NAME_BYTES, number)
        major, minor = (self._attribute(which, number) for which in (_MAJOR, _MINOR))
        self.gpu = Gpu(text.value.decode(), f"{major}.{minor}")
        # What TensorRT uses too: the CUDA runtime's context, never released in this process.
        self._call("opening the GPU", "cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
        self._context = context
        self.enter("opening the GPU")
        self._call("opening the GPU", "cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def enter(self, what: str) -> None:
        """Makes it the current one of this thread."""
        self._call(what, "cuCtxSetCurrent", self._context)

    def allocate(self, size: int, what: str) -> Memory:
        """That many bytes on the GPU."""
        address = ctypes.c_uint64()
        self._call(what, "cuMemAlloc_v2", ctypes.byref(address), max(size, 1))
        return Memory(self._driver, address.value, size)

    def copy_in(self, memory: Memory, values: NDArray[Any], what: str) -> None:
        """Queues a copy of a contiguous array, which must stay until `wait`."""
        self._call(
            what, "cuMemcpyHtoDAsync_v2", memory.address, values.ctypes.data, values.nbytes,
            self.stream,
        )  # fmt: skip

    def copy_out(self, memory: Memory, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
        """Waits for all that is queued, and gives the fp32 numbers that are in that memory."""
        values = np.empty(shape, np.float32)
        self._call(
            what, "cuMemcpyDtoHAsync_v2", values.ctypes.data, memory.address, values.nbytes,
            self.stream,
        )  # fmt: skip
        self.wait(what)
        return values

    def wait(self, what: str) -> None:
        """Waits for all that is queued."""
        self._call(what, "cuStreamSynchronize", self.stream)

    def _attribute(self, which: int, number: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call(
            "opening the GPU", "cuDeviceGetAttribute", ctypes.byref(value), which, number
        )  # fmt: skip
        return value.value

    def _call(self, what: str, function: str, *arguments: Any) -> None:
        _check(self._driver, what, function, *arguments)


class Memory:
    """Bytes on the GPU, freed with this object."""

    def __init__(self, driver: ctypes.CDLL, address: int, size: int) -> None:
        self.address, self.size = address, size
        weakref.finalize(self, driver.cuMemFree_v2, address)


@functools.cache
def open_device() -> Device:
    """The one device of this process; NmcompileError if there is none."""
    return Device()


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise NmcompileError(
            f"found no NVIDIA GPU: {_LIBRARY} does not load ({error}); use a machine that has one, "
            "with its driver"
        ) from None
    for name, arguments in _FUNCTIONS.items():
        getattr(driver, name).argtypes = arguments
    count = ctypes.c_int()
    _check(driver, "looking for a GPU", "cuInit", 0)
    _check(driver, "looking for a GPU", "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise NmcompileError(
            "found no NVIDIA GPU: the driver shows none; see nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    return driver


def _check(driver: ctypes.CDLL, what: str, function: str, *arguments: Any) -> None:
    code = getattr(driver, function)(*arguments)
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        said = (text.value or b"unknown error").decode()
        raise NmcompileError(f"{what}: {function} failed with CUDA error {code} ({said})")
