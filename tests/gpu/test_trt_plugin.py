"""The plugin as nvcc compiles it, asked by the harness on a real GPU -> the plain convolution?

What tests/native/trt runs on the emulated GPU.
"""

import subprocess
from dataclasses import replace

import pytest

from benchmarks import gpu
from benchmarks.gpu_build import NATIVE, ROOT, BuildError, build, nvcc
from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import CASES, LEVELS, Case
from tests.native.cuda.device import GpuDevice
from tests.native.trt.checks import check_run
from tests.native.trt.harness import SOURCES, Harness, build_harness, include_dirs


@pytest.fixture(scope="module", params=include_dirs() or [None], ids=str)
def harness(request, tmp_path_factory):
    """TensorRT's place, with the plugin for this GPU."""
    lacking = gpu.missing()
    if lacking:
        pytest.skip(lacking)
    if request.param is None:
        pytest.skip("no headers of TensorRT are given; set TENSORRT_INCLUDE_DIR to their folder")
    folder = tmp_path_factory.mktemp("trt")
    try:
        plugin = build_plugin(request.param, folder, gpu.own_target())
    except BuildError as error:
        pytest.skip(str(error))
    return Harness(build_harness(request.param, folder), plugin)


def build_plugin(include, folder, target):
    """The plugin's own sources by nvcc, with the kernels of tests/gpu/test_cuda_kernels.py."""
    kernels, _ = build(ROOT / "build" / "gpu", [target])
    plugin = folder / "libnmk_trt.so"
    sources = [path for path in SOURCES if path.name != "register.cpp"]
    command = [
        nvcc(), "-shared", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden",
        "-isystem", include, f"-I{NATIVE / 'include'}", '-DNMK_VERSION="0.0.1"',
        *sources, NATIVE / "cuda" / "packed.cpp", kernels,
        "-Xlinker", f"-rpath={kernels.parent}", "-o", plugin,
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return plugin


@pytest.fixture
def device():
    device = GpuDevice()
    yield device
    device.clear()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("half", Half, ids=lambda half: half.name)
def test_case_is_the_convolution(harness, device, case, half):
    check_run(harness, device, replace(case, half=half))


@pytest.mark.parametrize("patterns", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("residual", [Residual.NONE, Residual.BEFORE_ACTIVATION])
def test_level_comes_from_the_device(harness, device, patterns, residual):
    check_run(harness, device, Case(patterns, height=7, width=18, residual=residual), routed=True)


def test_large_image(harness, device):
    check_run(harness, device, Case("2:4", height=501, width=333, batch=2))
