"""libnmk.so -> Python functions, through ctypes.

The library and build_info.json are put beside this file in a wheel, and into site-packages by
an editable install; `__path__` names both folders.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nmcompile.errors import NmcompileError

ABI_VERSION = 7
# Families whose kernels gain by bf16: vdpbf16ps and AMX.
GAIN_BY_BF16 = ("amx", "avx512_fp16", "avx512_bf16")
# Families whose vectors hold twice as many halves, and compute them.
GAIN_BY_FP16 = ("amx", "avx512_fp16")
_LIBRARY = "libnmk.so"
_BUILD_INFO = "build_info.json"
_REBUILD = "build it with `make install` (or `pip install .`), which needs a C++17 compiler"

# Bit 0 first, as in nmk.h.
_FEATURES = (
    "AVX2",
    "FMA",
    "AVX512F",
    "AVX512BW",
    "AVX512VL",
    "AVX512_BF16",
    "AVX512_FP16",
    "AMX_TILE",
    "AMX_BF16",
    "AMX_INT8",
)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded native library, its functions typed.

    Raises:
        NmcompileError: it is missing, does not load, or has another ABI version.
    """
    path = _installed(_LIBRARY)
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.nmk_abi_version.restype = ctypes.c_int
        found = loaded.nmk_abi_version()
    except (OSError, AttributeError) as error:
        raise NmcompileError(f"{path} does not load ({error}); {_REBUILD}") from None
    if found != ABI_VERSION:
        raise NmcompileError(
            f"{path} has ABI version {found}, this nmcompile needs {ABI_VERSION}; {_REBUILD}"
        )
    loaded.nmk_version.restype = ctypes.c_char_p
    loaded.nmk_cpu_features.restype = ctypes.c_uint64
    loaded.nmk_cpu_name.restype = ctypes.c_char_p
    loaded.nmk_isa.restype = ctypes.c_char_p
    loaded.nmk_isa.argtypes = [ctypes.c_uint32]
    return loaded


def cpu_features() -> tuple[str, ...]:
    """The instruction sets that processor and operating system both offer, such as AVX2."""
    bits: int = library().nmk_cpu_features()
    return tuple(name for index, name in enumerate(_FEATURES) if bits >> index & 1)


def cpu_name() -> str:
    """The processor's own name."""
    name: bytes = library().nmk_cpu_name()
    return name.decode(errors="replace")


@functools.cache
def fingerprint() -> str:
    """A digest of the library: what was measured of another build may not hold of this one."""
    return hashlib.sha256(_installed(_LIBRARY).read_bytes()).hexdigest()[:16]


def isa(most: int = 0) -> str:
    """The family of kernels that programs are loaded for.

    amx, avx512_fp16, avx512_bf16, avx512, avx2 or portable; tiles (amx in plain C++, for tests) if
    asked for.

    Args:
        most: what the program allows (nmcompile.runtime.native.blob.Isa).

    Raises:
        NmcompileError: the environment variable NMK_ISA names one that cannot run here.
    """
    name: bytes = library().nmk_isa(most)
    if not name:
        wanted = os.environ.get("NMK_ISA", "")
        found = ", ".join(cpu_features()) or "none of them"
        raise NmcompileError(
            f"NMK_ISA={wanted!r}: expected amx, avx512_fp16, avx512_bf16, avx512, avx2 or "
            f"portable, and a processor that has it (this one: {found}); unset NMK_ISA"
        )
    return name.decode()


def build_info() -> dict[str, Any]:
    """How the library was built: version, compiler, flags, build_type, system, components.

    `components` maps each part's name to {"state": "on" or "off", "reason": why}.

    Raises:
        NmcompileError: nothing was built.
    """
    info: dict[str, Any] = json.loads(_installed(_BUILD_INFO).read_text())
    return info


def find_library(name: str, build: str) -> Path:
    """A library that is built only where it can be.

    Args:
        name: of its file, such as libnmk_cuda.so.
        build: what an error says of how to build it.

    Raises:
        NmcompileError: it was not built, and why.
    """
    for folder in __path__:
        path = Path(folder) / name
        if path.is_file():
            return path
    part = build_info()["components"].get(name.removesuffix(".so"), {})
    reason = part["reason"] if part.get("state") == "off" else f"not in {', '.join(__path__)}"
    raise NmcompileError(f"{name} was not found ({reason}); {build}")


def _installed(name: str) -> Path:
    for folder in __path__:
        path = Path(folder) / name
        if path.is_file():
            return path
    raise NmcompileError(f"{name} was not found in {', '.join(__path__)}; {_REBUILD}")
