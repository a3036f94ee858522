"""A TensorRT engine and images -> results, or one line that names what was found and is needed."""

import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from nmcompile.engine import Built, ExtraInput, read_manifest, seal
from nmcompile.errors import NmcompileError
from nmcompile.runtime import load
from nmcompile.runtime.native import trt_plugin
from nmcompile.runtime.tiling import plan_tiles
from tests.engines import PLAIN, Graph
from tests.nvidia.machine import use_driver, use_tensorrt
from tests.nvidia.tensorrt import MAGIC

SIGMA = ExtraInput("sigma", (0, 1, 1, 1), 0.25)
BUILT = Built("11.1", "Fake GPU", "9.0", ((1, 4, 4), (1, 16, 16), (2, 32, 48)))
MANIFEST = dataclasses.replace(
    PLAIN, target="tensorrt", executor="tensorrt", built=BUILT, extra_inputs=(SIGMA,)
)


def write(folder, **changes):
    """x + sigma, as the fake TensorRT's engine; changes to `built` or the manifest."""
    folder.mkdir(exist_ok=True)
    graph = Graph((SIGMA,))
    graph.add("Add", ["image", "sigma"])
    graph.save("output", 3, folder / "model.onnx")
    least, usual, most = BUILT.profile
    shapes = {
        "image": [[n, 3, h, w] for n, h, w in (least, usual, most)],
        "sigma": [[n, 1, 1, 1] for n, _, _ in (least, usual, most)],
    }
    head = {"version": "11.1", "shapes": shapes, "layers": []}
    model = onnx.load(folder / "model.onnx").SerializeToString()
    data = MAGIC + json.dumps(head).encode() + b"\n" + model
    (folder / "engine.plan").write_bytes(changes.pop("plan", data))
    seal(folder, dataclasses.replace(MANIFEST, **changes))
    return folder


@pytest.fixture
def machine(fake_gpu):
    use_tensorrt(fake_gpu)
    return fake_gpu


def image(*shape):
    return np.random.default_rng(1).random(shape, np.float32)


def test_runs_at_any_size_of_the_profile_and_any_batch(tmp_path, machine):
    engine = load(write(tmp_path / "engine"))
    for shape in ((1, 3, 4, 4), (2, 3, 32, 48), (5, 3, 17, 20), (1, 3, 4, 48)):
        x = image(*shape)
        assert np.array_equal(engine.run(x), x + np.float32(0.25))
    sigma = image(5, 1, 1, 1)
    x = image(5, 3, 8, 8)
    assert np.array_equal(engine.run(x, sigma=sigma), x + sigma)


def test_threads_take_turns(tmp_path, machine):
    engine = load(write(tmp_path / "engine"))
    inputs = [image(1, 3, 4 + i % 5, 9) + i for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(inputs, pool.map(engine.run, inputs), strict=True):
            assert np.array_equal(y, x + np.float32(0.25))


@pytest.mark.parametrize("shape", [(1, 3, 33, 48), (1, 3, 32, 49), (1, 3, 3, 8), (0, 3, 8, 8)])
def test_a_shape_outside_of_the_profile(tmp_path, machine, shape):
    engine = load(write(tmp_path / "engine"))
    n, _, h, w = shape
    said = rf"the input is {n} x {h} x {w} \(N x H x W\), the engine's profile takes 1..2 x 4..32 x"
    with pytest.raises(NmcompileError, match=said + r" 4..48; pad or tile .*--profile"):
        engine.run(image(*shape))


def test_larger_pictures_are_tiled_where_that_changes_nothing(tmp_path, machine):
    engine = load(write(tmp_path / "engine"))
    picture = image(40, 70, 3)
    assert engine.plan(40, 70).count > 1
    assert np.allclose(engine.restore(picture), np.clip(picture + 0.25, 0, 1), atol=1e-6)
    assert engine.plan(32, 48).count == 1
    far = dataclasses.replace(MANIFEST, halo=4)
    tiles = plan_tiles(far, 100, 100)
    assert max(cut.window.stop - cut.window.start for cut in tiles.rows) <= 32
    assert plan_tiles(dataclasses.replace(far, halo=None), 100, 100).count == 1


def test_manifest_keeps_what_it_was_built_with(tmp_path):
    assert read_manifest(write(tmp_path / "engine")).built == BUILT


@pytest.mark.parametrize(
    "built",
    [
        {"profile": ((1, 4, 4), (1, 16, 16))},
        {"profile": ((1, 4, 4), (1, 3, 16), (2, 32, 48))},
        {"gpu": 3},
        {"plugins": "yes"},
    ],
)
def test_damaged_facts_in_the_manifest(tmp_path, built):
    folder = write(tmp_path / "engine", built=dataclasses.replace(BUILT, **built))
    with pytest.raises(NmcompileError, match=r"manifest.json is damaged \(built is"):
        read_manifest(folder)


def test_no_facts_in_the_manifest(tmp_path, machine):
    with pytest.raises(NmcompileError, match="the manifest lacks 'built'; compile"):
        load(write(tmp_path / "engine", built=None))


def test_no_tensorrt(tmp_path, fake_gpu):
    fake_gpu.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NmcompileError, match=r"TensorRT 11.1.x is needed and its Python module "
                       r"cannot be imported .*; install it: pip install tensorrt"):  # fmt: skip
        load(write(tmp_path / "engine"))


def test_tensorrt_without_its_libraries(tmp_path, fake_gpu):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: no such file')")
    fake_gpu.syspath_prepend(tmp_path)
    with pytest.raises(
        NmcompileError, match=r"cannot be imported \(libnvinfer.so.11: no such file"
    ):
        load(write(tmp_path / "engine"))


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("9.3.0", r"found TensorRT 9.3.0, needed is 11.1.x; install that one"),
        ("10.16.0", r"was built by TensorRT 11.1, found is 10.16; install tensorrt==11.1.\*, or"),
        ("11.2.0", r"was built by TensorRT 11.1, found is 11.2; install tensorrt==11.1.\*, or"),
    ],
)
def test_another_tensorrt(tmp_path, fake_gpu, version, problem):
    use_tensorrt(fake_gpu, version)
    with pytest.raises(NmcompileError, match=problem):
        load(write(tmp_path / "engine"))


def test_no_gpu(tmp_path, no_gpu_after, monkeypatch):
    use_tensorrt(monkeypatch)
    use_driver("libcuda_that_is_not_here.so", monkeypatch)
    with pytest.raises(NmcompileError, match="found no NVIDIA GPU"):
        load(write(tmp_path / "engine"))


@pytest.mark.parametrize("change", [{"gpu": "NVIDIA H200"}, {"compute_capability": "8.9"}])
def test_engine_of_another_gpu(tmp_path, machine, change):
    built = dataclasses.replace(BUILT, **change)
    with pytest.raises(NmcompileError, match=r"engine.plan was built for .*(H200|8.9).*, found is "
                       r"Fake GPU \(compute capability 9.0\); compile .* on this"):  # fmt: skip
        load(write(tmp_path / "engine", built=built))


def test_engine_with_plugins_needs_their_library(tmp_path, machine):
    machine.setattr(trt_plugin.native, "__path__", [str(tmp_path)])
    machine.setattr(trt_plugin.native, "build_info", lambda: {"components": {}})
    built = dataclasses.replace(BUILT, plugins=True)
    with pytest.raises(NmcompileError, match=r"libnmk_trt11.so, the plugin .* was not found"):
        load(write(tmp_path / "engine", built=built))


def test_damaged_engine(tmp_path, machine):
    folder = write(tmp_path / "engine", plan=b"not an engine")
    with pytest.raises(NmcompileError, match=r"engine.plan does not load \(Serialization magic tag "
                       r"does not match\); compile the engine again"):  # fmt: skip
        load(folder)


def test_cuda_errors_name_the_engine(tmp_path, machine):
    engine = load(write(tmp_path / "engine"))
    machine.setenv("FAKE_FAILS", "cuStreamSynchronize")
    with pytest.raises(
        NmcompileError, match=r"engine.plan: cuStreamSynchronize failed with CUDA e"
    ):
        engine.run(image(1, 3, 8, 8))
