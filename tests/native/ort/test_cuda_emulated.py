"""The CUDA provider's operator in ONNX Runtime, kernels and all, on an emulated GPU -> right?

The library is the one that nvcc makes but for the instructions (tests/native/cuda/emulation), and
its operator is told to be the CPU provider's.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from nmcompile.backends.nmconv_onnx import LEVEL, write_nmconv
from nmcompile.backends.nmconv_pack import Call, single
from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import CASES, Case, convolve, finish, weights, whole_numbers
from tests.native.ort.test_refusals import changed
from tests.networks import captured, image
from tests.nmconv.test_writer import Parts
from tests.routing.nests import nest

Run = Callable[[onnx.ModelProto, dict[str, np.ndarray]], np.ndarray]
SOME = [
    "two chunks", "64x2:4 as sparse", "channels that fill no vector", "stride 2, no padding",
    "leaky relu", "relu, residual", "shuffle to 3", "batch",
]  # fmt: skip


@pytest.fixture
def session(ort_emulated):
    def opened(model: onnx.ModelProto):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.register_custom_ops_library(str(ort_emulated))
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    return opened


def call_of(case: Case, random) -> Call:
    weight, _ = weights(case, random)
    return Call(
        "layer", weight, whole_numbers(random, case.outputs), case.shape,
        activation=case.activation, slope=case.slope, residual=case.residual,
        shuffle=case.shuffle,
    )  # fmt: skip


def check_case(case: Case, run: Run) -> None:
    """One call with whole numbers, so that no order of adding matters, to the last bit."""
    random = np.random.default_rng(7)
    call = call_of(case, random)
    x = whole_numbers(random, case.batch, case.height, case.width, case.inputs)
    plain = convolve(case, x, call.weight, call.bias)
    residual = whole_numbers(random, *finish(case, plain, 0).shape)
    inputs = {"x": x.astype(np.float16)}
    if case.residual is not Residual.NONE:
        inputs["residual"] = residual.astype(np.float16)
    found = run(single(call, Half.FP16, "NHWC"), inputs)
    np.testing.assert_array_equal(found, finish(case, plain, residual).astype(np.float16))


@pytest.mark.parametrize("name", SOME)
def test_case_is_the_convolution(session, name):
    check_case(CASES[name], lambda model, inputs: session(model).run(None, inputs)[0])


@pytest.mark.parametrize("layers", [None, {"b.weight", "c.weight"}], ids=["all", "some"])
def test_network_in_halves(session, tmp_path, layers):
    program, path = captured(Parts()), tmp_path / "model.onnx"
    write_nmconv(program, path, format="cuda", half=Half.FP16, layout="NHWC", layers=layers)
    run_by = session(onnx.load(path))
    for size in ((12, 10), (7, 9)):
        x = image(program, *size)
        (found,) = run_by.run(None, {program.interface.input_name: x.numpy()})
        expected = program(x).numpy()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_levels(session, tmp_path):
    dense, nested = nest(tmp_path)
    least = {name: value.numpy() for name, value in nested.least.items()}
    path = tmp_path / "model.onnx"
    write_nmconv(nested.program, path, format="cuda", half=Half.FP16, layout="NHWC", levels=least)
    run_by, x = session(onnx.load(path)), image(dense, 7, 9)
    for level in range(nested.count):
        inputs = {dense.interface.input_name: x.numpy(), LEVEL: np.int32([level])}
        (found,), expected = run_by.run(None, inputs), nested.at(level)(x).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def refused(make) -> str:
    try:
        make()
    except Exception as error:  # noqa: BLE001
        return str(error)
    pytest.fail("it was accepted")


def layer(**more) -> onnx.ModelProto:
    call = call_of(Case(inputs=16, outputs=16), np.random.default_rng(7))
    return single(call, **{"half": Half.FP16, "layout": "NHWC", **more})


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: layer(half=None), "layer layer: found weights of format cpu, the CUDA provider"),
        (lambda: layer(layout="NCHW"), "layer layer: found layout NCHW, the CUDA provider runs"),
        (lambda: changed(layer(), "sizes", [16, 1, 2, 2, 1, 1]), "do not fit the node's attr"),
        (lambda: changed(layer(), "bytes", layer_bytes() - 3), "cut short, or followed by some"),
    ],
)
def test_models_that_cannot_be(session, model, says):
    assert says in refused(lambda: session(model()))


def layer_bytes() -> int:
    found = {item.name: item for item in layer().graph.node[0].attribute}
    return helper.get_attribute_value(found["bytes"])


def test_image_of_another_type(session):
    model = layer(half=Half.BF16)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    text = refused(lambda: session(model).run(None, {"x": np.zeros((1, 4, 4, 16), np.float16)}))
    assert "layer layer: found an image of float16, expected bfloat16" in text


def test_error_of_the_device_names_the_layer(session, monkeypatch):
    monkeypatch.setenv("NMK_CUDA_KERNEL", "nothing")
    run_by = session(layer())
    text = refused(lambda: run_by.run(None, {"x": np.zeros((1, 4, 4, 16), np.float16)}))
    assert "layer layer: found no kernel named like nothing" in text
