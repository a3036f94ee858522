"""The text of --route -> shares of the levels, or what is wrong with it."""

import pytest

from nmcompile.errors import NmcompileError
from nmcompile.routing.spec import RouteSpec


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("0.2,0.4,0.7", (0.2, 0.4, 0.7)),
        ("0.5, 1", (0.5, 1.0)),
        (".3,1.0", (0.3, 1.0)),
    ],
)
def test_what_is_read(text, shares):
    spec = RouteSpec.parse(text)
    assert (spec.count, spec.shares, spec.quantity) == (len(shares), shares, "macs")


def test_levels_that_are_only_counted():
    assert RouteSpec.parse(" 3 ") == RouteSpec(3)
    assert str(RouteSpec.parse("8")) == "8"


def test_shares_of_the_time():
    spec = RouteSpec.parse("latency=0.4,0.6,1")
    assert (spec.quantity, spec.shares) == ("latency", (0.4, 0.6, 1.0))


def test_text_and_back():
    assert str(RouteSpec.parse("0.2,0.4,0.7")) == "macs=0.2,0.4,0.7"
    assert RouteSpec.parse("macs=0.2,0.4,0.7") == RouteSpec.parse("0.2,0.4,0.7")
    assert RouteSpec.parse("3", "image").by == "image"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1", "1 level; expected 2 to 8"),
        ("0", "0 levels; expected 2 to 8"),
        ("9", "9 levels; expected 2 to 8"),
        ("1.0", "1 level; expected 2 to 8"),
        (",".join(f"{i / 10}" for i in range(1, 10)), "9 levels; expected 2 to 8"),
        ("0.4,0.2", "must increase from level to level"),
        ("0.4,0.4", "must increase from level to level"),
        ("0.4,1.2", "above 0 and at most 1"),
        ("0,0.5", "above 0 and at most 1"),
        ("nan,0.5", "above 0 and at most 1"),
        ("-1", "1 level; expected 2 to 8"),
        ("few", "expected a number of levels or their shares"),
        ("0.2,,0.4", "expected a number of levels or their shares"),
        ("watts=0.2,0.4", "expected a number of levels or their shares"),
        ("=0.2,0.4", "expected a number of levels or their shares"),
        ("latency=3", "1 level; expected 2 to 8"),
        ("", "expected a number of levels or their shares"),
    ],
)
def test_what_is_wrong(text, said):
    with pytest.raises(NmcompileError, match=f"--route .*{said}"):
        RouteSpec.parse(text)


def test_routes_are_by_tile_or_image():
    with pytest.raises(NmcompileError, match="--route-by row: expected tile or image"):
        RouteSpec.parse("3", "row")


@pytest.mark.parametrize(("text", "effort"), [("min", 0), ("max", 1), ("0.4", 0.4), (None, None)])
def test_efforts(text, effort):
    assert RouteSpec.parse("3", effort=text).effort == effort


@pytest.mark.parametrize("text", ["1.1", "-0.1", "nan", "much", ""])
def test_efforts_that_are_none(text):
    with pytest.raises(NmcompileError, match=r"--effort .*: expected a number from 0 to 1"):
        RouteSpec.parse("3", effort=text)
