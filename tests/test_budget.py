"""Text -> budgets, and what is no budget."""

import pytest

from nmcompile.budget import Budget
from nmcompile.errors import NmcompileError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs=0.5", Budget("macs", 0.5, "x")),
        ("macs=.25x", Budget("macs", 0.25, "x")),
        ("macs=1", Budget("macs", 1.0, "x")),
        ("latency=40ms", Budget("latency", 40.0, "ms")),
        ("latency=0.5x", Budget("latency", 0.5, "x")),
        ("drop=0.1dB", Budget("drop", 0.1, "dB")),
        ("drop=0.1", Budget("drop", 0.1, "dB")),
        (" drop=2db ", Budget("drop", 2.0, "dB")),
    ],
)
def test_text_is_read(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["macs=0.5", "latency=40ms", "latency=0.5x", "drop=0.1dB"])
def test_a_budget_is_written_as_it_is_read(text):
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "0.5", "macs", "macs=", "macs=half", "macs=-1", "latency=40", "latency=4s", "psnr=1"],
)
def test_what_is_no_budget_is_said(text):
    with pytest.raises(NmcompileError, match="unknown budget") as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("macs=0", "above 0 and at most 1"),
        ("macs=1.5", "above 0 and at most 1"),
        ("latency=2x", "above 0 and at most 1"),
        ("latency=0ms", "above 0"),
        ("drop=0dB", "above 0"),
    ],
)
def test_an_impossible_limit_is_said(text, allowed):
    with pytest.raises(NmcompileError, match=f"the limit must be {allowed}$"):
        Budget.parse(text)
