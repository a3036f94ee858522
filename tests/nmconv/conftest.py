"""A test -> the emulated GPU as it is by default."""

from collections.abc import Iterator

import pytest

from tests.native.cuda.device import EmulatedDevice


@pytest.fixture
def device(emulated: EmulatedDevice) -> Iterator[EmulatedDevice]:
    """The emulated device, its memory freed afterwards."""
    emulated.configure()
    yield emulated
    emulated.clear()
