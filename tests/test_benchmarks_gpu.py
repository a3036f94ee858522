"""The GPU benchmark without a GPU: its verdicts, and all of it on the emulated device, tiny."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_build, gpu_layers, gpu_report
from benchmarks.gpu_report import Gpu, Work, conv_work, row

CARD = Gpu("card", 1e12, 1e14)
PTXAS = """
ptxas info    : Compiling entry function '_ZN8nmk_cuda11conv_kernelINS_5ShapeINS_5BrainELNS_4KindE1ELi4ELi4ELi2ELi1EEEEEvNS_6ParamsE' for 'sm_90a'
ptxas info    : Function properties for _ZN8nmk_cuda11conv_kernel
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 159 registers, used 1 barriers
ptxas info    : Compiling entry function '_ZN8nmk_cuda12block_kernelINS_5ShapeINS_4HalfELNS_4KindE0ELi4ELi8ELi2ELi1EEEEEvNS_6ParamsE' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 140 registers, used 1 barriers
"""  # noqa: E501


def _wrong(layer, x, y, residual=None):
    return layer.output(x)


@pytest.fixture
def on_cpu(emulated, monkeypatch, tmp_path):
    """The benchmark, its sizes tiny, its device emulated, its clock one where a call takes 1 ms."""
    emulated.configure(checked=False)

    def measure(calls, sets, rounds):
        for name, call in calls.items():
            if name not in ("cudnn", "cudnn+relu"):
                call(sets - 1)
        return {name: [2.0 if name == "compile" else 1.0] * rounds for name in calls}

    monkeypatch.setattr(gpu_layers, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu_layers, "BLOCKS", 1)
    monkeypatch.setattr(gpu_layers, "measure", measure)
    for name, value in {
        "HEIGHT": 6, "WIDTH": 8, "LOW": (4, 5), "CHECKED": (7, 19), "missing": lambda: None,
        "own_target": lambda: "90a", "measured_ceilings": lambda: CARD,
        "build": lambda *_: (emulated.library._name, PTXAS),
    }.items():  # fmt: skip
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu.Timer, "compiled", lambda *found: found[2])
    return tmp_path / "results.json"


def test_whole_benchmark_runs(on_cpu, monkeypatch):
    monkeypatch.setattr(gpu, "check", lambda _: [{"kernel": "k", "error": 0.0, "right": True}])
    assert gpu.main(["--all", "--out", str(on_cpu)]) == 0
    result = json.loads(on_cpu.read_text())
    assert result["spilled"] == ["bf16_sparse_64x8_s1"]
    rows = {(item["shape"], item["pattern"]): item for item in result["rows"]}
    assert set(gpu_report.TARGETS) <= set(rows)
    assert rows["edsr x2", "2:4"]["target"] == {
        "peer": "compile", "factor": 1.5, "found": 2.0, "met": True,
    }  # fmt: skip
    assert not rows["64->64", "2:4"]["target"]["met"]
    assert {"date", "command", "commit", "driver", "ceilings"} <= set(result)


@pytest.mark.usefixtures("on_cpu")
def test_checks_pass_and_find_a_wrong_kernel(emulated, monkeypatch):
    names = ["f16_sparse_64x8_s1", "bf16_gathered_64x4_s2", "f16_dense_16x8_s1"]
    monkeypatch.setattr("nmcompile.runtime.native.cuda_conv.kernel_names", lambda _: names)
    found = gpu.check(emulated.library)
    assert [item["kernel"] for item in found[:3]] == names
    assert len(found) == 3 + 6
    assert all(item["right"] for item in found), found
    monkeypatch.setattr(gpu_layers.Conv, "__call__", _wrong)
    assert not any(item["right"] for item in gpu.check(emulated.library)[:3])


def test_what_is_missing_is_said(capsys):
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == "found nothing to do; give --all or --check\n"
    if not torch.cuda.is_available():
        assert gpu.main(["--all"]) == 1
        assert "found no GPU that PyTorch can use" in capsys.readouterr().err


def test_missing_compiler_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(gpu_build.BuildError, match=r"found no nvcc on PATH or in .*; put it there"):
        gpu_build.nvcc()


def test_old_compiler_is_said(monkeypatch, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.1'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(gpu_build.BuildError, match=r"found nvcc 12\.4 at .*; 12\.5 or later"):
        gpu_build.nvcc()


def test_failed_build_says_the_first_error(monkeypatch, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\necho release 13.0\n"
        '[ "$1" = --version ] || { echo "a.cu: error: x" >&2; exit 2; }\n'
    )
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(gpu_build.BuildError, match=r"nvcc failed: a\.cu: error: x"):
        gpu_build.build(tmp_path / "made", ["90a"], jobs=1)
    assert not list((tmp_path / "made").glob("*"))


def test_resources_are_read():
    sparse, block = gpu_build.resources(PTXAS)
    assert sparse == gpu_build.Resources("bf16_sparse_64x8_s1", "90a", 159, 16, 12)
    assert block == gpu_build.Resources("block_f16_dense_64x16", "80", 140, 0, 0)
    text = gpu_build.table([sparse], {"bf16_sparse_64x8_s1": 68608})
    assert text.splitlines()[-1] == "| bf16_sparse_64x8_s1 | 68608 | 159! |"


def test_floor_is_the_larger_of_memory_and_tensor_cores():
    work = conv_work(64, 64, 1280 * 720, 1.0)
    assert work.bytes == pytest.approx(236e6, rel=1e-2)
    assert work.flops == pytest.approx(67.9e9, rel=1e-2)
    assert work.floor(CARD) == (pytest.approx(0.679, rel=1e-2), "tensor cores")
    assert Work(1e9, 1e9).floor(CARD) == (1.0, "memory")


def test_row_without_its_peer_has_no_verdict():
    item = row("edsr x2", "2:4", "k", Work(1e9, 1e9), {"ours": [2.0] * 3}, CARD)
    assert item["of_floor"] == 0.5
    assert "met" not in item["target"]
    assert "1.5 (compile: none)" in gpu_report.table([item])


def test_ceilings_name_every_row(capsys):
    assert gpu.main(["--ceilings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 12
    assert lines[3].startswith("| 64->64, 2:4 | 236 | 34.0 | 116 (memory) | 70 (memory) | 49 (mem")


def test_time_limit_stops_what_takes_longer():
    with pytest.raises(TimeoutError), gpu.limited(0.05):
        time.sleep(20)
    with pytest.raises(TimeoutError), gpu.limited(0):
        pytest.fail("there was no time for this")


def test_peer_that_does_not_compile_in_time_is_left_out(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda _: time.sleep(20))
    timer = gpu.Timer(None, CARD, seconds=0.05)
    monkeypatch.setattr(gpu, "has_triton", lambda: True)
    assert timer.compiled("64->64", abs, None) is None
    monkeypatch.setattr(gpu, "has_triton", lambda: False)
    assert timer.compiled("block 64", abs, None) is None
    assert timer.left_out == [
        "64->64 by torch.compile: TimeoutError within 0 s",
        "block 64 by torch.compile: found no Triton",
    ]


def test_tree_alone_is_enough():
    """Without an installed nmcompile: as on a GPU machine that has only this tree."""
    code = (
        "from benchmarks import gpu; gpu.see_the_tree()\n"
        "import benchmarks.gpu_layers, nmcompile.runtime.native.cuda_conv as c\n"
        "print(c.__file__)"
    )
    packages = str(Path(np.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=gpu.ROOT, capture_output=True, text=True,
        env={"PYTHONPATH": packages, "PATH": os.environ["PATH"]}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == gpu.ROOT / "runtime" / "native" / "cuda_conv.py"


def test_kernel_that_does_not_fit_is_left_out(on_cpu, emulated, monkeypatch):
    """A GPU of compute capability 8.9: 99 KB of shared memory a block."""
    emulated.configure(checked=False, shared_of_block=101376, shared_of_processor=102400)
    names = ["f16_sparse_64x16_s1", "f16_sparse_64x8_s1"]
    monkeypatch.setattr("nmcompile.runtime.native.cuda_conv.kernel_names", lambda _: names)
    monkeypatch.setattr(gpu, "_check_networks", lambda _: [])
    assert [item["kernel"] for item in gpu.check(emulated.library)] == names[1:]
    timer = gpu.Timer(emulated.library, CARD, seconds=1)
    gpu.time_convs(timer, 64)
    assert [item["kernel"] for item in timer.rows] == [
        "f16_dense_64x8_s1", "f16_sparse_64x8_s1", "f16_gathered_64x8_s1",
    ]  # fmt: skip
