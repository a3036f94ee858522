"""`nmcompile bench --isa` -> what each runtime was held to, in a process of its own."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nmcompile import isa
from nmcompile.engine import seal
from nmcompile.errors import NmcompileError
from nmcompile.isa import CAPS, UNCAPPED, cap_isa
from nmcompile.runtime import native
from nmcompile.runtime.native.blob import Kind
from tests import engines
from tests.native.build import families, single


@pytest.fixture
def engine(tmp_path):
    """An engine that our kernels run."""
    folder = engines.super_resolution(tmp_path / "engine")
    (folder / "receipt.json").unlink()
    (folder / "model.nmk").write_bytes(single(Kind.NEAREST, [3], 3, params=(2,)))
    seal(folder, dataclasses.replace(engines.PLAIN, executor="native", scale=2))
    return folder


def benched(engine, *words, **environment):
    program = Path(sys.executable).with_name("nmcompile")
    command = [str(program), "bench", str(engine), "--size", "16x24", "--runs", "5", *words]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("name", families())
def test_ours_and_openvino_are_held_to_it(engine, name):
    peers = ("--against", "onnxruntime,openvino,openvino-f32")
    done = benched(engine, "--isa", name, "--json", *peers)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["isa"], found["ours"]["isa"]) == (name, name)
    assert found["peers"]["openvino"]["isa"] == found["peers"]["openvino-f32"]["isa"] == name
    assert found["peers"]["onnxruntime"]["isa"] is None
    assert found["note"] == UNCAPPED


def test_without_it_nothing_is_said(engine):
    done = benched(engine, "--json", "--against", "onnxruntime")
    found = json.loads(done.stdout)
    assert (found["isa"], found["ours"]["isa"]) == (None, native.isa())
    assert found["note"] == ""


def test_the_table_says_it(engine):
    done = benched(engine, "--isa", "portable", "--against", "onnxruntime")
    assert "at most portable" in done.stdout
    assert UNCAPPED in done.stdout


KERNELS = """
import sys
from nmcompile.isa import cap_isa
cap_isa(sys.argv[2])
import openvino
core = openvino.Core()
model = core.read_model(sys.argv[1] + "/dense.onnx")
model.reshape([1, 3, 16, 24])
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print([str(op.get_rt_info()["primitiveType"].astype(str))
       for op in compiled.get_runtime_model().get_ops()])
"""


@pytest.mark.parametrize(("name", "absent"), [("avx2", "avx512"), ("portable", "avx2")])
def test_openvino_takes_no_convolution_beyond_it(engine, name, absent):
    if name not in families():
        pytest.skip(f"this processor has no {name}")
    command = [sys.executable, "-c", KERNELS, str(engine), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"conv_{absent}" not in done.stdout
    assert re.search("conv_avx2|jit_avx_f32", done.stdout)


@pytest.mark.parametrize(
    ("features", "name", "able"),
    [
        (("AVX2", "FMA"), "avx512", "portable, avx2"),
        ((), "avx2", "portable"),
        (("AVX2", "FMA", "AVX512F", "AVX512BW", "AVX512VL"), "amx", "portable, avx2, avx512"),
    ],
)
def test_what_the_processor_lacks_is_one_line(monkeypatch, features, name, able):
    monkeypatch.setattr(isa.native, "cpu_features", lambda: features)
    with pytest.raises(NmcompileError, match=rf"--isa {name}: .* lacks .*; give one of {able}$"):
        cap_isa(name)


def test_an_unknown_name_is_one_line():
    with pytest.raises(NmcompileError, match=f"expected one of {', '.join(CAPS)}"):
        cap_isa("sse9")


def test_too_late_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", object())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    with pytest.raises(NmcompileError, match=r"openvino.* read the instruction set when"):
        cap_isa("portable")
