"""libnmk built with sanitizers + mutated programs -> no access out of bounds, no undefined step.

The whole library is built anew, by its own CMake project, without touching the installed one.
"""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Family,
    Kind,
    Operation,
    Pointwise,
    Precision,
    Residual,
    Value,
    conv_data,
    pack,
)
from tests.native.build import everything, isas, levelled, noise, single

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 8  # for each family of kernels
FEWEST = 1000  # programs that must have been tried; a sanitized run of one takes a millisecond
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def _tool(name):
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


def _run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    """The harness, linked with a sanitized libnmk."""
    folder = tmp_path_factory.mktemp("fuzz")
    compiler, cmake, ninja = os.environ.get("CXX", "g++").split()[0], _tool("cmake"), _tool("ninja")
    if not (shutil.which(compiler) and cmake and ninja):
        pytest.skip("a compiler, cmake and ninja are needed to build libnmk with sanitizers")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    probed = subprocess.run([compiler, *SANITIZE, probe, "-o", folder / "probe"], check=False)
    if probed.returncode or subprocess.run([folder / "probe"], check=False).returncode:
        pytest.skip(f"{compiler} has no runtime for -fsanitize=address,undefined")
    _run(
        cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
        "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={' '.join(SANITIZE)}",
        f"-DCMAKE_CXX_COMPILER={compiler}",
    )  # fmt: skip
    _run(cmake, "--build", folder)
    native = folder / "runtime" / "native"
    source, include = ROOT / "tests/native/fuzz.cpp", ROOT / "runtime/native/include"
    _run(
        compiler, "-std=c++17", *SANITIZE, "-Wall", "-Wextra", "-Wconversion", source,
        "-I", include, "-L", native, "-lnmk", f"-Wl,-rpath,{native}", "-o", folder / "harness",
    )  # fmt: skip
    return folder / "harness"


def _programs():
    """Every kind of operation, in forms that the one program of all of them does not have."""
    yield everything()
    yield levelled()
    strided = ConvShape((5, 3), (2, 1), (1, 2), (2, 2, 2, 1), groups=2)
    for family, precision in itertools.product(Family, Precision):
        weight = noise(18, 10, 5, 3) * (noise(18, 10, 5, 3) > 0)
        data = conv_data(weight, noise(18), family is not Family.DENSE)
        yield single(
            Kind.CONV2D, [20], 18, params=strided.params(family=family, precision=precision),
            data=data,
            activation=Activation.SILU,
        )  # fmt: skip
    same = ConvShape((3, 3), padding=(1, 1, 1, 1))
    yield single(
        Kind.CONV2D, [17, 33], 33, params=same.params(Residual.AFTER_ACTIVATION),
        data=conv_data(noise(33, 17, 3, 3), None, False), activation=Activation.LEAKY_RELU,
        scalars=(0.1, 0.0, -1.0, 1.0),
    )  # fmt: skip
    affine = (noise(5), noise(5))
    yield single(Kind.POINTWISE, [5], 5, params=(int(Pointwise.AFFINE),), data=affine)
    for form in (Pointwise.SUM, Pointwise.PRODUCT):
        yield single(Kind.POINTWISE, [5, 5], 5, params=(int(form),))
    values = [Value(index, 0, 5) for index in range(3)]
    gate = Operation(Kind.POINTWISE, (0, 1), 2, (int(Pointwise.GATE_SUM),))
    yield pack([5, 5, 5], values, [Operation(Kind.MOMENTS, (0,), 1, (1, 1)), gate], 1, [2])
    yield single(Kind.MAX_POOL, [3], 3, params=ConvShape((3, 3), (2, 2), (1, 1), (1,) * 4).params())
    yield single(Kind.BILINEAR, [3, 3], 3, params=(1,))


@pytest.mark.parametrize("isa", isas())
def test_mutated_programs(fuzzer, tmp_path, isa):
    files = []
    for number, packed in enumerate(_programs()):
        files.append(tmp_path / f"{number}.nmk")
        files[-1].write_bytes(packed)
    limits = "allocator_may_return_null=1:max_allocation_size_mb=256:hard_rss_limit_mb=4000"
    environment = {**os.environ, "NMK_ISA": isa, "ASAN_OPTIONS": limits}
    done = subprocess.run(
        [fuzzer, str(SECONDS), "1", *files],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-3000:]}"
    tried, ran = map(int, done.stdout.split())
    assert tried > FEWEST
    assert 0 < ran < tried
