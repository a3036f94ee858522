"""The plugin nodes of models that are built for TensorRT -> does the plugin take and run them?"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from nmcompile.backends.nmconv import DOMAIN
from nmcompile.backends.tensorrt_onnx import half_model, one_layer
from nmcompile.context import ConvSpec
from nmcompile.pattern import Pattern
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import from_bits, to_bits
from tests.native.trt.harness import HALF, HWC8, Tensor, parsed
from tests.networks import captured, plain


@pytest.mark.parametrize("pattern", ["2:4", "64x1:4"])
def test_a_layer_that_is_timed(harness, device, pattern):
    spec = ConvSpec(
        "conv2d", (64, 16, 3, 3), 1, (1, 1), (1, 1, 1, 1), (1, 1), (0, 0), (1, 16, 9, 11)
    )  # fmt: skip
    ours, theirs = (one_layer(spec, Pattern.parse(pattern), plugin) for plugin in (True, False))
    (node,) = (node for node in ours.graph.node if node.domain == DOMAIN)
    plugin = harness.create(parsed(node, [*harness.fields]))
    assert plugin is not None, harness.log()
    x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float16)
    tensors = [Tensor(HALF, HWC8, x.shape), Tensor(HALF, HWC8, (1, 64, 9, 11))]
    bits = to_bits(np.float32(x.transpose(0, 2, 3, 1)), Half.FP16)
    addresses = [device.put(bits), device.put(np.zeros((1, 9, 11, 64), np.uint16))]
    assert all(plugin.supports(place, tensors) for place in range(2))
    assert plugin.shape_change(tensors), harness.log()
    assert plugin.enqueue(tensors, addresses), harness.log()
    found = from_bits(device.get(addresses[1], (1, 9, 11, 64)), Half.FP16).transpose(0, 3, 1, 2)
    (weight,) = (numpy_helper.to_array(t) for t in theirs.graph.initializer if t.name == "w")
    expected = F.conv2d(torch.from_numpy(np.float32(x)), torch.from_numpy(np.float32(weight)),
                        padding=1).numpy()  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_layers_of_a_network(harness):
    program = captured(plain())
    model = half_model(program, ["body.0.weight", "body.2.weight"])
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.name for node in nodes] == ["body.0.weight", "body.2.weight"]
    for node in nodes:
        assert harness.create(parsed(node, [*harness.fields])) is not None, harness.log()
    assert harness.log() == []
