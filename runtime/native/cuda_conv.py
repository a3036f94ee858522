"""Packed weights + images in a GPU's memory -> their convolution, by libnmk_cuda through ctypes."""

from __future__ import annotations

import ctypes
import functools
import weakref
from pathlib import Path
from typing import Any

from nmcompile.errors import NmcompileError
from nmcompile.runtime import native

ABI_VERSION = 1
_LIBRARY = "libnmk_cuda.so"
_TEXT = 512
_REBUILD = "build it with `pip install . -C cmake.define.NMCOMPILE_CUDA=ON`, which needs nvcc 12.5"


def installed_library() -> ctypes.CDLL:
    """The library that was built with this installation.

    Raises:
        NmcompileError: it was not built; the message says why.
    """
    return load_library(native.find_library(_LIBRARY, _REBUILD))


@functools.cache
def load_library(path: Path) -> ctypes.CDLL:
    """A library, its functions typed.

    Raises:
        NmcompileError: it does not load, or has another ABI version.
    """
    try:
        loaded = ctypes.CDLL(str(path))
        found = loaded.nmk_cuda_abi_version()
    except (OSError, AttributeError) as error:
        raise NmcompileError(f"{path} does not load ({error}); {_REBUILD}") from None
    if found != ABI_VERSION:
        raise NmcompileError(
            f"{path} has ABI version {found}, this nmcompile needs {ABI_VERSION}; {_REBUILD}"
        )
    pointer, size, wide = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    text = [ctypes.c_char_p, size]
    sizes = [wide, wide, wide, ctypes.c_int, pointer, pointer, *text]
    for name, result, arguments in (
        ("kernel_name", ctypes.c_char_p, [ctypes.c_int]),
        ("kernel_shared_bytes", size, [ctypes.c_int]),
        ("conv_load", pointer, [ctypes.c_char_p, size, ctypes.c_char_p, *text]),
        ("conv_free", None, [pointer]),
        ("conv_levels", ctypes.c_int, [pointer]),
        ("conv_kernel", ctypes.c_char_p, [pointer, ctypes.c_int]),
        ("conv_output", ctypes.c_int, [pointer, wide, wide, pointer, *text]),
        ("conv_run", ctypes.c_int, [pointer, pointer, pointer, pointer, *sizes]),
        ("block_load", pointer, [pointer, pointer, *text]),
        ("block_free", None, [pointer]),
        ("block_kernel", ctypes.c_char_p, [pointer, ctypes.c_int]),
        ("block_run", ctypes.c_int, [pointer, pointer, pointer, *sizes]),
    ):
        function = getattr(loaded, f"nmk_cuda_{name}")
        function.restype, function.argtypes = result, arguments
    return loaded


def kernel_names(library: ctypes.CDLL) -> list[str]:
    """Every kernel that it holds."""
    names: list[str] = []
    while (name := library.nmk_cuda_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return names


def kernel_shared_bytes(library: ctypes.CDLL) -> dict[str, int]:
    """Bytes of shared memory that a block of each kernel takes, at 16 gathered channels a step."""
    names = kernel_names(library)
    return {name: library.nmk_cuda_kernel_shared_bytes(i) for i, name in enumerate(names)}


class _Handle:
    """What the library made, freed with this object."""

    def __init__(self, library: ctypes.CDLL, kind: str, *arguments: Any) -> None:
        self._library, self._kind = library, kind
        text = ctypes.create_string_buffer(_TEXT)
        self.handle = self._function("load")(*arguments, text, _TEXT)
        if not self.handle:
            raise NmcompileError(text.value.decode())
        weakref.finalize(self, self._function("free"), self.handle)

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"nmk_cuda_{self._kind}_{name}")

    def _call(self, name: str, *arguments: Any) -> None:
        text = ctypes.create_string_buffer(_TEXT)
        if self._function(name)(self.handle, *arguments, text, _TEXT):
            raise NmcompileError(text.value.decode())

    def kernel(self, level: int = 0) -> str:
        """The name of the kernel that runs a level, as in f16_sparse_64x16_s1."""
        name: bytes | None = self._function("kernel")(self.handle, level)
        if name is None:
            raise NmcompileError(f"found no level {level}; name one that was packed")
        return name.decode()


class CudaConv(_Handle):
    """A convolution with its weights on the current device; may be run from several threads.

    Attributes:
        levels: how many it has; the last keeps all its weights.
    """

    def __init__(self, library: ctypes.CDLL, packed: bytes, name: str) -> None:
        """Loads packed weights (cuda_pack.pack).

        Raises:
            NmcompileError: they are damaged, or cannot run here.
        """
        super().__init__(library, "conv", packed, len(packed), name.encode())
        self.levels: int = library.nmk_cuda_conv_levels(self.handle)

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Height, width and channels of its output.

        Raises:
            NmcompileError: an image of that size is impossible.
        """
        shape = (ctypes.c_int64 * 3)()
        self._call("output", height, width, shape)
        return shape[0], shape[1], shape[2]

    def run(
        self,
        x: int,
        y: int,
        size: tuple[int, int, int],
        *,
        residual: int = 0,
        level: int | None = None,
        level_chosen: int = 0,
        stream: int = 0,
    ) -> None:
        """Queues it on a stream.

        Args:
            x: address of the input, [batch, height, width, channels], on the device.
            y: address of the output.
            size: batch, height and width of the input.
            residual: address of what is added, of the output's shape; 0 if the layer adds nothing.
            level: which weights; None for the last level.
            level_chosen: address, on the device, of an int32 that names the level instead; or 0.
            stream: a cudaStream_t; 0 for the default one.

        Raises:
            NmcompileError: an impossible size or level, or CUDA's own error.
        """
        chosen = _level(level, level_chosen, self.levels)
        self._call("run", x, residual, y, *size, chosen, level_chosen, stream)


class CudaBlock(_Handle):
    """Two convolutions of 64 channels, and a residual, in one kernel."""

    def __init__(self, library: ctypes.CDLL, first: CudaConv, second: CudaConv) -> None:
        """Joins two convolutions.

        Raises:
            NmcompileError: they are not two that a fused block takes.
        """
        self._parts = first, second  # kept for their weights, and freed after it
        self.levels = first.levels
        super().__init__(library, "block", first.handle, second.handle)

    def run(
        self,
        x: int,
        y: int,
        size: tuple[int, int, int],
        *,
        level: int | None = None,
        level_chosen: int = 0,
        stream: int = 0,
    ) -> None:
        """Queues it on a stream; arguments and errors are CudaConv.run's."""
        chosen = _level(level, level_chosen, self.levels)
        self._call("run", x, y, *size, chosen, level_chosen, stream)


def _level(level: int | None, level_chosen: int, levels: int) -> int:
    if level_chosen:
        return -1
    return levels - 1 if level is None else level
