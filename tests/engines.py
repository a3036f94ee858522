"""A few lines of layers -> a small engine on disk, for tests of the runtime and the commands."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nmcompile.engine import ExtraInput, Manifest, seal

PLAIN = Manifest(
    target="cpu",
    executor="onnxruntime",
    task="denoise",
    input_name="image",
    channels=3,
    scale=1,
    value_range=1.0,
    multiple=1,
    minimum=1,
    fixed_size=None,
    halo=0,
    halo_reason="",
    bytes_per_pixel=100,
    created_by="nmcompile test",
)


class Graph:
    """Layers in the order they are added; each method returns the name of its output."""

    def __init__(self, extra_inputs: tuple[ExtraInput, ...] = ()) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.extra_inputs = extra_inputs
        self.random = np.random.default_rng(7)

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x: str, size_in: int, size_out: int, stride: int = 1) -> str:
        kernel = self.random.standard_normal((size_out, size_in, 3, 3)) / (3 * size_in**0.5)
        weight = self.weight(kernel.astype(np.float32))
        bias = self.weight(np.full(size_out, 0.1, np.float32))
        return self.add("Conv", [x, weight, bias], pads=[1] * 4, strides=[stride] * 2)

    def up(self, x: str, size_in: int, size_out: int) -> str:
        kernel = self.random.standard_normal((size_in, size_out, 4, 4)) / (4 * size_in**0.5)
        weight = self.weight(kernel.astype(np.float32))
        return self.add("ConvTranspose", [x, weight], pads=[1] * 4, strides=[2, 2])

    def relu(self, x: str) -> str:
        return self.add("Relu", [x])

    def save(self, output: str, channels: int, path: Path) -> None:
        def tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        names = {0: "N", "H": "H", "W": "W"}
        inputs = [tensor("image", ["N", channels, "H", "W"])]
        inputs += [
            tensor(extra.name, [names.get(size, size) for size in extra.shape])
            for extra in self.extra_inputs
        ]
        self.nodes[-1].output[0] = output
        graph = helper.make_graph(
            self.nodes,
            "small",
            inputs,
            [tensor(output, ["N", channels, "OH", "OW"])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9
        onnx.checker.check_model(model)
        onnx.save(model, path)


def super_resolution(folder: Path, **changes: Any) -> Path:
    """Three convolutions and a pixel shuffle, x2: each output pixel looks 3 input pixels far."""
    graph = Graph()
    x = graph.relu(graph.conv("image", 3, 8))
    x = graph.conv(graph.relu(graph.conv(x, 8, 8)), 8, 12)
    graph.add("DepthToSpace", [x], blocksize=2, mode="CRD")
    return _write(folder, graph, scale=2, halo=3, **changes)


def strided(folder: Path, **changes: Any) -> Path:
    """Two strided and two transposed convolutions: multiples of 4, looks 9 pixels far."""
    graph = Graph()
    x = graph.relu(graph.conv("image", 3, 8, stride=2))
    x = graph.relu(graph.conv(x, 8, 8, stride=2))
    x = graph.up(graph.relu(graph.up(x, 8, 8)), 8, 3)
    graph.add("Add", [x, "image"])
    return _write(folder, graph, **{"multiple": 4, "minimum": 4, "halo": 9, **changes})


def whole_image(folder: Path, **changes: Any) -> Path:
    """A convolution plus the mean of the whole image."""
    graph = Graph()
    mean = graph.add("GlobalAveragePool", ["image"])
    graph.add("Add", [graph.conv("image", 3, 3), mean])
    return _write(folder, graph, halo=None, halo_reason="GlobalAveragePool", **changes)


def grey(folder: Path, **changes: Any) -> Path:
    """One channel: the image plus two convolutions of it."""
    graph = Graph()
    x = graph.conv(graph.relu(graph.conv("image", 1, 8)), 8, 1)
    graph.add("Add", ["image", x])
    return _write(folder, graph, channels=1, halo=2, **changes)


def noise_level(folder: Path, shape: tuple[int | str, ...], **changes: Any) -> Path:
    """The image plus its second input, sigma, which is 0.25 unless told otherwise."""
    extra = ExtraInput("sigma", shape, 0.25)
    graph = Graph((extra,))
    graph.add("Add", ["image", "sigma"])
    return _write(folder, graph, channels=1, extra_inputs=(extra,), **changes)


def identity(folder: Path, **changes: Any) -> Path:
    """The image itself."""
    graph = Graph()
    graph.add("Identity", ["image"])
    return _write(folder, graph, **changes)


def _write(folder: Path, graph: Graph, **changes: Any) -> Path:
    folder.mkdir()
    manifest = dataclasses.replace(PLAIN, **changes)
    for name in ("model.onnx", "dense.onnx"):
        graph.save("restored", manifest.channels, folder / name)
    (folder / "receipt.json").write_text(json.dumps({"note": "dense kernel: no speed-up"}))
    seal(folder, manifest)
    return folder
