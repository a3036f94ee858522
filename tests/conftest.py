"""Test session -> the folder of weights and images that some tests need, or a skip."""

import os
from pathlib import Path

import pytest

_BESIDE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with `weights`, `reference_io`, `sr` and so on; NMCOMPILE_DATA overrides it."""
    folder = Path(os.environ.get("NMCOMPILE_DATA", _BESIDE_REPOSITORY))
    if not folder.is_dir():
        pytest.skip(f"data folder {folder} is absent; set NMCOMPILE_DATA to where it is")
    return folder
