"""An ONNX file with NMConv nodes -> its output, every node run by its packed bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from nmcompile.backends.nmconv import DOMAIN
from nmcompile.runtime.native.cuda_conv import CudaConv
from nmcompile.runtime.native.cuda_pack import Half
from nmcompile.runtime.native.program import NativeProgram
from tests.native.cuda.cases import from_bits, to_bits
from tests.native.cuda.device import Array

# (packed bytes, attributes, image, residual or None, level or None) -> output
Runner = Callable[[bytes, dict[str, Any], Array, Array | None, int | None], Array]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes, texts decoded, `weights` as the bytes that they stand for."""
    found = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    texts = {name: value.decode() for name, value in found.items() if isinstance(value, bytes)}
    words = numpy_helper.to_array(found["weights"])
    assert words.dtype == np.int32
    assert words.nbytes - found["bytes"] in range(4)
    return {**found, **texts, "weights": words.tobytes()[: found["bytes"]]}


def nodes(path: Path) -> list[dict[str, Any]]:
    """The attributes of every NMConv node of a file, and under `inputs` what it reads."""
    model = onnx.load(path)
    found = [node for node in model.graph.node if node.domain == DOMAIN]
    return [{**attributes(node), "inputs": list(node.input)} for node in found]


def run(path: Path, inputs: dict[str, Array], runner: Runner) -> Array:
    """Evaluates a file plainly, its NMConv nodes by `runner`."""

    class NMConv(OpRun):
        op_domain = DOMAIN

        def _run(self, x: Array, *more: Array, **_: Any) -> tuple[Array]:
            held = attributes(self.onnx_node)
            given = list(more)
            residual = given.pop(0) if held["residual"] else None
            level = int(given.pop(0).item()) if held["routed"] else None
            assert not given
            return (runner(held["weights"], held, x, residual, level),)

    found: Array = ReferenceEvaluator(str(path), new_ops=[NMConv]).run(None, inputs)[0]
    return found


def on_cpu(
    packed: bytes, held: dict[str, Any], x: Array, residual: Array | None, level: int | None
) -> Array:
    """libnmk."""
    assert held["format"] == "cpu"
    return NativeProgram(packed).run([x, *([] if residual is None else [residual])], 1, level)[0]


def on_device(device: Any) -> Runner:
    """libnmk_cuda's kernels on a device of tests.native.cuda.device."""

    def call(
        packed: bytes, held: dict[str, Any], x: Array, residual: Array | None, level: int | None
    ) -> Array:
        assert held["format"] == "cuda"
        half = Half(int(np.frombuffer(packed, np.uint32)[3]))
        first, last = ((0, 2, 3, 1), (0, 3, 1, 2)) if held["layout"] == "NCHW" else (None, None)
        conv = CudaConv(device.library, packed, held["name"])

        def put(image: Array | None) -> int:
            if image is None:
                return 0
            assert image.dtype == (np.float16 if half is Half.FP16 else "bfloat16")
            image = image if first is None else image.transpose(first)
            return int(device.put(to_bits(image.astype(np.float32), half)))

        size = x.shape if first is None else tuple(np.array(x.shape)[[0, 2, 3, 1]])
        shape = (size[0], *conv.output_shape(size[1], size[2]))
        y = device.put(np.zeros(shape, np.uint16))
        conv.run(put(x), y, size[:3], residual=put(residual), level=level)
        found = from_bits(device.get(y, shape), half).astype(x.dtype)
        device.clear()
        return found if last is None else found.transpose(last)

    return call
