"""A convolution as a node -> the plugin's life in an engine, compared with the plain convolution.

As in tests/native/cuda/cases.py all values are small whole numbers, so that results are the same to
the last bit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import (
    NAN,
    Case,
    convolve,
    finish,
    packed,
    to_bits,
    weights,
    whole_numbers,
)
from tests.native.trt.harness import (
    BF16,
    HALF,
    HWC8,
    INT32,
    LINEAR,
    RUNTIME,
    Harness,
    Plugin,
    Tensor,
    node,
)

Array = NDArray[Any]


def fits(case: Case) -> bool:
    """Whether layout NCHW holds its images."""
    return case.inputs % 8 == 0 and case.outputs // case.shuffle**2 % 8 == 0


def node_of(case: Case, seed: int = 7, **attributes: Any) -> NodeProto:
    """The case as a node; in layout NHWC where NCHW does not hold it."""
    weight, least, bias = _values(case, seed)
    bytes_ = packed(case, weight, least, bias)
    layout = "NCHW" if fits(case) else "NHWC"
    return node(bytes_, **{"residual": int(case.residual), "layout": layout, **attributes})


def tensors_of(
    case: Case, node: NodeProto, size: tuple[int, int, int], shape: tuple[int, ...]
) -> list[Tensor]:
    """Inputs and the output as TensorRT describes them, for an N x H x W and an output's NHWC."""
    values = {attribute.name: attribute for attribute in node.attribute}
    last = values["layout"].s == b"NHWC"
    kind, order = (BF16 if case.half is Half.BF16 else HALF), LINEAR if last else HWC8
    batch, height, width = size
    image = (batch, height, width, case.inputs)
    written = [shape if last else (shape[0], shape[3], *shape[1:3])] * len(node.input)
    read = [image if last else (batch, case.inputs, height, width), *written[1:]]
    made = [Tensor(kind, order, sizes) for sizes in read]
    if values["routed"].i:
        made[-1] = Tensor(INT32, LINEAR, (1,))
    return [*made, Tensor(kind, order, written[0])]


def check_run(harness: Harness, device: Any, case: Case, routed: bool = False) -> None:
    """Makes the plugin, asks for its output, runs a clone; then the same out of an engine."""
    made = node_of(case, routed=int(routed))
    built = harness.plugin(made)
    expected = [expectation(case, level) for level in range(len(case.patterns))]
    shape = expected[-1].shape
    size = (case.batch, case.height, case.width)
    tensors = tensors_of(case, made, size, shape)
    assert built.output_type([tensor.type for tensor in tensors[:-1]]) == tensors[-1].type
    assert all(built.supports(place, tensors) for place in range(len(tensors)))
    running = built.clone()
    assert running is not None
    assert running.configure(tensors)
    loaded = harness.create(built.serialised(), RUNTIME)
    assert loaded is not None
    attached = loaded.attach()
    assert attached is not None, harness.log()
    for plugin in (running, attached):
        assert plugin.shape_change(tensors), harness.log()
        for level in range(len(case.patterns)) if routed else [len(case.patterns) - 1]:
            found = run(device, plugin, case, tensors, shape, level if routed else None)
            np.testing.assert_array_equal(found, expected[level])
    assert harness.log() == []


def run(
    device: Any,
    plugin: Plugin,
    case: Case,
    tensors: list[Tensor],
    shape: tuple[int, ...],
    level: int | None = None,
) -> NDArray[np.uint16]:
    """Enqueues it once and gives the output's halves, NHWC."""
    image, residual = images(case, shape)
    addresses = [device.put(image)]
    if case.residual is not Residual.NONE:
        addresses.append(device.put(residual))
    if level is not None:
        addresses.append(device.put(np.int32([level])))
    output = device.put(np.full(shape, NAN, np.uint16))
    assert plugin.enqueue(tensors, [*addresses, output])
    found: NDArray[np.uint16] = device.get(output, shape)
    return found


def images(case: Case, shape: tuple[int, ...]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """The input and what is added, as halves."""
    random = np.random.default_rng(11)
    image = whole_numbers(random, case.batch, case.height, case.width, case.inputs)
    return to_bits(image, case.half), to_bits(whole_numbers(random, *shape, most=9), case.half)


def expectation(case: Case, level: int, seed: int = 7) -> NDArray[np.uint16]:
    """The plain convolution in float64, rounded once."""
    weight, least, bias = _values(case, seed)
    random = np.random.default_rng(11)
    image = whole_numbers(random, case.batch, case.height, case.width, case.inputs)
    y = convolve(case, image, np.where(least <= level, weight, 0), bias)
    shape = finish(case, y, 0.0).shape
    return to_bits(finish(case, y, whole_numbers(random, *shape, most=9)), case.half)


def _values(case: Case, seed: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    weight, least = weights(case, random)
    return weight, least, whole_numbers(random, case.outputs) * case.bias
