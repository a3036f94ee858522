"""Engines with operators of our own -> run, or one line that says what is missing."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nmcompile.backends.nmconv_pack import single
from nmcompile.errors import NmcompileError
from nmcompile.runtime import cuda, custom_ops, executor
from nmcompile.runtime.custom_ops import (
    ABI_VERSION,
    CUSTOM_OPS,
    CustomOps,
    open_custom,
)
from nmcompile.runtime.executor import CPU_PROVIDER, CUDA_PROVIDER, MODEL, OrtExecutor
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.build import noise
from tests.native.ort import sessions
from tests.native.ort.test_cpu import CALLS


@pytest.fixture
def library():
    return Path(sessions.library())


def write(folder, provider=CPU_PROVIDER, **changes):
    """An engine's parts, as far as they matter here."""
    on_cpu = provider == CPU_PROVIDER
    model = single(CALLS["2:4"], *(() if on_cpu else (Half.FP16, "NHWC")))
    onnx.save(model, folder / MODEL)
    needs = {"abi": ABI_VERSION, "provider": provider, "nodes": {"layer": "layer"}, **changes}
    (folder / CUSTOM_OPS).write_text(CustomOps(**needs).to_json())
    return folder


def test_needs_are_read_as_they_were_written(tmp_path):
    needs = CustomOps(3, CUDA_PROVIDER, {"a@2": "a"}, "NVIDIA H200", "9.0")
    (tmp_path / CUSTOM_OPS).write_text(needs.to_json())
    assert CustomOps.load(tmp_path) == needs


@pytest.mark.parametrize("text", ["", "{", "[]", '{"abi": 1}', '{"abi": 1, "surprise": 2}'])
def test_damaged_needs(tmp_path, text):
    (tmp_path / CUSTOM_OPS).write_text(text)
    with pytest.raises(NmcompileError, match=r"custom_ops\.json is damaged .*; compile the engine"):
        open_custom(tmp_path, 1)


def test_it_runs(tmp_path, library):
    found = open_custom(write(tmp_path), 1)({"x": noise(1, 16, 6, 7)})
    assert found.shape == (1, 16, 6, 7)


def test_library_of_another_version(tmp_path, library):
    with pytest.raises(NmcompileError, match=r"has ABI version 1, 7 is needed; install the nmc"):
        open_custom(write(tmp_path, abi=7), 1)


def test_missing_library(tmp_path, monkeypatch):
    monkeypatch.setattr(custom_ops.native, "__path__", [])
    monkeypatch.setattr(custom_ops.native, "build_info", lambda: {"components": {}})
    with pytest.raises(NmcompileError, match=r"libnmk_ort\.so was not found .*; build it with"):
        open_custom(write(tmp_path), 1)


def test_model_without_its_library(tmp_path, library):
    write(tmp_path)
    with pytest.raises(NmcompileError, match=r"model\.onnx cannot be run .*NMConv"):
        OrtExecutor(tmp_path / MODEL, 1)


def test_error_of_a_run_stays_a_line(tmp_path, library):
    model = onnx.load(write(tmp_path) / MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    onnx.save(model, tmp_path / MODEL)
    opened = open_custom(tmp_path, 1)
    with pytest.raises(NmcompileError, match=r"^layer layer: found an image of 1x8x6x7, expected"):
        opened({"x": noise(1, 8, 6, 7)})


@pytest.fixture
def on_gpu(tmp_path, fake_gpu, ort_emulated):
    """Makes an engine for the fake GPU, with changes; the CPU provider plays CUDA's."""
    fake_gpu.setattr(custom_ops, "CUDA_PROVIDER", CPU_PROVIDER)
    fake_gpu.setattr(custom_ops, "custom_ops_library", lambda *_: ort_emulated)
    gpu = cuda.open_device().gpu
    own = {"gpu": gpu.name, "compute_capability": gpu.compute_capability}

    def made(**changes):
        write(tmp_path, CUDA_PROVIDER, **{**own, **changes})
        needs = json.loads((tmp_path / CUSTOM_OPS).read_text())
        (tmp_path / CUSTOM_OPS).write_text(json.dumps({**needs, "provider": CPU_PROVIDER}))
        return tmp_path

    return made


def test_it_runs_on_its_gpu(on_gpu, caplog):
    (found,) = open_custom(on_gpu(), 1).run({"x": np.ones((1, 5, 4, 16), np.float16)})
    assert found.shape == (1, 5, 4, 16)
    assert not caplog.text


def test_gpu_of_another_name_is_warned_of(on_gpu, caplog):
    open_custom(on_gpu(gpu="NVIDIA Other"), 1)
    assert "was compiled on NVIDIA Other, and runs on" in caplog.text


def test_gpu_of_another_compute_capability(on_gpu):
    folder = on_gpu(compute_capability="8.6")
    with pytest.raises(NmcompileError, match=r"was compiled for .* 8\.6\), found .*; compile"):
        open_custom(folder, 1)


def test_gpu_that_is_too_old():
    old = cuda.Gpu("NVIDIA Old", "7.5")
    with pytest.raises(NmcompileError, match=r"found NVIDIA Old \(compute capability 7\.5\), our"):
        custom_ops.check_capability(old)


def test_provider_that_is_not_installed(tmp_path, library):
    write(tmp_path)
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("it is installed here")
    with pytest.raises(NmcompileError, match=r"CUDAExecutionProvider is needed, onnxruntime .* h"):
        OrtExecutor(tmp_path / MODEL, 1, library, CUDA_PROVIDER)


def test_provider_that_does_not_start(tmp_path, library, monkeypatch):
    """ONNX Runtime goes on without it, with a warning at most."""
    write(tmp_path)
    monkeypatch.setattr(executor, "check_provider", lambda *_: None)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(
            NmcompileError, match=r"CUDAExecutionProvider could not start .* onnxruntime-gpu"
        ),
    ):
        OrtExecutor(tmp_path / MODEL, 1, library, CUDA_PROVIDER)
