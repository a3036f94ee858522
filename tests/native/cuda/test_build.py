"""The installed build -> why is there no libnmk_cuda, and does nvcc take its sources?"""

import subprocess

import pytest

from benchmarks.gpu_build import NATIVE, BuildError, nvcc, resources
from nmcompile.cli.env import environment
from nmcompile.errors import NmcompileError
from nmcompile.runtime import native
from nmcompile.runtime.native import cuda_conv
from tests.native.cuda.cases import BLOCK_KERNELS, CONV_KERNELS


def test_library_is_there_or_its_absence_explained():
    part = environment()["build"]["components"]["libnmk_cuda"]
    if part["state"] == "on":
        assert cuda_conv.kernel_names(cuda_conv.installed_library())
        return
    assert part["reason"]
    with pytest.raises(NmcompileError, match=r"libnmk_cuda\.so was not found .*NMCOMPILE_CUDA=ON"):
        cuda_conv.installed_library()


def test_missing_library_says_why(monkeypatch):
    info = {"components": {"libnmk_cuda": {"state": "off", "reason": "no nvcc was found"}}}
    monkeypatch.setattr(native, "__path__", [])
    monkeypatch.setattr(native, "build_info", lambda: info)
    with pytest.raises(NmcompileError, match=r"was not found \(no nvcc was found\); build it with"):
        cuda_conv.installed_library()


def test_nvcc_compiles_without_spills(tmp_path):
    """One file of six, for one target of three: the others differ by template arguments."""
    try:
        compiler = nvcc()
    except BuildError as error:
        pytest.skip(str(error))
    command = [
        compiler, "-std=c++17", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v",
        "-Xcompiler", "-Wall,-Wextra,-Wconversion,-Wshadow,-Werror", f"-I{NATIVE / 'include'}",
        "-c", NATIVE / "cuda" / "kernels_f16_sparse.cu", "-o", tmp_path / "kernels.o",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = list(resources(done.stderr))
    wanted = {
        name for name in CONV_KERNELS + BLOCK_KERNELS if "_sparse_" in name and "bf16" not in name
    }
    assert {record.kernel for record in found} == wanted
    assert not [record for record in found if record.spill_bytes or record.stack_bytes]
