"""A model and a profile -> how TensorRT is asked to build it, and what is kept of its answers."""

import functools
import json

import pytest

from nmcompile.backends.tensorrt_build import (
    Profile,
    build_engine,
    built_facts,
    default_profile,
)
from nmcompile.backends.tensorrt_log import read_inspector, read_log, read_profile
from nmcompile.backends.tensorrt_onnx import half_model
from nmcompile.cache import cache_folder
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface
from nmcompile.runtime.native import trt_plugin
from tests.networks import captured, plain
from tests.nvidia.machine import build_plugin, use_tensorrt
from tests.nvidia.tensorrt import CACHE

RGB = Interface("x", 3, 1)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))


@functools.cache
def written(plugins):
    return half_model(captured(plain()), plugins).SerializeToString()


def built(plugins=(), name="engine.plan"):
    shapes = default_profile(RGB, (16, 24)).shapes(RGB)
    return build_engine(written(plugins), shapes, name, bool(plugins))


@pytest.mark.parametrize("version", ["10.3.0", "11.1.0.106"])
def test_what_is_kept_can_be_read_again(version, tmp_path, fake_gpu):
    use_tensorrt(fake_gpu, version)
    engine = built()
    engine.write(tmp_path / "engine.plan")
    layers = read_inspector((tmp_path / "engine.layers.json").read_text())
    assert layers.tensors == ("x", "output")
    names = [layer.name for layer in layers.layers]
    assert list(read_profile((tmp_path / "engine.profile.json").read_text())) == names
    assert json.loads((tmp_path / "engine.profile.json").read_text())[0] == {"count": 20}
    log = read_log((tmp_path / "engine.log").read_text().splitlines())
    assert (log.eligible, log.picked) == (frozenset(), frozenset())
    assert (tmp_path / "engine.plan").read_bytes() == engine.plan


def test_timings_are_kept_by_version_and_gpu(fake_gpu):
    fake_gpu.setenv("FAKE_GPU", "NVIDIA A10")
    fake = use_tensorrt(fake_gpu, "10.3.0")
    built()
    built()
    assert fake.caches == [b"", CACHE + b"1"]
    (path,) = cache_folder().glob("*.timing")
    assert path.name == "tensorrt-10-3-0-NVIDIA-A10.timing"
    assert path.read_bytes() == CACHE + b"2"
    path.write_bytes(b"damaged")
    built()
    assert fake.caches[2:] == [b"damaged", b""]
    assert path.read_bytes() == CACHE + b"1"


def test_a_cache_folder_that_cannot_be_written(fake_gpu, tmp_path):
    use_tensorrt(fake_gpu)
    (tmp_path / "file").write_text("")
    fake_gpu.setenv("NMCOMPILE_CACHE", str(tmp_path / "file"))
    with pytest.raises(NmcompileError, match=r"cannot keep TensorRT's timings .* NMCOMPILE_CACHE"):
        built()


def test_plugin_nodes_need_the_library(fake_gpu, tmp_path):
    fake = use_tensorrt(fake_gpu)
    library = build_plugin(tmp_path / "libnmk_trt11.so", 11)
    fake_gpu.setattr(trt_plugin.native, "__path__", [str(tmp_path)])
    for _ in range(2):
        engine = built(("body.0.weight",))
    assert fake.loaded == [str(library)]
    kinds = {layer.name: layer.kind for layer in read_inspector(engine.layers).layers}
    assert kinds["body.0.weight"] == "PluginV3"


@pytest.mark.parametrize(
    ("major", "version", "problem"),
    [
        (10, None, "is the plugin for TensorRT 10, TensorRT 11 is needed"),
        (11, "0.0.1", "is of nmcompile 0.0.1, this is "),
        (None, None, "libnmk_trt11.so, the plugin for TensorRT 11, was not found"),
    ],
)
def test_plugin_library_that_does_not_fit(fake_gpu, tmp_path, major, version, problem):
    use_tensorrt(fake_gpu)
    if major:
        build_plugin(tmp_path / "libnmk_trt11.so", major, *([version] if version else []))
    fake_gpu.setattr(trt_plugin.native, "__path__", [str(tmp_path)])
    fake_gpu.setattr(trt_plugin.native, "build_info", lambda: {"components": {}})
    with pytest.raises(NmcompileError, match=problem):
        built(("body.0.weight",))


def test_what_tensorrt_cannot_read_is_told_in_its_words(fake_gpu):
    fake = use_tensorrt(fake_gpu)
    fake_gpu.setattr("nmcompile.backends.tensorrt_build.load_plugins", lambda _: None)
    assert not fake.plugin
    with pytest.raises(NmcompileError, match=r"TensorRT cannot read engine.plan: In node 0 with "
                       "name: body.0.weight: Plugin not found; give another --target"):  # fmt: skip
        built(("body.0.weight",))


def test_what_tensorrt_cannot_build_is_told_in_its_words(fake_gpu):
    use_tensorrt(fake_gpu)
    fake_gpu.setattr("tests.nvidia.tensorrt.Builder.build_serialized_network", _fails)
    said = r"TensorRT cannot build engine.plan: Error Code 10: no implementation; give"
    with pytest.raises(NmcompileError, match=said):
        built()


def _fails(builder, network, config):
    builder._logger.log(builder._logger.Severity.ERROR, "Error Code 10:\n no implementation")


def test_cuda_errors_carry_the_engines_name(fake_gpu):
    use_tensorrt(fake_gpu)
    built()
    fake_gpu.setenv("FAKE_FAILS", "cuMemAlloc_v2")
    with pytest.raises(NmcompileError, match="layer a: x: cuMemAlloc_v2 failed with CUDA error 2"):
        built(name="layer a")


def test_facts_of_this_machine(fake_gpu):
    use_tensorrt(fake_gpu, "10.16.0.72")
    facts = built_facts(Profile((1, 8, 8), (1, 16, 16), (2, 32, 32)), plugins=True)
    assert (facts.version, facts.gpu, facts.compute_capability) == ("10.16", "Fake GPU", "9.0")
    assert facts.profile == ((1, 8, 8), (1, 16, 16), (2, 32, 32))
    assert facts.plugins


def test_default_profile():
    assert default_profile(RGB, (720, 1280)).sizes == ((1, 1, 1), (1, 720, 1280), (1, 1440, 2560))
    step = Interface("x", 3, 1, multiple=32, minimum=48)
    assert default_profile(step, (64, 96)).sizes == ((1, 64, 64), (1, 64, 96), (1, 1024, 1024))
    fixed = Interface("x", 3, 1, fixed_size=(48, 64))
    assert default_profile(fixed, (48, 64)).sizes == ((1, 48, 64),) * 3


def test_a_given_profile_reaches_every_input():
    extras = (ExtraInput("sigma", (0, 1, 1, 1), 0.1), ExtraInput("map", (0, 1, "H", "W"), 0.0))
    interface = Interface("x", 3, 1, extra_inputs=extras)
    profile = Profile.parse("1x8x16,1x48x64,4x96x128")
    profile.check(interface)
    assert profile.shapes(interface) == {
        "x": ((1, 3, 8, 16), (1, 3, 48, 64), (4, 3, 96, 128)),
        "sigma": ((1, 1, 1, 1), (1, 1, 1, 1), (4, 1, 1, 1)),
        "map": ((1, 1, 8, 16), (1, 1, 48, 64), (4, 1, 96, 128)),
    }


@pytest.mark.parametrize(
    "text", ["", "1x8x8", "8x8,16x16,32x32", "2x8x8,2x16x16,2x32x32", "1x8x8,1x16x16,1xHxW"]
)
def test_profiles_that_are_none(text):
    with pytest.raises(NmcompileError, match="expected the least, usual and largest NxHxW"):
        Profile.parse(text)


def test_profiles_that_fall():
    with pytest.raises(NmcompileError, match="sizes from 1 up that do not fall"):
        Profile.parse("1x64x64,1x32x64,1x128x128")


@pytest.mark.parametrize(
    ("interface", "problem"),
    [
        (Interface("x", 3, 1, fixed_size=(48, 64)), "takes images of 48x64 only"),
        (Interface("x", 3, 1, multiple=16), "found 8x8, the network takes multiples of 16 from 1"),
        (Interface("x", 3, 1, minimum=12), "found 8x8, the network takes multiples of 1 from 12"),
    ],
)
def test_profiles_that_the_network_does_not_take(interface, problem):
    with pytest.raises(NmcompileError, match=problem):
        Profile.parse("1x8x8,1x48x64,1x96x128").check(interface)
