"""What a program may use, what the processor has, NMK_ISA -> the kernels that it runs in."""

import dataclasses
import logging

import numpy as np
import pytest

from nmcompile.backends import make_target
from nmcompile.backends.cpu import most_isa
from nmcompile.cli import main
from nmcompile.engine import seal
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.runtime import load, native
from nmcompile.runtime.native.blob import ConvShape, Isa, Kind, Operation, Value, conv_data, pack
from nmcompile.runtime.native.program import NativeProgram
from tests.engines import PLAIN
from tests.native.build import families, noise
from tests.native.test_target import _layer

LIMITED = [isa for isa in Isa if isa is not Isa.BEST]
PLACE = 36  # of the limit in a program's header
WEIGHT = noise(5, 3, 3, 3)


def program(isa):
    step = Operation(
        Kind.CONV2D, (0,), 1, ConvShape((3, 3), padding=(1, 1, 1, 1)).params(),
        data=conv_data(WEIGHT, None, False),
    )  # fmt: skip
    return pack([3, 5], [Value(0, 0, 3), Value(1, 0, 5)], [step], 1, [1], isa)


def lesser(*names):
    return min(Isa[name.upper()] for name in names).name.lower()


def test_a_program_without_a_limit_takes_the_best():
    assert NativeProgram(program(Isa.BEST)).isa == native.isa() == families()[0]


@pytest.mark.parametrize("isa", LIMITED)
def test_a_limit_is_kept_and_changes_no_result(isa):
    x = noise(1, 3, 9, 20)
    limited = NativeProgram(program(isa))
    assert limited.isa == lesser(isa.name, families()[0])
    (found,), (best,) = limited.run([x]), NativeProgram(program(Isa.BEST)).run([x])
    np.testing.assert_allclose(found, best, rtol=0, atol=1e-5 * np.abs(best).max())


@pytest.mark.parametrize("isa", LIMITED)
@pytest.mark.parametrize("wanted", families())
def test_the_lesser_of_limit_and_variable_counts(monkeypatch, isa, wanted):
    monkeypatch.setenv("NMK_ISA", wanted)
    assert NativeProgram(program(isa)).isa == lesser(isa.name, wanted)


def test_a_variable_that_cannot_be_is_refused_whatever_the_limit(monkeypatch):
    monkeypatch.setenv("NMK_ISA", "sse9")
    with pytest.raises(NmcompileError, match="unset NMK_ISA"):
        NativeProgram(program(Isa.PORTABLE))


@pytest.mark.parametrize("limit", [max(Isa) + 1, 2**32 - 1])
def test_an_unknown_limit_is_damage(limit):
    packed = bytearray(program(Isa.BEST))
    assert packed[PLACE : PLACE + 4] == bytes(4)
    packed[PLACE : PLACE + 4] = limit.to_bytes(4, "little")
    with pytest.raises(NmcompileError, match="damaged program: instruction set"):
        NativeProgram(bytes(packed))


@pytest.mark.parametrize("family", families())
def test_a_limited_target_times_and_names_its_kernels(family):
    target = make_target(f"cpu:{family}", 1)
    assert target.kernel(_layer("w", 1.0, 1.0), Pattern.parse("2:4")) == f"fp32.nm-2:4.{family}"
    assert family in target.key()
    assert most_isa(target.name).name.lower() == family


def test_what_cannot_be_timed_here_is_said(monkeypatch):
    monkeypatch.setattr(native, "cpu_features", lambda: ("AVX2", "FMA"))
    with pytest.raises(NmcompileError, match="--target cpu:avx512: this processor lacks avx512"):
        make_target("cpu:avx512")


@pytest.fixture
def engine(tmp_path):
    """An engine whose kernels may be the most modern there are."""
    (tmp_path / "model.nmk").write_bytes(program(Isa.AVX512))
    seal(tmp_path, dataclasses.replace(PLAIN, executor="native", target="cpu:avx512"))
    return tmp_path


def test_an_engine_for_a_greater_processor_runs_and_warns(engine, monkeypatch, caplog):
    monkeypatch.setenv("NMK_ISA", "portable")
    loaded = load(engine, 1)
    assert loaded.isa == "portable"
    assert loaded.run(noise(1, 3, 4, 5)).shape == (1, 5, 4, 5)
    (record,) = caplog.records
    assert "was compiled for avx512 kernels" in record.getMessage()
    assert "--target cpu:portable" in record.getMessage()


def test_the_choice_is_logged_once(engine, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "nmcompile")
    loaded = load(engine, 1)
    for _ in range(2):
        loaded.run(noise(1, 3, 4, 5))
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert said == [f"{engine} runs in libnmk's {native.isa(Isa.AVX512)} kernels"]


def test_inspect_shows_the_kernels_of_this_machine(engine, capsys):
    assert main(["inspect", str(engine)]) == 0
    assert f"kernels here  {native.isa(Isa.AVX512)}" in capsys.readouterr().out
