"""A test -> a machine with a fake GPU and a fake TensorRT, as far as nmcompile can tell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nmcompile.runtime import cuda
from tests.nvidia.tensorrt import Fake

_DRIVER = Path(__file__).with_name("driver.c")
GPU = "Fake GPU"


def build_driver(folder: Path) -> Path:
    """Compiles driver.c."""
    compiler = os.environ.get("CC", "gcc").split()[0]
    if not shutil.which(compiler):
        pytest.skip(f"the fake driver needs a C compiler; {compiler} was not found")
    library = folder / "libcuda.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(_DRIVER), "-o", str(library)], check=True)
    return library


def use_driver(library: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes nmcompile load that driver, anew."""
    monkeypatch.setattr(cuda, "_LIBRARY", str(library))
    cuda._driver.cache_clear()
    cuda.open_device.cache_clear()


def use_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str = "11.1.0.106") -> Fake:
    """Makes `import tensorrt` give the fake module."""
    fake = Fake(version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    return fake
