"""--target onnx --custom-ops and --target cuda -> which layers become ours, and do engines run?

Times are a table. For CUDA the GPU is emulated: its operator runs in the CPU provider.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import nmcompile
from nmcompile.backends import make_target
from nmcompile.backends.cuda import CudaTarget
from nmcompile.backends.custom_ops import OURS, CustomOpsTarget
from nmcompile.budget import Budget
from nmcompile.cli import main
from nmcompile.compile import Settings
from nmcompile.context import ConvSpec
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.routing.spec import RouteSpec
from nmcompile.runtime import cuda, custom_ops, executor
from nmcompile.runtime.custom_ops import CUSTOM_OPS
from nmcompile.tasks import Task
from tests.native.ort import sessions
from tests.native.test_target import _layer
from tests.networks import captured, conv
from tests.nmconv.test_writer import Parts
from tests.nvidia.machine import use_driver

SETTINGS = Settings(
    task=Task("denoise", 25), target="onnx:custom-ops", budget=Budget.parse("macs=0.6"),
    uniform=Pattern.parse("2:4"), prune="magnitude", value_range=1.0, size=(48, 64), crops=4,
    threads=1,
)  # fmt: skip
OURS_FIRST = {
    "head.weight": "onnxruntime.conv2d.dense",
    "wide.weight": f"{OURS}.fp32.nm-2:4",
    "small.weight": "onnxruntime.conv2d.dense",
    "tail.weight": "onnxruntime.conv2d.dense",
}


class Residual(nn.Module):
    """A head, two layers that are pruned, and a tail that adds little."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.wide = conv(3, 16), conv(16, 16)
        self.small, self.tail = conv(16, 8), conv(8, 3)
        nn.init.normal_(self.tail.weight, std=0.002)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.wide(torch.relu(self.head(x))))
        return x + self.tail(torch.relu(self.small(y)))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))


def _table(self, model, spec):
    """Ours take time for what is not zero, in few channels four times that; ONNX Runtime's for all.

    Its dense kernel is a little faster than ours.
    """
    (node,) = model.graph.node
    if node.op_type != "NMConv":
        return 0.75 * float(np.prod(spec.shape))
    text = next(item.s.decode() for item in node.attribute if item.name == "pattern")
    pattern = Pattern.parse(text)
    slow = 4.0 if spec.shape[0] < 16 else 1.0
    return slow * float(np.prod(spec.shape)) * pattern.n / pattern.m


@pytest.fixture
def times(monkeypatch):
    monkeypatch.setattr(CustomOpsTarget, "time_ms", _table)
    monkeypatch.setattr(CudaTarget, "time_ms", _table)


@pytest.fixture
def library():
    return Path(sessions.library())


def receipt_of(engine):
    return json.loads((engine.path / "receipt.json").read_text())


def runs(engine):
    """On another size than it was verified at, by the compiler, to be the pruned network."""
    found = engine.run(np.zeros((2, 3, 20, 28), np.float32))
    assert found.dtype == np.float32
    return found.shape == (2, 3, 20, 28)


def test_layers_that_gain_are_ours(tmp_path, library, times):
    engine = nmcompile.compile(Residual(), tmp_path / "engine", SETTINGS)
    receipt = receipt_of(engine)
    assert {row["name"]: row["kernel"] for row in receipt["layers"]} == OURS_FIRST
    assert receipt["verification"]["max_abs_difference"] < 1e-4
    plan = json.loads((engine.path / "plan.json").read_text())
    assert {layer["name"]: _kernel(layer) for layer in plan["layers"]} == OURS_FIRST
    model = onnx.load(engine.path / "model.onnx")
    assert [node.op_type for node in model.graph.node if "Conv" in node.op_type] == [
        "Conv", "NMConv", "Conv", "Conv",
    ]  # fmt: skip
    needs = json.loads((engine.path / CUSTOM_OPS).read_text())
    assert needs["abi"] == custom_ops.ABI_VERSION
    assert needs["nodes"] == {"wide.weight": "wide.weight"}
    assert engine.manifest.executor == "onnxruntime-nmconv"
    assert runs(engine)


def _kernel(layer):
    return next(c["kernel"] for c in layer["choices"] if c["pattern"] == layer["pattern"])


def test_command_makes_an_engine_that_runs(tmp_path, library, times, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(Residual().state_dict(), "weights.pt")
    command = [
        "weights.pt", "--arch", "tests.test_compile_custom_ops:Residual", "-o", "engine",
        "--target", "onnx", "--custom-ops", "--task", "denoise:25", "--range", "0..1",
        "--input", "1x3x48x64", "--crops", "4", "--threads", "1", "--uniform", "2:4",
        "--prune", "magnitude",
    ]  # fmt: skip
    assert main(command) == 0
    assert main(["inspect", "engine"]) == 0
    assert f"{OURS}.fp32.nm-2:4" in capsys.readouterr().out


@pytest.mark.real_times
def test_both_kernels_are_really_timed(library):
    fitted = make_target("onnx:custom-ops", 1).fitted(captured(Parts()), (16, 16))
    layer = _layer("a.weight", 1.0, 1.0)
    spec = ConvSpec("conv2d", (8, 8, 3, 3), 1, (1, 1), (1, 1, 1, 1), (1, 1), (0, 0), (1, 8, 16, 16))
    kernel = fitted.kernel(layer, layer.pattern)
    milliseconds, chosen = fitted.fastest(spec, kernel)
    assert milliseconds > 0
    assert chosen in (kernel, "onnxruntime.conv2d.dense")


def test_levels_are_refused(tmp_path, library, times):
    route = RouteSpec.parse("0.5,1", "tile", None)
    settings = dataclasses.replace(SETTINGS, uniform=None, route=route)
    with pytest.raises(NmcompileError, match=r"--route .* give --target onnx"):
        nmcompile.compile(Residual(), tmp_path / "engine", settings)
    assert not (tmp_path / "engine").exists()


def test_option_for_another_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"")
    assert main(["weights.pt", "-o", "engine", "--custom-ops"]) == 1
    assert "--custom-ops is about --target onnx; leave it out for cpu" in capsys.readouterr().err


@pytest.fixture
def gpu(fake_gpu, ort_emulated, times):
    """A machine where the CPU provider is the GPU's, and the emulated library the installed one."""
    fake_gpu.setattr(CudaTarget, "provider", executor.CPU_PROVIDER)
    fake_gpu.setattr(custom_ops, "CUDA_PROVIDER", executor.CPU_PROVIDER)
    for module in ("backends.cuda", "runtime.custom_ops"):
        fake_gpu.setattr(f"nmcompile.{module}.custom_ops_library", lambda *_, **__: ort_emulated)
    return fake_gpu


def cuda_settings():
    return dataclasses.replace(SETTINGS, target="cuda", threads=None)


def test_cuda_engine(tmp_path, gpu):
    engine = nmcompile.compile(Residual(), tmp_path / "engine", cuda_settings())
    receipt = receipt_of(engine)
    expected = {name: kernel.replace("fp32", "fp16") for name, kernel in OURS_FIRST.items()}
    assert {row["name"]: row["kernel"] for row in receipt["layers"]} == expected
    assert receipt["precision"]["chosen"] == "fp16"
    assert receipt["gpu"] == cuda.open_device().gpu.name
    model = onnx.load(engine.path / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Conv"), kinds.count("NMConv"), kinds.count("Transpose")) == (3, 1, 2)
    halves = [t for t in model.graph.initializer if len(t.dims) == 4]
    assert {tensor.data_type for tensor in halves} == {onnx.TensorProto.FLOAT16}
    assert runs(engine)


def test_cuda_without_what_it_needs(fake_gpu, library):
    with pytest.raises(
        NmcompileError, match=r"CUDAExecutionProvider is needed, onnxruntime .* has"
    ):
        make_target("cuda")
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    fake_gpu.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(NmcompileError, match=r"libnmk_ort\.so was built without CUDA"):
        make_target("cuda")


def test_cuda_without_gpu(no_gpu_after, monkeypatch):
    use_driver("libcuda-that-is-not-there.so", monkeypatch)
    with pytest.raises(NmcompileError, match="found no NVIDIA GPU"):
        make_target("cuda")
