"""A test -> the emulated device, built once."""

from collections.abc import Iterator

import pytest

from tests.native.cuda.device import EmulatedDevice, build_emulated


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedDevice:
    """The kernels' own sources, compiled for this processor."""
    return EmulatedDevice(build_emulated(tmp_path_factory.mktemp("emulated")))


@pytest.fixture
def device(emulated: EmulatedDevice) -> Iterator[EmulatedDevice]:
    """The emulated device as it is by default, its memory freed afterwards."""
    emulated.configure()
    yield emulated
    emulated.clear()
