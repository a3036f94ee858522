"""Test session -> the data folder (or a skip), an emulated GPU, a fake one, steady times."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmcompile import precision
from nmcompile.backends import cpu
from nmcompile.backends.cpu import CpuTarget
from nmcompile.context import ConvSpec
from nmcompile.pattern import DENSE, Pattern
from nmcompile.runtime import cuda
from tests.native.cuda.device import EmulatedDevice, build_emulated
from tests.native.ort.emulated import build_ort_emulated
from tests.nvidia.machine import build_driver, use_driver

_BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with `weights`, `reference_io`, `sr` and so on; NMCOMPILE_DATA overrides it."""
    folder = Path(os.environ.get("NMCOMPILE_DATA", _BESIDE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"data folder {folder} is absent; set NMCOMPILE_DATA to where it is")
    return folder


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedDevice:
    """The CUDA kernels' own sources, compiled for this processor."""
    return EmulatedDevice(build_emulated(tmp_path_factory.mktemp("emulated")))


@pytest.fixture(scope="session")
def ort_emulated(tmp_path_factory: pytest.TempPathFactory, emulated: EmulatedDevice) -> Path:
    """libnmk_ort with the CUDA kernels on an emulated GPU, for the CPU provider."""
    return build_ort_emulated(tmp_path_factory.mktemp("ort_emulated"), emulated.folder)


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that stands for NVIDIA's driver."""
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def no_gpu_after() -> Iterator[None]:
    """Forgets the fake GPU when the test is done."""
    yield
    cuda._driver.cache_clear()
    cuda.open_device.cache_clear()


@pytest.fixture
def fake_gpu(
    fake_driver: Path, no_gpu_after: None, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """A machine with one fake GPU; gives what changes it."""
    use_driver(fake_driver, monkeypatch)
    return monkeypatch


@pytest.fixture(autouse=True)
def _steady_times(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's time is its kept multiply-accumulates: patterns must not depend on a busy machine.

    Tests of the measurement itself are marked `real_times`.
    """
    if request.node.get_closest_marker("real_times") is None:
        monkeypatch.setattr(CpuTarget, "latency_ms", _modelled_ms)
        monkeypatch.setattr(cpu, "gain_of_regions", lambda *_: 1.5)
        monkeypatch.setattr(precision, "speed_ratio", lambda *_: 1.5)


def _modelled_ms(_: CpuTarget, spec: ConvSpec, kernel: str) -> float:
    pattern = re.search(r"nm-([0-9x:]+)", kernel)
    kept = Pattern.parse(pattern[1]) if pattern else DENSE
    return 1e-6 * kept.n / kept.m * math.prod((*spec.shape, *spec.input_shape[2:]))
