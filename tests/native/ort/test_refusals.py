"""Nodes and inputs that cannot be -> one line that names the layer."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from nmcompile.backends.nmconv_pack import single
from nmcompile.errors import NmcompileError
from nmcompile.runtime import custom_ops, native
from nmcompile.runtime.custom_ops import custom_ops_library
from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.build import noise
from tests.native.ort.sessions import library, opened, session
from tests.native.ort.test_cpu import CALLS, call, levelled


def said_by(make):
    """What ONNX Runtime says, from the layer's name on; its exceptions have no common base."""
    library()
    try:
        make()
    except Exception as error:  # noqa: BLE001
        text = str(error)
        assert "layer layer: " in text
        assert "\n" not in text.strip()
        return text.partition("layer layer: ")[2]
    pytest.fail("it was accepted")


def changed(model: onnx.ModelProto, name: str, value) -> onnx.ModelProto:
    (node,) = model.graph.node
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    return model


def weights_of(model: onnx.ModelProto):
    found = {item.name: item for item in model.graph.node[0].attribute}
    return numpy_helper.to_array(found["weights"].t).copy()


def test_weights_for_cuda():
    model = single(call(inputs=8, outputs=8), Half.FP16)
    text = said_by(lambda: session(model))
    assert text.startswith("found weights of format cuda, the CPU provider runs format cpu; run it")


def test_channels_last():
    text = said_by(lambda: session(single(CALLS["dense"], layout="NHWC")))
    assert text.startswith("found layout NHWC, the CPU provider runs NCHW")


def test_damaged_weights():
    model = single(CALLS["dense"])
    words = weights_of(model)
    for place, why in ((0, "program"), (1, "version"), (2, "program")):
        words = weights_of(model)
        words[place] ^= 0x55
        bad = changed(single(CALLS["dense"]), "weights", numpy_helper.from_array(words))
        text = said_by(lambda bad=bad: session(bad))
        assert why in text
        assert text.endswith("write the model again")


def test_wrong_number_of_bytes():
    model = single(CALLS["dense"])
    text = said_by(lambda: session(changed(model, "bytes", 5 + 4 * len(weights_of(model)))))
    assert "found weights that are not" in text


def test_weights_of_another_type():
    model = single(CALLS["dense"])
    floats = numpy_helper.from_array(weights_of(model).view(np.float32))
    assert "as int32; write" in said_by(lambda: session(changed(model, "weights", floats)))


@pytest.mark.parametrize("sizes", [[8, 1, 1, 1, 1, 1], [16, 2, 1, 1, 1, 1], [16, 1, 1, 1, 3, 1]])
def test_attributes_of_another_layer(sizes):
    model = changed(single(CALLS["dense"]), "sizes", sizes)
    assert "do not fit the node's attributes" in said_by(lambda: session(model))


def retyped(model: onnx.ModelProto, index: int, kind: int) -> onnx.ModelProto:
    model.graph.input[index].type.tensor_type.elem_type = kind
    if index == 0:
        model.graph.output[0].type.tensor_type.elem_type = kind
    return model


def test_image_of_another_type():
    run_by = session(retyped(single(CALLS["dense"]), 0, TensorProto.DOUBLE))
    text = said_by(lambda: run_by.run(None, {"x": np.zeros((1, 16, 8, 8))}))
    assert text.startswith("found an image of float64, expected float32; cast it")


def test_image_of_other_channels():
    model = single(CALLS["dense"])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    text = said_by(lambda: session(model).run(None, {"x": noise(1, 8, 9, 9)}))
    assert text.startswith("found an image of 1x8x9x9, expected 16 channels")


def test_residual_of_another_shape():
    run_by = opened(CALLS["residual"])
    inputs = {"x": noise(1, 16, 9, 9), "residual": noise(1, 16, 9, 8)}
    text = said_by(lambda: run_by.run(None, inputs))
    assert text.startswith("found a residual of 1x16x9x8, expected the output's 1x16x9x9")


def test_missing_residual():
    model = single(CALLS["residual"])
    del model.graph.node[0].input[1], model.graph.input[1]
    text = said_by(lambda: session(model).run(None, {"x": noise(1, 16, 9, 9)}))
    assert text.startswith("found 1 inputs, expected 2")


@pytest.mark.parametrize("level", [-1, 3])
def test_level_that_is_not_there(level):
    run_by = opened(levelled(Residual.NONE))
    inputs = {"x": noise(1, 16, 9, 9), "level": np.int32([level])}
    assert f"no level {level}" in said_by(lambda: run_by.run(None, inputs))


def test_image_that_the_kernel_exceeds():
    wanted = call(kernel=(5, 5), padding=(0, 0, 0, 0))
    text = said_by(lambda: opened(wanted).run(None, {"x": noise(1, 16, 4, 9)}))
    assert text


def test_entry_that_is_no_number_of_threads():
    library()
    with pytest.raises(Exception, match=r"nmcompile\.threads: found 'many', expected a number"):
        session(single(CALLS["dense"]), entries={"nmcompile.threads": "many"})


def test_library_of_another_version():
    library()
    with pytest.raises(NmcompileError, match=r"libnmk_ort\.so has ABI version 1, 2 is needed"):
        custom_ops_library(abi=2)


def test_library_without_cuda():
    library()
    if "CUDA providers" in native.build_info()["components"]["libnmk_ort"]["reason"]:
        pytest.skip("this one was built with CUDA")
    with pytest.raises(NmcompileError, match=r"was built without CUDA; .*NMCOMPILE_CUDA=ON"):
        custom_ops_library(cuda=True)


def test_missing_library_says_why(monkeypatch):
    info = {"components": {"libnmk_ort": {"state": "off", "reason": "no header was found"}}}
    monkeypatch.setattr(native, "__path__", [])
    monkeypatch.setattr(native, "build_info", lambda: info)
    with pytest.raises(NmcompileError, match=r"was not found \(no header was found\); build it"):
        custom_ops_library()


def test_file_that_is_no_library(monkeypatch, tmp_path):
    (tmp_path / "libnmk_ort.so").write_bytes(b"nothing")
    monkeypatch.setattr(custom_ops.native, "__path__", [str(tmp_path)])
    with pytest.raises(NmcompileError, match="does not load"):
        custom_ops_library()


def test_it_loads_where_there_is_nothing_else():
    """Neither ONNX Runtime nor CUDA in the process: the library links neither."""
    code = f"""
import ctypes
library = ctypes.CDLL({library()!r})
print(library.nmk_ort_abi_version())
maps = open("/proc/self/maps").read()
assert "onnxruntime" not in maps and "libcuda" not in maps
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == custom_ops.ABI_VERSION


def test_headers_that_were_given_are_used():
    """Where they are asked for (as in CI) nothing of this folder may be skipped."""
    part = native.build_info()["components"]["libnmk_ort"]
    assert part["state"] == "on" or (part["reason"] and "ONNXRUNTIME_INCLUDE_DIR" not in os.environ)
