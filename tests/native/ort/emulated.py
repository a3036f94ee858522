"""The CUDA operator's sources -> a library that runs them on the CPU provider, its GPU emulated."""

import ctypes
import os
from pathlib import Path

import pytest

from nmcompile.runtime import native
from tests.native.cuda.device import _NATIVE, ROOT, compile_emulated, link

# The CPU's own operator stays out: both would be of one name and one provider.
_NO_CPU = """// The library under test -> no operator for the CPU provider but the emulated one.
#include "op.h"
namespace nmk_ort { std::unique_ptr<Op> cpu_op() { return nullptr; } }
"""


def headers() -> Path:
    """ONNX Runtime's headers, where the installed library was built with them."""
    places = (
        os.environ.get("ONNXRUNTIME_INCLUDE_DIR"), ROOT / "build" / "onnxruntime",
        "/usr/include/onnxruntime", "/usr/local/include/onnxruntime",
    )  # fmt: skip
    for place in places:
        if place and (Path(place) / "onnxruntime_c_api.h").is_file():
            return Path(place)
    part = native.build_info()["components"]["libnmk_ort"]
    pytest.skip(f"no ONNX Runtime headers: {part['reason']}")


def build_ort_emulated(folder: Path, kernels: Path) -> Path:
    """Compiles the operator; skips where there are no headers.

    Args:
        folder: of the library.
        kernels: where the objects of kernels and emulated device are.
    """
    flags = [f"-I{_NATIVE / 'ort'}", "-isystem", str(headers())]
    (folder / "no_cpu.cpp").write_text(_NO_CPU)
    names = ("register", "op", "node", "threads", "cuda")
    sources = [folder / "no_cpu.cpp", *(_NATIVE / "ort" / f"{name}.cpp" for name in names)]
    objects = [*compile_emulated(sources, folder, *flags), *kernels.glob("*.o")]
    library = link(folder / "libnmk_ort_emulated.so", objects, "-pthread", "-Wl,-z,nodelete")
    device = ctypes.CDLL(str(library))
    device.nmk_emulated_configure(1 << 20, 1 << 17, 1, 8, False, 0, False)
    return library
