"""Operations that would run in fp32 -> are they named, and is nothing else?"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nmcompile.backends.half_check import check_half
from nmcompile.backends.tensorrt_onnx import half_model
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.errors import NmcompileError
from tests.networks import Around, PerPixel, Shared, captured, conv, image, plain


class Gate(nn.Module):
    """Global statistics that scale an image."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.mix(x.mean((2, 3), keepdim=True)))


NETWORKS = {
    "plain": plain,
    "one weight thrice": Shared,
    "linear": PerPixel,
    "transposed": lambda: Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, 2, 1)),
    "resized": lambda: Around(nn.AvgPool2d(2), nn.PReLU(8), nn.Upsample(scale_factor=2)),
    "bilinear": lambda: Around(nn.Upsample(scale_factor=2, mode="bilinear"), nn.MaxPool2d(2)),
    "normalised": lambda: Around(conv(8, 8), nn.InstanceNorm2d(8), nn.GELU()),
    "gated": lambda: Around(conv(8, 8), Gate(), nn.LeakyReLU(0.1)),
    "shuffled": lambda: Around(conv(8, 32), nn.PixelShuffle(2), nn.PixelUnshuffle(2), conv(32, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_fp16_are_near_fp32_and_pass(name):
    program = captured(NETWORKS[name]())
    model = half_model(program, ())
    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    scales = {n.input[2] for n in model.graph.node if n.op_type == "Resize" and len(n.input) > 2}
    assert floats <= scales
    types = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    assert types == [TensorProto.FLOAT] * 2
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for size in ((16, 24), (22, 18)):
        x = image(program, *size)
        expected = program(x).numpy()
        found = session.run(None, {program.interface.input_name: x.numpy()})[0]
        assert np.abs(found - expected).max() <= 1e-2 * np.abs(expected).max()


def in_half() -> onnx.ModelProto:
    return half_model(captured(plain()), ())


def test_a_planted_fp32_convolution_is_named():
    model = in_half()
    nodes = list(model.graph.node)
    index = next(i for i, node in enumerate(nodes) if node.name == "body.0.weight")
    planted = nodes[index]
    source, target = planted.input[0], planted.output[0]
    planted.input[0], planted.output[0] = "wide_in", "wide_out"
    for tensor in model.graph.initializer:
        if tensor.name in planted.input:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    casts = [
        helper.make_node("Cast", [source], ["wide_in"], to=TensorProto.FLOAT),
        planted,
        helper.make_node("Cast", ["wide_out"], [target], to=TensorProto.FLOAT16),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:index], *casts, *nodes[index + 1 :]])
    onnx.checker.check_model(model)
    with pytest.raises(
        NmcompileError,
        match=r"1 operations would not run in fp16: Conv body.0.weight \(fp32\); the network asks",
    ):
        check_half(model)


def test_a_graph_without_casts_is_all_named():
    model = in_half()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = TensorProto.FLOAT
    del model.graph.value_info[:]
    with pytest.raises(NmcompileError, match=r"6 operations.* and 2 more; the network"):
        check_half(model)


def test_an_elementwise_operation_in_double_is_named():
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["wide", "wide"], ["square"], name="squared"),
            helper.make_node("Cast", ["square"], ["y"], to=TensorProto.FLOAT),
        ],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    with pytest.raises(NmcompileError, match=r"Mul squared \(double\)"):
        check_half(helper.make_model(graph))


def test_what_nobody_knows_the_type_of_is_named():
    graph = helper.make_graph(
        [helper.make_node("Odd", ["x"], ["y"], domain="elsewhere", name="odd")],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3])],
        [helper.make_value_info("y", onnx.TypeProto())],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    with pytest.raises(NmcompileError, match=r"Odd odd \(a type that nobody knows\)"):
        check_half(helper.make_model(graph, opset_imports=opsets))


def test_what_depends_on_shapes_alone_may_be_fp32():
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["sizes", "sizes"], ["squares"]),
            helper.make_node("Cast", ["squares"], ["target"], to=TensorProto.INT64),
            helper.make_node("Expand", ["x", "target"], ["y"]),
        ],
        "shapes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
    )
    check_half(helper.make_model(graph))


def test_statistics_that_are_taken_in_fp32_are_named():
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return x + y / torch.sqrt(y.var(1, keepdim=True) + 1e-5)

    with pytest.raises(NmcompileError, match=r"ReduceMean\w* \(fp32\).*torch.onnx takes it \(var"):
        half_model(captured(Normalised()), ())


def test_equal_weights_keep_their_names():
    program = captured(plain())
    same = get_tensor(program.module, "body.0.weight")
    set_tensor(program.module, "body.2.weight", same)
    names = [node.name for node in half_model(program, ()).graph.node if node.op_type == "Conv"]
    assert names == ["head.weight", "body.0.weight", "body.2.weight", "tail.weight"]


def test_weights_beyond_fp16_are_named():
    program = captured(plain())
    set_tensor(program.module, "body.2.weight", torch.full((8, 8, 3, 3), 1e5))
    with pytest.raises(
        NmcompileError, match=r"layer body.2.weight has a weight of 100000, fp16 ho"
    ):
        half_model(program, ())


def test_a_network_that_asks_for_fp32_itself_computes_in_fp16():
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y.to(torch.float32) + torch.ones_like(y, dtype=torch.float32)

    check_half(half_model(captured(Asks()), ()))
