"""A network and a wish -> fp32, bf16 or fp16, as measured; what cannot be had is refused."""

import dataclasses
import json
import sys

import pytest
from torch import nn

import nmcompile
from nmcompile import precision
from nmcompile.backends import make_target
from nmcompile.compile import Settings
from nmcompile.errors import NmcompileError
from nmcompile.precision import settle_precision
from tests.architectures import build
from tests.native.build import isas
from tests.test_compile import SETTINGS, _Enlarge

PAIRED = [isa for isa in ("amx", "avx512_fp16", "avx512_bf16") if isa in isas()]
needs_bf16 = pytest.mark.skipif(not PAIRED, reason="this processor has neither AMX nor vdpbf16ps")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))


def _prepared(network):
    program = nmcompile.capture(network.eval(), channels=3)
    return program, nmcompile.prepare(program, "denoise:25", crops=2, reference_size=(32, 40))


def _bodied():
    """A network whose 5x5 convolutions are computed in bf16 wherever that is allowed."""
    return nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 5, padding=2))


@needs_bf16
@pytest.mark.parametrize(("ratio", "chosen"), [(1.5, "bf16"), (1.0, "fp32")])
def test_auto_takes_bf16_where_it_is_faster(monkeypatch, ratio, chosen):
    monkeypatch.setattr(precision, "speed_ratio", lambda *_: ratio)
    program, ctx = _prepared(_bodied())
    target, found = settle_precision(program, ctx, "auto")
    assert (found.chosen, target.precision) == (chosen, chosen)
    assert (found.ratio, found.agreement_db > 50, abs(found.loss_db) < 0.02) == (ratio, True, True)
    assert found.why.startswith("bf16 loses ")


@needs_bf16
def test_vector_wise_patterns_are_reason_enough(monkeypatch):
    monkeypatch.setattr(precision, "speed_ratio", lambda *_: 1.0)
    program, ctx = _prepared(_bodied())
    shared = dataclasses.replace(ctx, uniform=nmcompile.Pattern.parse("8x2:4"))
    assert settle_precision(program, shared, "auto")[1].chosen == "bf16"


@needs_bf16
def test_auto_keeps_fp32_where_bf16_loses_too_much(monkeypatch):
    network = _bodied()
    for weight in network.parameters():
        weight.data *= 40  # activations so large that bf16's steps show in the picture
    program, ctx = _prepared(network)
    _, found = settle_precision(program, ctx, "auto")
    assert found.chosen == "fp32"
    assert "from that of fp32" in found.why
    target, asked = settle_precision(program, ctx, "bf16")
    assert (asked.chosen, target.precision) == ("bf16", "bf16")


@needs_bf16
def test_further_inputs_are_given():
    program, ctx = _prepared(build("drunet"))
    assert len(program.interface.extra_inputs) == 1
    assert settle_precision(program, ctx, "auto")[1].ratio == 1.5


@pytest.mark.parametrize("isa", ["portable", *(["avx2"] if "avx2" in isas() else [])])
def test_where_no_kernel_gains_fp32_is_kept(monkeypatch, isa):
    monkeypatch.setenv("NMK_ISA", isa)
    program, ctx = _prepared(_bodied())
    _, found = settle_precision(program, ctx, "auto")
    assert (found.chosen, found.why) == ("fp32", f"kernels for {isa} gain nothing by bf16")
    for name in ("bf16", "fp16"):
        said = rf"--precision {name}: kernels for {isa} gain nothing by {name}; give --precision"
        with pytest.raises(NmcompileError, match=said):
            settle_precision(program, ctx, name)


def test_what_there_is_not():
    program, ctx = _prepared(_bodied())
    with pytest.raises(NmcompileError, match="--precision fast: expected auto, fp32, bf16, fp16"):
        settle_precision(program, ctx, "fast")
    ctx = dataclasses.replace(ctx, target=make_target("onnx"))
    with pytest.raises(NmcompileError, match="ONNX Runtime runs this engine, in fp32"):
        settle_precision(program, ctx, "bf16")


def engine_runs_in(name, folder, least_agreement):
    """Compiles in a precision; every layer's kernel and the receipt must say so."""
    settings = dataclasses.replace(SETTINGS, precision=name)
    nmcompile.compile(_Enlarge(), folder / "engine", settings)
    receipt = json.loads((folder / "engine/receipt.json").read_text())
    assert receipt["precision"]["chosen"] == name
    assert receipt["verification"]["agreement_db"] >= least_agreement
    assert all(row["kernel"].startswith(f"{name}.") for row in receipt["layers"])


@needs_bf16
def test_an_engine_in_bf16(tmp_path):
    engine_runs_in("bf16", tmp_path, least_agreement=50)


@needs_bf16
def test_an_engine_that_bf16_spoils_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["nmcompile.receipt"], "LEAST_AGREEMENT_DB", 500.0)
    settings = dataclasses.replace(SETTINGS, precision="bf16")
    with pytest.raises(
        NmcompileError, match=r"in bf16 the engine's output is only .* --precision fp32"
    ):
        nmcompile.compile(_Enlarge(), tmp_path / "engine", settings)
    assert not (tmp_path / "engine").exists()


@needs_bf16
def test_a_target_held_to_avx2_has_no_bf16():
    assert Settings().precision == "auto"
    program, ctx = _prepared(_bodied())
    ctx = dataclasses.replace(ctx, target=make_target("cpu:avx2"))
    with pytest.raises(NmcompileError, match="--precision bf16: kernels for avx2 gain nothing"):
        settle_precision(program, ctx, "bf16")


@pytest.fixture
def emulated(monkeypatch):
    """The kernels of bf16 and fp16 in plain C++, as if they were the fast ones."""
    monkeypatch.setenv("NMK_ISA", "tiles")
    monkeypatch.setattr(precision, "_GAINS", {"bf16": ("tiles",), "fp16": ("tiles",)})


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("ratios", "chosen"), [((1.5, 2.0), "fp16"), ((2.0, 1.5), "bf16")])
def test_auto_takes_the_faster_of_two(monkeypatch, ratios, chosen):
    left = iter(ratios)
    monkeypatch.setattr(precision, "speed_ratio", lambda *_: next(left))
    program, ctx = _prepared(_bodied())
    target, found = settle_precision(program, ctx, "auto")
    assert (found.chosen, target.precision, found.ratio) == (chosen, chosen, 2.0)
    assert found.why.startswith("bf16 loses ")
    assert "; fp16 loses " in found.why


@pytest.mark.usefixtures("emulated")
def test_fp16_is_closer_than_bf16():
    program, ctx = _prepared(_bodied())
    half, brain = (settle_precision(program, ctx, name)[1] for name in ("fp16", "bf16"))
    assert half.agreement_db > brain.agreement_db + 6


@pytest.mark.usefixtures("emulated")
def test_any_pattern_is_reason_enough_for_fp16(monkeypatch):
    monkeypatch.setattr(precision, "speed_ratio", lambda *_: 1.0)
    program, ctx = _prepared(_bodied())
    single = dataclasses.replace(ctx, uniform=nmcompile.Pattern.parse("2:4"))
    assert settle_precision(program, single, "auto")[1].chosen == "fp16"


def _overflowing():
    """Its first layer gives up to a million, which its last one makes a picture of again."""
    network = _bodied()
    network[0].weight.data *= 1e6
    network[2].weight.data *= 1e-6
    return network


@pytest.mark.usefixtures("emulated")
def test_what_overflows_is_not_taken():
    program, ctx = _prepared(_overflowing())
    _, asked = settle_precision(program, ctx, "fp16")
    assert asked.agreement_db < 0
    assert settle_precision(program, ctx, "auto")[1].chosen == "bf16"


@pytest.mark.usefixtures("emulated")
def test_an_engine_in_fp16(tmp_path):
    engine_runs_in("fp16", tmp_path, least_agreement=60)


@pytest.mark.usefixtures("emulated")
def test_an_engine_that_overflows_is_refused(tmp_path):
    network = _Enlarge()
    network.head.weight.data *= 1e6
    network.tail.weight.data *= 1e-6
    settings = dataclasses.replace(SETTINGS, precision="fp16")
    with pytest.raises(NmcompileError, match=r"in fp16 the engine's output is only -\d+.* fp32"):
        nmcompile.compile(network, tmp_path / "engine", settings)
