"""A call of NMConv -> its result in ONNX Runtime, with the installed library."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from nmcompile.backends.nmconv import nm_conv2d
from nmcompile.backends.nmconv_pack import Call, single
from nmcompile.errors import NmcompileError
from nmcompile.runtime.custom_ops import custom_ops_library
from nmcompile.runtime.native.blob import Residual

Array = NDArray[Any]


def library() -> str:
    """The library's path; skips the test, saying why, where it was not built."""
    try:
        return str(custom_ops_library())
    except NmcompileError as error:
        pytest.skip(str(error))


def session(
    model: onnx.ModelProto, threads: int = 1, entries: dict[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """A session with the operator, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(library())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def reference(
    call: Call, x: Array, residual: Array | None = None, level: int | None = None
) -> Array:
    """The same by nm_conv2d, in float64."""

    def wide(values: Array | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(values.astype(np.float64))

    y = nm_conv2d(
        wide(x), wide(call.weight), wide(call.bias), wide(residual),
        None if level is None else torch.tensor([level], dtype=torch.int32),
        None if level is None else torch.from_numpy(call.least),
        call.shape.stride, call.shape.padding, call.shape.dilation, call.shape.groups,
        int(call.activation), call.slope, int(call.residual), call.shuffle, "NCHW", call.name,
    )  # fmt: skip
    return y.numpy()


def compare(call: Call, found_by: onnxruntime.InferenceSession, size: tuple[int, int, int]) -> None:
    """Runs a call on noise of that batch, height and width, at every level."""
    random = np.random.default_rng(4)

    def noise(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    x, residual = noise(size[0], call.inputs, *size[1:]), None
    for level in [None] if call.least is None else range(call.levels):
        inputs = {"x": x}
        if call.residual is not Residual.NONE:
            residual = noise(*single_shape(call, x))
            inputs["residual"] = residual
        if level is not None:
            inputs["level"] = np.int32([level])
        expected = reference(call, x, residual, level)
        (found,) = found_by.run(None, inputs)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        scale = max(float(np.abs(expected).max()), 1e-2)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def single_shape(call: Call, x: Array) -> tuple[int, ...]:
    """The result's shape."""
    plain = Call(call.name, call.weight, None, call.shape, shuffle=call.shuffle)
    return reference(plain, x).shape


def opened(call: Call, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session of that call alone."""
    return session(single(call), threads)
