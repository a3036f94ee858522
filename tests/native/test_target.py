"""The CPU target and its engines -> kernels named and timed, fallbacks said, damage refused."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile.backends import make_target
from nmcompile.capture import capture
from nmcompile.context import ConvSpec
from nmcompile.engine import seal
from nmcompile.errors import NmcompileError
from nmcompile.passes.assign_patterns import reverted, within_loss
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.runtime import load, native
from nmcompile.runtime.native.blob import Kind
from tests.engines import PLAIN
from tests.native.build import noise, single

HALF = Pattern.parse("2:4")


def _layer(name, dense_ms, sparse_ms):
    choices = (Choice(DENSE, 100, dense_ms, 0.0, "a"), Choice(HALF, 50, sparse_ms, 1.0, "b"))
    return Layer(name, "conv2d", (8, 8, 3, 3), 1, 1, 576, 100, "", 1, choices, HALF, "uniform")


def test_kernel_names_say_pattern_and_isa():
    target, layer = make_target("cpu", 1), _layer("w", 1.0, 1.0)
    assert target.kernel(layer, DENSE) == f"fp32.dense.{native.isa()}"
    assert target.kernel(layer, HALF) == f"fp32.nm-2:4.{native.isa()}"


@pytest.mark.real_times
@pytest.mark.parametrize("pattern", [DENSE, HALF, Pattern.parse("8x2:4")], ids=str)
def test_the_real_kernel_is_timed(pattern):
    target = make_target("cpu", 1)
    spec = ConvSpec(
        "conv2d", (8, 8, 3, 3), 2, (2, 1), (1, 1, 1, 1), (1, 1), (0, 0), (1, 16, 12, 20)
    )
    assert target.latency_ms(spec, target.kernel(_layer("w", 1.0, 1.0), pattern)) > 0


def test_a_network_with_an_unknown_operation_is_left_to_onnx_runtime():
    class Inverse(nn.Module):
        def forward(self, x):
            return torch.fft.ifft2(torch.fft.fft2(x)).real

    target = make_target("cpu", 1)
    plain = capture(nn.Conv2d(3, 3, 3, padding=1).eval(), channels=3)
    assert target.fitted(plain, (16, 16)) is target
    left = target.fitted(capture(Inverse().eval(), channels=3), (16, 16))
    assert left.executor == "onnxruntime"
    assert "the native backend has no aten.fft_fft2" in left.note


def test_a_pattern_that_does_not_pay_is_reverted():
    layers = (_layer("slow", 1.0, 1.5), _layer("fast", 1.0, 0.5), _layer("alike", 1.0, 0.99))
    plan = reverted(Plan((8, 8), "cpu", layers))
    assert [layer.pattern for layer in plan.layers] == [DENSE, HALF, DENSE]
    assert plan.layers[0].reason == "reverted to dense: 2:4 takes 1.5 ms, dense 1 ms"


def test_a_pattern_that_does_not_pay_is_not_chosen_where_loss_may_be_spent():
    plan = Plan((8, 8), "cpu", (_layer("alike", 1.0, 0.99), _layer("fast", 1.0, 0.5)))
    found = within_loss(plan, 5.0)
    assert [layer.pattern for layer in found.layers] == [DENSE, HALF]
    assert [len(layer.choices) for layer in found.layers] == [2, 2]


def test_where_no_pattern_gains_time_nothing_is_reverted():
    plan = Plan((8, 8), "onnx", (_layer("one", 1.0, 1.0), _layer("other", 1.0, 1.0)))
    assert reverted(plan) == plan


def test_a_native_engine_runs_and_refuses_damage(tmp_path):
    manifest = dataclasses.replace(PLAIN, executor="native", scale=2)
    part = tmp_path / "model.nmk"
    part.write_bytes(single(Kind.NEAREST, [3], 3, params=(2,)))
    seal(tmp_path, manifest)
    x = noise(1, 3, 5, 7)
    np.testing.assert_array_equal(load(tmp_path, 1).run(x), x.repeat(2, 2).repeat(2, 3))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(NmcompileError, match="compile the engine again"):
        load(tmp_path, 1, check_parts=False)
