"""The plugin as CMake builds it, asked by the harness on a real GPU -> the plain convolution?

What tests/native/trt runs on the emulated GPU.
"""

import subprocess
from dataclasses import replace

import pytest

from benchmarks import gpu
from benchmarks.gpu_build import ROOT, BuildError, nvcc
from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import CASES, LEVELS, Case
from tests.native.cuda.device import GpuDevice
from tests.native.trt.checks import check_run
from tests.native.trt.harness import Harness, build_harness, include_dirs


@pytest.fixture(scope="module", params=include_dirs() or [None], ids=str)
def harness(request, tmp_path_factory):
    """TensorRT's place, with the plugin for this GPU."""
    lacking = gpu.missing()
    if lacking:
        pytest.skip(lacking)
    if request.param is None:
        pytest.skip("no headers of TensorRT are given; set TENSORRT_INCLUDE_DIR to their folder")
    folder = tmp_path_factory.mktemp("trt")
    plugin = _build(folder / "build", request.param)
    return Harness(build_harness(request.param, folder), plugin)


def _build(folder, include):
    try:
        compiler = nvcc()
    except BuildError as error:
        pytest.skip(str(error))
    options = [
        "NMCOMPILE_CUDA=ON", f"NMCOMPILE_CUDA_TARGETS={gpu.own_target()}",
        f"CMAKE_CUDA_COMPILER={compiler}", f"TENSORRT_INCLUDE_DIR={include}",
    ]  # fmt: skip
    _run("cmake", "-S", ROOT, "-B", folder, *(f"-D{option}" for option in options))
    _run("cmake", "--build", folder, "--parallel")
    (plugin,) = folder.glob("runtime/native/trt/libnmk_trt[0-9][0-9].so")
    return plugin


def _run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


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
