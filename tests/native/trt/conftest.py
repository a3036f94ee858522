"""TensorRT's headers -> the plugin, built for the emulated GPU once for each of their versions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.cuda.device import EmulatedDevice
from tests.native.trt.harness import Harness, Libraries, build_emulated_plugin, include_dirs


@pytest.fixture(scope="session", params=include_dirs() or [None], ids=str)
def libraries(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Libraries:
    """The plugin and what plays TensorRT."""
    include: Path | None = request.param
    if include is None:
        pytest.skip("no headers of TensorRT are given; set TENSORRT_INCLUDE_DIR to their folder")
    emulated: EmulatedDevice = request.getfixturevalue("emulated")
    return build_emulated_plugin(include, emulated.folder, tmp_path_factory.mktemp("trt"))


@pytest.fixture(scope="session")
def shared_harness(libraries: Libraries) -> Harness:
    """TensorRT, as far as the plugin sees it."""
    return Harness(libraries.harness, libraries.plugin)


@pytest.fixture
def harness(shared_harness: Harness) -> Harness:
    """The same, its log empty."""
    shared_harness.log()
    return shared_harness


@pytest.fixture
def device(libraries: Libraries) -> Iterator[EmulatedDevice]:
    """The plugin's own emulated GPU, its memory freed afterwards."""
    device = EmulatedDevice(libraries.plugin)
    yield device
    device.clear()


@pytest.fixture
def major(libraries: Libraries) -> int:
    """The major version of TensorRT that the plugin is built for."""
    return int(libraries.nvinfer.suffix[1:])
