"""Fixtures of all tests of libnmk."""

import pytest

from tests.native.build import isas


@pytest.fixture(params=isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every family of kernels that runs here, one after the other."""
    family: str = request.param
    monkeypatch.setenv("NMK_ISA", family)
    return family
