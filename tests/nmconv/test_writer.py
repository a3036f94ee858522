"""A Program -> ONNX with NMConv nodes: which, what is fused into them, and do they compute it?"""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from nmcompile.backends.nmconv_onnx import LEVEL, obstacles, write_nmconv
from nmcompile.convs import get_tensor, set_tensor, weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.runtime.native.cuda_pack import Half
from tests import architectures
from tests.networks import Around, Shared, captured, conv, image
from tests.nmconv.evaluate import nodes, on_cpu, on_device, run
from tests.routing.nests import nest

PIXELS = 1 / 255


class Parts(nn.Module):
    """What fuses: bias, ReLU, LeakyReLU, sums before and after them, a pixel shuffle, strides."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.b = conv(3, 8), conv(8, 8), conv(8, 8, bias=False)
        self.c, self.one, self.up = conv(8, 8, 1), conv(8, 8), conv(8, 32)
        self.down, self.tail = conv(8, 8, stride=2), conv(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        x = torch.relu(self.b(torch.relu(self.a(x))) + x)
        x = x + nn.functional.leaky_relu(self.c(x), 0.2)
        x = nn.functional.pixel_shuffle(self.up(torch.sigmoid(self.one(x))), 2)
        return self.tail(torch.relu(self.down(x)))


def write(program, folder: Path, **more):
    path = folder / "model.onnx"
    return write_nmconv(program, path, **more), path


def compare(program, path, runner, tolerance, height=16, width=24):
    x = image(program, height, width)
    found = run(path, {program.interface.input_name: x.numpy()}, runner)
    expected = program(x).numpy()
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_everything_that_can_be_is_fused(tmp_path):
    written, path = write(captured(Parts()), tmp_path, format="cpu")
    found = [(held["name"], len(held["inputs"]), held["residual"]) for held in nodes(path)]
    names = ["head", "a", "b", "c", "one", "up", "down", "tail"]
    residual = {"b": 1, "c": 2}
    assert found == [
        (f"{name}.weight", 1 + (name in residual), residual.get(name, 0)) for name in names
    ]
    assert [item.node for item in written] == [held["name"] for held in nodes(path)]
    others = {node.op_type for node in onnx.load(path).graph.node if node.domain == ""}
    assert others == {"Sigmoid"}


@pytest.mark.parametrize("size", [(16, 24), (7, 5)])
def test_cpu_nodes_compute_the_network(tmp_path, size):
    program = captured(Parts())
    compare(program, write(program, tmp_path, format="cpu")[1], on_cpu, 1e-5, *size)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("half", list(Half))
def test_cuda_nodes_compute_the_network(device, tmp_path, half, layout):
    program = captured(Parts())
    _, path = write(program, tmp_path, format="cuda", half=half, layout=layout)
    tolerance = 0.01 if half is Half.FP16 else 0.06
    compare(program, path, on_device(device), tolerance, 7, 10)


def test_channels_stay_last_between_nodes(tmp_path):
    """Transposes stand at the ends alone; what lies between works on any layout."""
    write(captured(Parts()), tmp_path, format="cuda", half=Half.FP16, layout="NHWC")
    model = onnx.load(tmp_path / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Transpose") == 2
    assert kinds[0] == kinds[-1] == "Cast"


class Joined(nn.Module):
    """Two images joined along their channels, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.tail = conv(3, 8), conv(8, 8), conv(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        return self.tail(torch.cat([x, torch.tanh(self.a(x))], 1))


def test_joined_channels_stay_last(device, tmp_path):
    program = captured(Joined())
    _, path = write(program, tmp_path, format="cuda", half=Half.FP16, layout="NHWC")
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("Concat"), kinds.count("Transpose")) == (1, 2)
    compare(program, path, on_device(device), 0.01, 7, 10)


def test_dense_layers_may_stay(device, tmp_path):
    """Around what stays a Conv the image is transposed, once for all who read it."""
    program = captured(Parts())
    chosen = {"b.weight", "c.weight"}
    _, path = write(program, tmp_path, format="cuda", half=Half.FP16, layout="NHWC", layers=chosen)
    assert {held["name"] for held in nodes(path)} == chosen
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("Conv"), kinds.count("Transpose")) == (6, 3)
    compare(program, path, on_device(device), 0.01, 7, 10)


def test_nothing_is_nmconv_if_nothing_is_asked_for(tmp_path):
    """The network in halves alone."""
    _, path = write(captured(Parts()), tmp_path, format="cuda", half=Half.FP16, layers=())
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_shared_weight_gets_a_node_a_use(tmp_path):
    program = captured(Shared())
    written, path = write(program, tmp_path, format="cpu")
    again = [item for item in written if item.layer == "again.weight"]
    assert [item.node for item in again] == [f"again.weight{n}" for n in ("", "@2", "@3")]
    assert [held["residual"] for held in nodes(path)] == [0, 2, 2, 2, 0]
    compare(program, path, on_cpu, 1e-5)


@pytest.mark.parametrize("name", ["rrdbnet_x2", "drunet", "even_same", "dbpn"])
def test_zoo(tmp_path, name):
    """Networks with concatenations, strides, groups, dilations and further inputs."""
    program = architectures.captured(name)
    written, path = write(program, tmp_path, format="cpu")
    assert {item.layer for item in written} | set(obstacles(program, "cpu")) == set(
        weight_uses(program.module)
    )
    interface = program.interface
    x = image(program, 6 * interface.multiple, 8 * interface.multiple)
    names = [interface.input_name, *(extra.name for extra in interface.extra_inputs)]
    values = [value.numpy() for value in interface.arguments(x)]
    found = run(path, dict(zip(names, values, strict=True)), on_cpu)
    expected = program(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("format", ["cpu", "cuda"])
def test_levels_are_an_input(device, tmp_path, format):
    dense, nested = nest(tmp_path)
    least = {name: value.numpy() for name, value in nested.least.items()}
    half = Half.FP16 if format == "cuda" else None
    _, path = write(nested.program, tmp_path, format=format, half=half, levels=least)
    assert [held["routed"] for held in nodes(path)] == [0, 1, 1, 0]
    x = image(dense, 7, 9)
    runner = on_cpu if format == "cpu" else on_device(device)
    for level in range(nested.count):
        inputs = {dense.interface.input_name: x.numpy(), LEVEL: np.int32([level])}
        found, expected = run(path, inputs, runner), nested.at(level)(x).numpy()
        tolerance = (1e-5 if half is None else 0.01) * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_pattern_and_kernel_follow_the_plan(tmp_path):
    _, nested = nest(tmp_path, ladder=("1:4", "2:4"))
    written, path = write(nested.program, tmp_path, format="cpu")
    assert [held["pattern"] for held in nodes(path)] == ["dense", "2:4", "2:4", "dense"]
    sparse, dense = (len(next(x for x in written if x.node == n).packed) for n in (
        "body.0.weight", "tail.weight"))  # fmt: skip
    assert sparse < 4 * 8 * 8 * 9 < dense + 4 * 5 * 8 * 9


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ({"head.weight", "nothing"}, "layer nothing cannot be .* no such weight"),
        ({"body.0.weight"}, "layer body.0.weight cannot be .* of format cuda: 2 groups"),
    ],
)
def test_layers_that_cannot_be(tmp_path, layers, says):
    program = captured(Around(conv(8, 8, groups=2)))
    with pytest.raises(NmcompileError, match=says):
        write(program, tmp_path, format="cuda", half=Half.FP16, layers=layers)
    assert not list(tmp_path.iterdir())
    assert re.match("2 groups", obstacles(program, "cuda")["body.0.weight"])


def test_levels_of_a_layer_that_stays_dense(tmp_path):
    _, nested = nest(tmp_path)
    least = {name: value.numpy() for name, value in nested.least.items()}
    with pytest.raises(NmcompileError, match=r"body\.2\.weight .* differ from level to level"):
        write(nested.program, tmp_path, format="cpu", levels=least, layers={"body.0.weight"})


def test_weight_beyond_fp16(tmp_path):
    program = captured(Parts())
    weight = get_tensor(program.module, "a.weight").clone()
    weight[0, 0, 0, 0] = 1e6
    set_tensor(program.module, "a.weight", weight)
    with pytest.raises(NmcompileError, match=r"layer a\.weight: .* fp16 holds up to 65504"):
        write(program, tmp_path, format="cuda", half=Half.FP16)
