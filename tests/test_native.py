"""The built libnmk -> does it tell the truth about this processor, and fail helpfully if absent?"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nmcompile
from nmcompile.errors import NmcompileError
from nmcompile.runtime import native

_HEADER = Path(__file__).resolve().parents[1] / "runtime" / "native" / "include" / "nmk.h"
_CPUINFO = Path("/proc/cpuinfo")


@pytest.fixture
def unloaded() -> Iterator[None]:
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def _cpuinfo(key: str) -> str:
    text = _CPUINFO.read_text() if _CPUINFO.is_file() else ""
    found = re.search(rf"^{key}\s*: (.*)$", text, re.MULTILINE)
    if not found:
        pytest.skip(f"{_CPUINFO} has no {key!r}: not x86 Linux")
    return found.group(1).strip()


def test_features_are_those_the_kernel_lists():
    flags = set(_cpuinfo("flags").split())
    listed = {name for name in native._FEATURES if name.lower() in flags}
    assert set(native.cpu_features()) == listed


def test_name_is_the_one_the_kernel_lists():
    assert native.cpu_name() == _cpuinfo("model name")


def test_name_is_never_empty():
    assert native.cpu_name()


def test_version_is_the_package_version():
    assert native.library().nmk_version().decode() == nmcompile.__version__
    assert native.build_info()["version"] == nmcompile.__version__


def test_header_and_loader_agree():
    header = _HEADER.read_text()
    bits = re.findall(r"#define NMK_(\w+) \(UINT64_C\(1\) << (\d+)\)", header)
    assert bits == [(name, str(index)) for index, name in enumerate(native._FEATURES)]
    assert f"#define NMK_ABI_VERSION {native.ABI_VERSION}\n" in header


def test_build_info_says_what_is_on():
    info = native.build_info()
    assert set(info) == {"version", "compiler", "flags", "build_type", "system", "components"}
    assert info["components"]["libnmk"] == {"state": "on", "reason": ""}
    for name, part in info["components"].items():
        assert part["state"] == "on" or part["reason"], f"{name} is off for no stated reason"


@pytest.mark.usefixtures("unloaded")
def test_missing_library_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    with pytest.raises(NmcompileError, match=r"libnmk\.so was not found in .*make install"):
        native.library()
    with pytest.raises(NmcompileError, match=r"build_info\.json was not found"):
        native.build_info()


@pytest.mark.usefixtures("unloaded")
def test_foreign_library_says_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "libnmk.so").write_bytes(b"not a library")
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    with pytest.raises(NmcompileError, match=r"does not load .*make install"):
        native.library()


@pytest.mark.usefixtures("unloaded")
def test_other_abi_says_what_to_do(monkeypatch):
    found = native.ABI_VERSION
    monkeypatch.setattr(native, "ABI_VERSION", 99)
    told = rf"ABI version {found}, this nmcompile needs 99; .*make"
    with pytest.raises(NmcompileError, match=told):
        native.library()
