"""The CUDA operator's sources -> a library that runs them on the CPU provider, its GPU emulated."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nmcompile.runtime import native
from tests.native.cuda.device import _EMULATION, _FLAGS, _NATIVE, _run

# The CPU's own operator stays out: both would be of one name and one provider.
_NO_CPU = """// The library under test -> no operator for the CPU provider but the emulated one.
#include "op.h"
namespace nmk_ort { std::unique_ptr<Op> cpu_op() { return nullptr; } }
"""


def headers() -> Path:
    """ONNX Runtime's headers, where the installed library was built with them."""
    for place in (os.environ.get("ONNXRUNTIME_INCLUDE_DIR"), "build/onnxruntime",
                  "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"):  # fmt: skip
        if place and (Path(place) / "onnxruntime_c_api.h").is_file():
            return Path(place)
    part = native.build_info()["components"]["libnmk_ort"]
    return pytest.skip(f"no ONNX Runtime headers: {part['reason']}")


def build_ort_emulated(folder: Path) -> Path:
    """Compiles operator, kernels and the emulated device; skips where there are no headers."""
    include = headers()
    (folder / "no_cpu.cpp").write_text(_NO_CPU)
    ort = [
        _NATIVE / "ort" / f"{name}.cpp" for name in ("register", "op", "node", "threads", "cuda")
    ]
    sources = [
        *ort,
        folder / "no_cpu.cpp",
        *(_NATIVE / "cuda").glob("*.c*"),
        *_EMULATION.glob("*.cpp"),
    ]
    sources = [source for source in sources if source.suffix in (".cu", ".cpp")]
    objects = [folder / f"{source.parent.name}_{source.name}.o" for source in sources]
    flags = [*_FLAGS, f"-I{_NATIVE / 'ort'}", "-isystem", include]
    compiler = os.environ.get("CXX", "g++").split()[0]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda pair: _run(compiler, *flags, "-c", pair[0], "-o", pair[1]),
                      zip(sources, objects, strict=True)))  # fmt: skip
    library = folder / "libnmk_ort_emulated.so"
    _run(compiler, "-shared", "-pthread", "-Wl,-z,nodelete", *objects, "-o", library)
    device = ctypes.CDLL(str(library))
    device.nmk_emulated_configure(1 << 20, 1 << 17, 1, 8, False, 0, False)
    return library
