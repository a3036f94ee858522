"""A few lines of layers -> a small input-adaptive engine on disk, native or for ONNX Runtime."""

import dataclasses
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nmcompile.backends.native import lower
from nmcompile.capture import capture
from nmcompile.engine import ExtraInput, Manifest, Routing, seal
from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import (
    Activation,
    ConvShape,
    Kind,
    Operation,
    Value,
    conv_data,
    pack,
)
from tests.engines import PLAIN
from tests.native.build import ladder

LADDER = "8x2:8k 8x4:8k dense"
ROUTING = Routing("tile", 32, 8, (0.3, 0.6, 1.0), (0.3, 0.6, 1.0), 0.005, (30.0, 0.0, -30.0), 0.5)
_FLAT, _ROUGH = 0.02, 0.06  # activity at which a higher level begins
_LAPLACE = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32) / 4
_SAME = (1, 1, 1, 1)


class Small(nn.Module):
    """Three convolutions about a residual, x1 or x2: each output pixel looks 3 pixels far."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.head, self.body = (nn.Conv2d(n, 16, 3, padding=1) for n in (channels, 16))
        self.tail = nn.Conv2d(16, channels * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale) if scale > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.head(x))
        return self.shuffle(self.tail(y + torch.relu(self.body(y))))


@cache
def network(channels: int = 3, scale: int = 1, same: bool = False) -> bytes:
    """A native program of three levels, which differ in its body unless they are the `same`."""
    torch.manual_seed(0)
    module = Small(channels, scale).eval()
    weight, least = ladder([Pattern.parse(text) for text in LADDER.split()], (16, 16, 3, 3))
    if same:
        least = np.where(np.arange(16)[:, None, None, None] < 15, 0, 2) + 0 * least
        weight[15] = 0
    with torch.no_grad():
        module.body.weight.copy_(torch.from_numpy(weight / 8))
    levels = {"body.weight": least.astype(np.uint8)}
    return lower(capture(module, channels=channels), levels=levels)


def head(channels: int = 3) -> bytes:
    """A native program: scores of 3 levels by the mean of |Laplacian|; all is as difficult."""
    laplace = np.zeros((2, channels, 3, 3), np.float32)
    laplace[0], laplace[1] = _LAPLACE / channels, -_LAPLACE / channels
    score, bias = _scores()
    steps = [
        Operation(Kind.CONV2D, (0,), 1, ConvShape((3, 3)).params(),
                  data=conv_data(laplace, None, False), activation=Activation.RELU),
        Operation(Kind.MOMENTS, (1,), 2, (1, 0)),
        Operation(Kind.CONV2D, (2,), 3, ConvShape((1, 1)).params(),
                  data=conv_data(score, bias, False)),
    ]  # fmt: skip
    counts = [channels, 2, 2, 4]
    values = [Value(index, 0, count) for index, count in enumerate(counts)]
    return pack(counts, values, steps, 1, [3])


def _scores() -> tuple[np.ndarray, np.ndarray]:
    """Level k beats the one below from the activity on at which it begins."""
    weight = np.array([0, 100, 200, 0], np.float32)[:, None, None, None] * np.ones((1, 2, 1, 1))
    return weight.astype(np.float32), np.float32([0, -100 * _FLAT, -100 * (_FLAT + _ROUGH), 0])


def native(
    folder: Path,
    scale: int = 1,
    same: bool = False,
    dense: Path | None = None,
    **changes: Any,
) -> Path:
    """A native routed engine; `changes` are fields of the manifest or of its routing.

    The dense original is taken from the engine `dense`, if one is given.
    With `same` levels, all that is blended lies 3 pixels within its window.
    """
    manifest, routing = _manifest({"overlap": 12 if same else 8, **changes})
    manifest = dataclasses.replace(
        manifest, executor="native", scale=scale, halo=3, routing=routing
    )
    folder.mkdir()
    (folder / "model.nmk").write_bytes(network(manifest.channels, scale, same))
    (folder / "head.nmk").write_bytes(head(manifest.channels))
    if dense is not None:
        shutil.copy(dense / "dense.onnx", folder)
    seal(folder, manifest)
    return folder


def portable(folder: Path) -> Path:
    """An engine of two levels, for ONNX Runtime: they multiply by `gain` and by 2 * `gain`."""

    def node(kind: str, inputs: list[str], output: str, **more: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], **more)

    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node("Mul", ["louder", name], f"{name}_out")], name, [], [output])

    laplace = np.concatenate([_LAPLACE[None, None], -_LAPLACE[None, None]]).repeat(3, axis=1) / 3
    arrays = {
        "laplace": laplace.astype(np.float32), "ones": np.float32([[0, 100], [0, 100]]),
        "bias": np.float32([[0, -100 * _FLAT]]), "one": np.float32(1), "two": np.float32(2),
        "offsets": np.zeros(2, np.float32), "shape": np.int64([1, 2]), "top": np.int64([1]),
        "alike": np.float32([[0]]),
    }  # fmt: skip
    nodes = [
        node("Mul", ["image", "gain"], "louder"),
        node("Conv", ["image", "laplace"], "edges"),
        node("Relu", ["edges"], "positive"),
        node("GlobalAveragePool", ["positive"], "mean"),
        node("Reshape", ["mean", "shape"], "activity"),
        node("MatMul", ["activity", "ones"], "weighed"),
        node("Add", ["weighed", "bias"], "scores"),
        node("Add", ["scores", "offsets"], "shifted"),
        node("ArgMax", ["shifted"], "level", axis=1, keepdims=0),
        node("Identity", ["alike"], "difficulty"),
        node("Equal", ["level", "top"], "is_top"),
        node("If", ["is_top"], "restored", then_branch=branch("two"), else_branch=branch("one")),
    ]
    value = helper.make_tensor_value_info
    image, sizes = TensorProto.FLOAT, [1, 3, "H", "W"]
    graph = helper.make_graph(
        nodes, "routed",
        [value("image", image, sizes), value("gain", image, [1, 1, 1, 1]),
         value("offsets", image, [2])],
        [value("restored", image, sizes), value("level", TensorProto.INT64, [1]),
         value("scores", image, [1, 2]), value("difficulty", image, [1, 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    routing = dataclasses.replace(ROUTING, costs=(0.05, 1.0), times=(0.05, 1.0))
    gain = ExtraInput("gain", (0, 1, 1, 1), 1.0)
    seal(folder, dataclasses.replace(PLAIN, routing=routing, extra_inputs=(gain,)))
    return folder


def _manifest(changes: dict[str, Any]) -> tuple[Manifest, Routing]:
    names = {field.name for field in dataclasses.fields(Routing)}
    own = {name: changes.pop(name) for name in list(changes) if name in names}
    return dataclasses.replace(PLAIN, **changes), dataclasses.replace(ROUTING, **own)


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Flat at the left, noise at the right, a little of it between; float32 in 0..1."""
    random = np.random.default_rng(height)
    strength = np.repeat([0.0, 0.1, 0.5], [width // 3, width // 3, width - 2 * (width // 3)])
    noise = random.uniform(-1, 1, (height, width, channels)) * strength[:, None]
    return (0.5 + noise).astype(np.float32)
