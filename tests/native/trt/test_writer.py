"""A file that the writer made -> every NMConv node run by the plugin: the network's own output?"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from nmcompile.backends.nmconv import DOMAIN
from nmcompile.backends.nmconv_onnx import LEVEL
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import from_bits, to_bits
from tests.native.cuda.device import Array
from tests.native.trt.harness import BF16, HALF, HWC8, INT32, LINEAR, Harness, Tensor, parsed
from tests.networks import captured, image
from tests.nmconv.test_writer import Parts, write
from tests.routing.nests import nest

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
TOLERANCE = {Half.FP16: 0.01, Half.BF16: 0.06}  # of the largest value


def _run(harness: Harness, device: Any, half: Half, path: Path, inputs: dict[str, Array]) -> Array:
    """Evaluates the file plainly, its NMConv nodes as TensorRT would."""

    class NMConv(OpRun):
        op_domain = DOMAIN

        def _run(self, *given: Array, **_: Any) -> tuple[Array]:
            return (_enqueue(harness, device, half, self.onnx_node, given),)

    found: Array = ReferenceEvaluator(str(path), new_ops=[NMConv]).run(None, inputs)[0]
    return found


def _enqueue(
    harness: Harness, device: Any, half: Half, node: onnx.NodeProto, given: tuple[Array, ...]
) -> Array:
    plugin = harness.create(parsed(node, [*harness.fields]))
    assert plugin is not None, harness.log()
    texts = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    last = texts["layout"] == b"NHWC"
    kind, order = (BF16 if half is Half.BF16 else HALF), LINEAR if last else HWC8
    tensors, addresses = [], []
    for value in given:
        level = value.dtype == np.int32
        stored = value if level or last else value.transpose(TO_NHWC)
        bits = stored if level else to_bits(np.float32(stored), half)
        tensors.append(Tensor(*((INT32, LINEAR) if level else (kind, order)), value.shape))
        addresses.append(device.put(bits))
    asked = plugin.output_shape(tensors, ())
    assert asked is not None, harness.log()
    shape = asked[1]
    tensors.append(Tensor(kind, order, shape))
    assert all(plugin.supports(place, tensors) for place in range(len(tensors)))
    stored_shape = shape if last else tuple(shape[axis] for axis in TO_NHWC)
    addresses.append(device.put(np.zeros(stored_shape, np.uint16)))
    assert plugin.shape_change(tensors), harness.log()
    assert plugin.enqueue(tensors, addresses), harness.log()
    found = from_bits(device.get(addresses[-1], stored_shape), half).astype(given[0].dtype)
    device.clear()
    return found if last else found.transpose(TO_NCHW)


@pytest.mark.parametrize("half", Half)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_plugin_computes_what_the_writer_wrote(harness, device, tmp_path, layout, half):
    """In layout NCHW, the layers whose channels fill vectors of 8."""
    program = captured(Parts())
    inner = {f"{name}.weight" for name in ("a", "b", "c", "one", "up", "down")}
    _, path = write(
        program, tmp_path, format="cuda", half=half, layout=layout,
        layers=inner if layout == "NCHW" else None,
    )  # fmt: skip
    x = image(program, 7, 10)
    found = _run(harness, device, half, path, {program.interface.input_name: x.numpy()})
    expected = program(x).numpy()
    assert found.shape == expected.shape
    tolerance = TOLERANCE[half] * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert harness.log() == []


def test_levels_of_the_file_are_the_plugins(harness, device, tmp_path):
    dense, nested = nest(tmp_path)
    least = {name: value.numpy() for name, value in nested.least.items()}
    layers = {"body.0.weight", "body.2.weight"}
    _, path = write(
        nested.program, tmp_path, format="cuda", half=Half.FP16, levels=least, layers=layers
    )
    x = image(dense, 7, 9)
    for level in range(nested.count):
        inputs = {dense.interface.input_name: x.numpy(), LEVEL: np.int32([level])}
        found = _run(harness, device, Half.FP16, path, inputs)
        expected = nested.at(level)(x).numpy()
        tolerance = TOLERANCE[Half.FP16] * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
