"""A test -> a machine with a fake GPU and a fake TensorRT, as far as nmcompile can tell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nmcompile
from nmcompile.runtime import cuda
from tests.nvidia.tensorrt import Fake


def build_driver(folder: Path) -> Path:
    """Compiles driver.c."""
    return _compiled("driver.c", folder / "libcuda.so.1")


def build_plugin(path: Path, major: int, version: str = nmcompile.__version__) -> Path:
    """Compiles a library that says it has plugins for that major."""
    return _compiled("plugin.c", path, f"-DMAJOR={major}", f'-DVERSION="{version}"')


def _compiled(source: str, library: Path, *more: str) -> Path:
    compiler = os.environ.get("CC", "gcc").split()[0]
    if not shutil.which(compiler):
        pytest.skip(f"fake libraries need a C compiler; {compiler} was not found")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *more]
    path = Path(__file__).with_name(source)
    subprocess.run([compiler, *flags, str(path), "-o", str(library)], check=True)
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
