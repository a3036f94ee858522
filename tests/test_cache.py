"""Calls -> times taken in turn; keys -> numbers kept across runs, processes and kills."""

import math
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

import nmcompile.timing
from nmcompile.cache import Measurements, cache_folder
from nmcompile.errors import NmcompileError
from nmcompile.timing import interleaved


def test_a_number_is_measured_once_and_kept_in_the_file(tmp_path):
    measured = []

    def measure():
        measured.append(1)
        return 2.5

    first = Measurements(tmp_path)
    assert first.get("a", 1) is None
    assert first.get_or(measure, "a", 1) == 2.5
    assert Measurements(tmp_path).get_or(measure, "a", 1) == 2.5
    assert len(measured) == 1


def test_keys_that_differ_in_any_part_are_apart(tmp_path):
    numbers = Measurements(tmp_path)
    keys = [("a", 1), ("a", "1"), ("a", 1.0), ("a", (1,)), ("a",), ("a", 1, None), ("a1",)]
    for value, key in enumerate(keys):
        numbers.put(value, *key)
    assert [numbers.get(*key) for key in keys] == list(range(len(keys)))
    numbers.put(99, "a", 1)
    assert numbers.get("a", 1) == 99


@pytest.mark.parametrize("value", [0.0, -1e-300, 1e300, math.inf, 0.1 + 0.2])
def test_numbers_come_back_to_the_last_digit(tmp_path, value):
    Measurements(tmp_path).put(value, "key")
    assert Measurements(tmp_path).get("key") == value


def test_a_measurement_that_gave_no_number_is_kept_as_that(tmp_path):
    numbers = Measurements(tmp_path)
    assert math.isnan(numbers.get_or(lambda: math.nan, "key"))
    assert math.isnan(numbers.get_or(lambda: 1.0, "key"))


def test_a_measurement_that_failed_is_not_kept(tmp_path):
    numbers = Measurements(tmp_path)
    with pytest.raises(ZeroDivisionError):
        numbers.get_or(lambda: 1 / 0, "key")
    assert numbers.get_or(lambda: 3.0, "key") == 3.0


def _put_and_die(folder: Path) -> None:
    numbers = Measurements(folder)
    numbers.put(1.0, "before")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_known_survives_a_kill(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_put_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Measurements(tmp_path).get("before") == 1.0


def test_two_users_of_one_file_see_each_other(tmp_path):
    first, second = Measurements(tmp_path), Measurements(tmp_path)
    first.put(1.0, "a")
    second.put(2.0, "b")
    assert (second.get("a"), first.get("b")) == (1.0, 2.0)


def test_a_folder_that_cannot_be_used_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NmcompileError, match="set NMCOMPILE_CACHE to a writable folder"):
        Measurements(tmp_path / "file" / "cache")
    (tmp_path / "measurements.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(NmcompileError, match="not a database"):
        Measurements(tmp_path)


def test_the_folder_is_the_user_s(tmp_path, monkeypatch):
    monkeypatch.delenv("NMCOMPILE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "nmcompile"
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    Measurements()
    assert (tmp_path / "own" / "measurements.sqlite").is_file()
    monkeypatch.delenv("NMCOMPILE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "nmcompile"


def test_two_calls_are_timed_in_turn_and_compared_round_by_round(monkeypatch):
    order = []
    clock = SimpleNamespace(now=0.0)
    durations = {"a": iter([9, 0.2, 0.4, 0.2, 0.8, 0.6]), "b": iter([9, 0.1, 0.1, 0.4, 0.2, 0.2])}

    def call(name):
        order.append(name)
        clock.now += next(durations[name])

    fake = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(nmcompile.timing, "time", fake)
    first, second, ratio = interleaved(lambda: call("a"), lambda: call("b"))
    assert "".join(order) == "ab" * 6  # a warm-up, then five rounds of 3.2 s
    assert first == pytest.approx(400)
    assert second == pytest.approx(200)
    assert ratio == pytest.approx(3)  # the median of 2, 4, 0.5, 4, 3
