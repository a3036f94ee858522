"""The bytes of a packed program + arrays -> the network's outputs, run by libnmk."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.errors import NmcompileError
from nmcompile.runtime import native

_TEXT = 512
_Image = NDArray[np.float32]


class NativeProgram:
    """A packed program, loaded; may be run from several threads at once.

    Attributes:
        isa: the family of kernels it was loaded for.
        channels: of each input.
        outputs: how many outputs it has.
        operations: how many steps it consists of.
        levels: how many it has; the last keeps all weights, a lower one some of the next one's.
        full_width: columns that fill what its kernels compute at a time: a width takes about as
            long as the next multiple of it. A tall image may run transposed, by its height then.
    """

    def __init__(self, packed: bytes, source: str = "program") -> None:
        """Loads a program.

        Args:
            packed: its bytes.
            source: what errors call it.

        Raises:
            NmcompileError: it is damaged, or cannot run here.
        """
        native.isa()  # tells what is wrong with NMK_ISA
        self._library = _library()
        self._source = source
        text = ctypes.create_string_buffer(_TEXT)
        self._handle = self._library.nmk_program_load(packed, len(packed), text, _TEXT)
        if not self._handle:
            raise NmcompileError(f"{source}: {text.value.decode()}; compile the engine again")
        weakref.finalize(self, self._library.nmk_program_free, self._handle)
        self.isa: str = self._library.nmk_program_isa(self._handle).decode()
        counts = [ctypes.c_uint32() for _ in range(3)]
        self._library.nmk_program_counts(self._handle, *map(ctypes.byref, counts))
        inputs, self.outputs, self.operations = (count.value for count in counts)
        self.levels: int = self._library.nmk_program_levels(self._handle)
        self.full_width: int = self._library.nmk_program_full_width(self._handle)
        self.channels = tuple(self._channels(index) for index in range(inputs))

    def run(
        self, inputs: Sequence[_Image], threads: int = 1, level: int | None = None
    ) -> list[_Image]:
        """Runs it on a batch.

        Args:
            inputs: one array N x C x H x W for each input, all of one N.
            threads: how many to use, the calling one among them.
            level: which weights to use, from 0; None for the last, which is all of them.

        Raises:
            NmcompileError: arrays that it does not take, an impossible size, or no such level.
        """
        return self._call(inputs, threads, level, self._library.nmk_program_run)

    def profile(
        self, inputs: Sequence[_Image], threads: int = 1, level: int | None = None
    ) -> list[float]:
        """Runs it as `run` does and gives the seconds of each operation, a mean over threads."""
        seconds = (ctypes.c_double * self.operations)()
        self._call(inputs, threads, level, self._library.nmk_program_profile, seconds)
        return list(seconds)

    def _call(
        self,
        inputs: Sequence[_Image],
        threads: int,
        level: int | None,
        function: Any,
        *more: Any,
    ) -> list[_Image]:
        images = [np.ascontiguousarray(image, np.float32) for image in inputs]
        self._check(images)
        batch = images[0].shape[0]
        sides = [side for image in images for side in image.shape[2:]]
        sizes = (ctypes.c_int64 * len(sides))(*sides)
        results = [
            np.empty((batch, *self._output_shape(index, sizes)), np.float32)
            for index in range(self.outputs)
        ]
        text = ctypes.create_string_buffer(_TEXT)
        failed = function(
            self._handle, _pointers(images), batch, sizes, _pointers(results), threads,
            self.levels - 1 if level is None else level, *more, text, _TEXT,
        )  # fmt: skip
        self._raise_if(failed, text)
        return results

    def _check(self, images: Sequence[_Image]) -> None:
        if len(images) != len(self.channels):
            raise NmcompileError(
                f"{self._source} takes {len(self.channels)} inputs, {len(images)} were given"
            )
        for image, channels in zip(images, self.channels, strict=True):
            if image.ndim != 4 or image.shape[:2] != (images[0].shape[0], channels):
                raise NmcompileError(
                    f"{self._source}: an input has shape {image.shape}, expected N x {channels} x "
                    "H x W, N the same for all inputs; give it that"
                )

    def _channels(self, index: int) -> int:
        channels = ctypes.c_uint32()
        self._library.nmk_program_input(self._handle, index, ctypes.byref(channels))
        return channels.value

    def _output_shape(
        self, index: int, sizes: ctypes.Array[ctypes.c_int64]
    ) -> tuple[int, int, int]:
        shape = (ctypes.c_int64 * 3)()
        text = ctypes.create_string_buffer(_TEXT)
        failed = self._library.nmk_program_output(self._handle, index, sizes, shape, text, _TEXT)
        self._raise_if(failed, text)
        return (shape[0], shape[1], shape[2])

    def _raise_if(self, failed: int, text: ctypes.Array[ctypes.c_char]) -> None:
        if failed:
            raise NmcompileError(f"{self._source}: {text.value.decode()}")


def _pointers(arrays: Sequence[_Image]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _library() -> ctypes.CDLL:
    """The library with this file's functions typed."""
    library = native.library()
    pointer, size, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    u32, i64 = ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_int64)
    library.nmk_program_load.restype = pointer
    library.nmk_program_load.argtypes = [text, ctypes.c_size_t, text, ctypes.c_size_t]
    library.nmk_program_free.restype = None
    library.nmk_program_free.argtypes = [pointer]
    library.nmk_program_isa.restype = text
    library.nmk_program_isa.argtypes = [pointer]
    library.nmk_program_counts.argtypes = [pointer, u32, u32, u32]
    library.nmk_program_levels.restype = ctypes.c_uint32
    library.nmk_program_levels.argtypes = [pointer]
    library.nmk_program_full_width.restype = ctypes.c_uint32
    library.nmk_program_full_width.argtypes = [pointer]
    library.nmk_program_input.argtypes = [pointer, ctypes.c_uint32, u32]
    library.nmk_program_output.argtypes = [
        pointer, ctypes.c_uint32, i64, i64, text, ctypes.c_size_t,
    ]  # fmt: skip
    library.nmk_program_run.argtypes = [
        pointer, pointer, size, i64, pointer, ctypes.c_int, ctypes.c_int, text, ctypes.c_size_t,
    ]  # fmt: skip
    library.nmk_program_profile.argtypes = [
        pointer, pointer, size, i64, pointer, ctypes.c_int, ctypes.c_int,
        ctypes.POINTER(ctypes.c_double), text, ctypes.c_size_t,
    ]  # fmt: skip
    return library
