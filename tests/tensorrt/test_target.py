"""Layers, patterns and a table of times -> TensorRT's tactic or our plugin; and who is refused."""

import dataclasses
import hashlib
import sys

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nmcompile.backends import make_target
from nmcompile.backends import tensorrt as backend
from nmcompile.backends.tensorrt import TensorRtTarget, plugin_layers, plugin_obstacle
from nmcompile.backends.tensorrt_onnx import half_model, one_layer
from nmcompile.context import ConvSpec
from nmcompile.convs import weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.passes.measure_latency import conv_spec
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.precision import settle_precision
from nmcompile.shapes import shapes_at
from tests.networks import Around, Shared, captured, conv
from tests.nvidia.machine import use_driver, use_tensorrt

SPEC = ConvSpec(
    "conv2d", (16, 8, 3, 3), 1, (1, 1), (1, 1, 1, 1), (1, 1), (0, 0), (1, 8, 12, 16)
)  # fmt: skip
HALF = Pattern.parse("2:4")


@pytest.fixture
def target(fake_gpu, tmp_path):
    fake_gpu.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "11.so").write_bytes(b"a library")
    fake_gpu.setattr(backend, "plugin_library", lambda major: tmp_path / f"{major}.so")
    use_tensorrt(fake_gpu).plugin = True
    fake_gpu.setattr("nmcompile.backends.tensorrt_build.load_plugins", lambda _: None)
    return make_target("tensorrt")


def timed_by(target, monkeypatch, table):
    """Times by way and output channels."""

    def timed(self, spec, form, way):
        return table[way, spec.shape[0]]

    monkeypatch.setattr(TensorRtTarget, "_timed", timed)
    return target


def with_plan(program, pattern):
    layers = []
    for name in weight_uses(program.module):
        shape = tuple(program.module.state_dict()[name].shape)
        choices = tuple(Choice(p, 1) for p in dict.fromkeys((DENSE, pattern)))
        taken = pattern if shape[1] % 8 == 0 else DENSE
        layers.append(Layer(name, "conv2d", shape, 1, 1, 1, 1, "", 0, choices, taken))
    return program.with_plan(Plan((16, 24), "tensorrt", tuple(layers)))


def plugins_of(target, program):
    shapes = shapes_at(program, (16, 24))
    calls = {
        name: [conv_spec(program, node, shapes) for node in nodes]
        for name, nodes in weight_uses(program.module).items()
    }
    return plugin_layers(target, program, calls)


def test_names_and_keys(target):
    layer = Layer("a", "conv2d", (16, 8, 3, 3), 1, 1, 1, 1, "", 0)
    assert target.kernel(layer, DENSE) == "fp16.dense"
    assert target.kernel(layer, HALF) == "fp16.nm-2:4"
    up = dataclasses.replace(layer, op="conv_transpose2d")
    assert target.kernel(up, HALF) == "fp16.dense"  # there are no sparse tactics for it
    build = hashlib.sha256(b"a library").hexdigest()[:16]
    assert target.key() == ("11.1.0.106", "Fake GPU (compute capability 9.0)", build)
    assert (target.executor, target.precision, target.threads) == ("tensorrt", "fp16", None)
    for pattern in target.default_patterns():
        assert pattern.n <= 2
        assert pattern.m % 4 == 0


def test_the_faster_way_counts(target, monkeypatch):
    timed_by(target, monkeypatch, {("tensorrt", 16): 2.0, ("nmconv", 16): 1.5})
    assert target.latency_ms(SPEC, "fp16.nm-2:4") == 1.5
    assert target.latency_ms(SPEC, "fp16.dense") == 2.0
    odd = dataclasses.replace(SPEC, shape=(16, 6, 3, 3))
    assert target.latency_ms(odd, "fp16.nm-1:3") == 2.0
    target.plugins = False
    assert target.latency_ms(SPEC, "fp16.nm-2:4") == 2.0


def test_layers_for_which_our_kernel_is_faster_become_plugins(target, monkeypatch):
    program = with_plan(captured(Around(conv(8, 16), conv(16, 8))), HALF)
    table = {("tensorrt", n): 1.0 for n in (3, 8, 16)} | {("nmconv", 8): 0.9, ("nmconv", 16): 1.1}
    timed_by(target, monkeypatch, table)
    assert plugins_of(target, program) == ["body.1.weight"]
    target.plugins = False
    assert plugins_of(target, program) == []


def test_a_shuffle_must_leave_vectors_of_channels(target, monkeypatch):
    inner = [
        conv(8, 16),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        conv(16, 32),
        nn.PixelShuffle(2),
    ]
    program = with_plan(captured(Around(*inner)), HALF)
    timed_by(target, monkeypatch, {("tensorrt", n): 1.0 for n in (3, 8, 16, 32)}
             | {("nmconv", n): 0.9 for n in (8, 16, 32)})  # fmt: skip
    assert plugins_of(target, program) == ["body.3.weight"]  # 16 / 4 channels are no vector


def test_a_weight_is_a_plugin_everywhere_or_nowhere(target, monkeypatch):
    program = with_plan(captured(Shared()), HALF)
    timed_by(target, monkeypatch, {("tensorrt", n): 1.0 for n in (3, 8)} | {("nmconv", 8): 0.9})
    assert plugins_of(target, program) == ["again.weight"]
    model = half_model(program, ["again.weight"])
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert {kinds[f"again.weight{use}"] for use in ("", "@2", "@3")} == {"NMConv"}
    assert kinds["head.weight"] == kinds["tail.weight"] == "Conv"


@pytest.mark.parametrize(
    ("changes", "pattern", "problem"),
    [
        ({}, "2:4", None),
        ({}, "64x1:4", None),
        ({}, "dense", "for pruned convolutions"),
        ({"op": "linear"}, "2:4", "for pruned convolutions"),
        ({"shape": (12, 8, 3, 3)}, "2:4", "8 and 12 channels; our plugin takes multiples of 8"),
        ({"groups": 2}, "2:4", "2 groups"),
        ({"dilation": (2, 2)}, "2:4", "dilation"),
        ({"shape": (16, 8, 5, 5)}, "2:4", "kernel of 5x5"),
    ],
)
def test_what_our_plugin_takes(changes, pattern, problem):
    found = plugin_obstacle(dataclasses.replace(SPEC, **changes), Pattern.parse(pattern))
    assert (found is None) == (problem is None)
    assert problem is None or problem in found


@pytest.mark.parametrize("plugin", [False, True])
def test_a_layer_is_timed_without_the_casts_around_it(target, plugin):
    kernel = "fp16.nm-2:4" if plugin else "fp16.dense"
    assert target.latency_ms(SPEC, kernel) == (0.5 if plugin else 16 * 8 * 9)  # the fake's times


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride": (2, 2), "padding": (0, 1, 1, 0)},
        {"op": "conv_transpose2d", "stride": (2, 2), "output_padding": (1, 1)},
        {"op": "linear", "shape": (16, 8, 1, 1), "input_shape": (1, 30, 8), "padding": (0,) * 4},
    ],
)
def test_models_of_one_layer(changes):
    spec = dataclasses.replace(SPEC, **changes)
    model = one_layer(spec, HALF if spec.op != "conv_transpose2d" else DENSE, plugin=False)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(1).random(spec.input_shape, np.float32)
    found = session.run(None, {"x": x})[0]
    assert found.dtype == np.float32
    named = {tensor.name: tensor for tensor in model.graph.initializer}
    w = torch.from_numpy(np.frombuffer(named["w"].raw_data, np.float16).astype(np.float32))
    w = w.reshape(*named["w"].dims)
    left, right, top, bottom = spec.padding
    if spec.op == "linear":
        expected = torch.from_numpy(x) @ w
        assert (w.reshape(2, 4, 16) != 0).sum(1).max() == 2
    elif spec.op == "conv_transpose2d":
        expected = F.conv_transpose2d(torch.from_numpy(x), w, None, 2, 1, 1)
    else:
        padded = F.pad(torch.from_numpy(x), (left, right, top, bottom))
        expected = F.conv2d(padded, w, None, spec.stride)
        assert (w.reshape(16, 2, 4, 9) != 0).sum(2).max() == 2
    assert np.allclose(found, expected.numpy(), atol=1e-2 * float(expected.abs().max()))


def test_without_the_plugin_library_the_engine_says_so(fake_gpu, tmp_path):
    def missing(_):
        raise NmcompileError("libnmk_trt11.so was not found; build it")

    use_tensorrt(fake_gpu)
    fake_gpu.setattr(backend, "plugin_library", missing)
    target = make_target("tensorrt")
    assert not target.plugins
    assert target.key()[2] == ""
    assert target.note == (
        "only TensorRT's own tactics are weighed: libnmk_trt11.so was not found; build it"
    )


def test_no_tensorrt(fake_gpu):
    fake_gpu.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NmcompileError, match=r"TensorRT 10.x or 11.x is needed and its Python"):
        make_target("tensorrt")


def test_no_gpu(no_gpu_after, monkeypatch):
    use_tensorrt(monkeypatch)
    use_driver("libcuda_that_is_not_here.so", monkeypatch)
    with pytest.raises(NmcompileError, match="found no NVIDIA GPU"):
        make_target("tensorrt")


@pytest.mark.parametrize(("option", "value"), [("profile", "1x8x8,1x8x8,1x8x8"), ("strict", True)])
def test_options_are_for_tensorrt(option, value):
    with pytest.raises(NmcompileError, match=f"--{option} is about --target tensorrt; leave it"):
        make_target("onnx", **{option: value})


def test_profile_is_checked_before_anything_is_timed(target):
    profile = "1x8x8,1x16x16,1x32x32"
    target = make_target("tensorrt", profile=profile)
    program = captured(Around(conv(8, 8)))
    assert target.fitted(program, (16, 24)) is target
    fixed = dataclasses.replace(program.interface, fixed_size=(40, 40))
    with pytest.raises(NmcompileError, match="takes images of 40x40 only"):
        target.profile_of(fixed, (40, 40))


@pytest.mark.parametrize("wanted", ["auto", "fp16", "fp32", "bf16"])
def test_precision_is_fp16(target, wanted):
    ctx = type("Ctx", (), {"target": target})()
    if wanted in ("auto", "fp16"):
        found, precision = settle_precision(captured(Around()), ctx, wanted)
        assert found is target
        assert precision.chosen == "fp16"
        return
    with pytest.raises(NmcompileError, match=f"--precision {wanted}: TensorRT engines are fp16"):
        settle_precision(captured(Around()), ctx, wanted)
