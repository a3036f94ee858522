"""Arrays -> a device that libnmk_cuda runs on: one emulated in this process, or a GPU."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nmcompile.runtime.native.cuda_conv import load_library

ROOT = Path(__file__).resolve().parents[3]
_NATIVE = ROOT / "runtime" / "native"
_EMULATION = Path(__file__).with_name("emulation")
_FLAGS = [
    "-x", "c++", "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra",
    "-Wpedantic", "-Wconversion", "-Wshadow", "-Wno-unknown-pragmas", "-Werror", "-DNMK_EMULATED",
    "-DNMK_BUILDING", f"-I{_EMULATION}", f"-I{_NATIVE / 'include'}", f"-I{_NATIVE / 'cuda'}",
]  # fmt: skip
Array = NDArray[Any]


def build_emulated(folder: Path) -> Path:
    """Compiles the kernels themselves, and the emulated device; objects stay beside the library."""
    sources = [*sorted((_NATIVE / "cuda").glob("*.c*")), *sorted(_EMULATION.glob("*.cpp"))]
    sources = [source for source in sources if source.suffix in (".cu", ".cpp")]
    return link(folder / "libnmk_cuda_emulated.so", compile_emulated(sources, folder))


def compile_emulated(sources: Sequence[Path], folder: Path, *flags: str) -> list[Path]:
    """Compiles for the emulated device, warnings being errors; gives the objects."""
    objects = [folder / f"{source.name}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda pair: _run(_compiler(), *_FLAGS, *flags, "-c", pair[0], "-o", pair[1]),
                      zip(sources, objects, strict=True)))  # fmt: skip
    return objects


def link(library: Path, objects: Sequence[Path], *flags: str) -> Path:
    """Joins objects to a shared library."""
    _run(_compiler(), "-shared", *objects, "-o", library, *flags)
    return library


def _compiler() -> str:
    compiler = os.environ.get("CXX", "g++").split()[0]
    if not shutil.which(compiler):
        pytest.skip(f"the emulated kernels need a C++ compiler; {compiler} was not found")
    return compiler


def _run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr[-4000:]}"


class EmulatedDevice:
    """The kernels' sources, run on this processor."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.library = load_library(path)
        self.library.nmk_emulated_malloc.restype = ctypes.c_void_p
        self.library.nmk_emulated_malloc.argtypes = [ctypes.c_size_t]
        self.library.nmk_emulated_free.argtypes = [ctypes.c_void_p]
        self.library.nmk_emulated_conflicts.restype = ctypes.c_long
        self._addresses: list[int] = []
        self.configure()

    def configure(
        self,
        *,
        shared_of_block: int = 1 << 20,
        shared_of_processor: int = 1 << 17,
        processors: int = 1,
        major: int = 8,
        late: bool = False,
        seed: int = 0,
        checked: bool = True,
    ) -> None:
        """What GPU it is; `late`: asynchronous copies come when awaited, else at once.

        `checked`: memory that was not `put` there is refused.
        """
        self.library.nmk_emulated_configure(
            shared_of_block, shared_of_processor, processors, major, late, seed, checked
        )

    @property
    def conflicts(self) -> int:
        """Rows of matrices that waited for a bank since the last `configure`."""
        return int(self.library.nmk_emulated_conflicts())

    @property
    def allocations(self) -> NDArray[np.int32]:
        """How many pieces of its memory are taken now, and ever were."""
        counts = np.zeros(2, np.int32)
        now, ever = (ctypes.c_void_p(counts[i:].ctypes.data) for i in range(2))
        self.library.nmk_emulated_allocations(now, ever)
        return counts

    def put(self, array: Array) -> int:
        """Copies an array to the device; gives its address."""
        array = np.ascontiguousarray(array)
        address: int = self.library.nmk_emulated_malloc(array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        self._addresses.append(address)
        return address

    def get(self, address: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        """The halves at an address."""
        found = np.empty(shape, np.uint16)
        ctypes.memmove(found.ctypes.data, address, found.nbytes)
        return found

    def clear(self) -> None:
        """Frees all that was put there."""
        while self._addresses:
            self.library.nmk_emulated_free(self._addresses.pop())


class GpuDevice:
    """The kernels as nvcc compiled them, on the current GPU; without `path`, its memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.library = load_library(path) if path else None
        self._tensors: dict[int, Any] = {}

    def configure(self, **_: Any) -> None:
        """A GPU is what it is."""

    def put(self, array: Array) -> int:
        """Copies an array to the device; gives its address."""
        import torch

        tensor = torch.from_numpy(np.array(array).view(np.uint8).reshape(-1)).cuda()
        self._tensors[tensor.data_ptr()] = tensor
        return tensor.data_ptr()

    def get(self, address: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        """The halves at an address, once all that was queued is done."""
        import torch

        torch.cuda.synchronize()
        found: NDArray[np.uint16] = self._tensors[address].cpu().numpy().view(np.uint16)
        return found.reshape(shape)

    def clear(self) -> None:
        """Frees all that was put there."""
        self._tensors.clear()
