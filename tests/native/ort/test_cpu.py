"""NMConv in ONNX Runtime's CPU provider -> the reference, at any size and in any threads?"""

import dataclasses
import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from nmcompile.backends.nmconv_onnx import write_nmconv
from nmcompile.backends.nmconv_pack import Call, single
from nmcompile.pattern import Pattern
from nmcompile.runtime.native.blob import Activation, ConvShape, Residual
from tests.native.build import ladder, noise, pruned
from tests.native.ort.sessions import compare, library, opened, session
from tests.networks import captured, image
from tests.nmconv.test_writer import Parts

SAME = (1, 1, 1, 1)


def call(pattern="dense", inputs=16, outputs=16, kernel=(3, 3), padding=SAME, **more):
    found = Pattern.parse(pattern)
    sizes = {key: more.pop(key) for key in ("stride", "dilation", "groups") if key in more}
    shape = ConvShape(kernel, padding=padding, **sizes)
    weight = pruned(found, (outputs, inputs // shape.groups, *kernel))
    return Call("layer", weight, noise(outputs), shape, found, **more)


CALLS = {
    "dense": call(),
    "2:4": call("2:4"),
    "1:4": call("1:4", activation=Activation.RELU),
    "whole kernels": call("8x2:4k"),
    "shared": call("16x2:4"),
    "1x1": call("2:4", kernel=(1, 1), padding=(0, 0, 0, 0)),
    "5x3": call(kernel=(5, 3), padding=(1, 1, 2, 2)),
    "padding of one side": call("2:4", padding=(2, 0, 0, 1)),
    "stride 2": call("2:4", stride=(2, 2)),
    "strides": call(stride=(1, 2)),
    "dilation": call(dilation=(2, 2), padding=(2, 2, 2, 2)),
    "groups": call("2:4", groups=2),
    "grey": call(inputs=1, outputs=5),
    "no bias": dataclasses.replace(call(), bias=None),
    "leaky relu": call(activation=Activation.LEAKY_RELU, slope=0.2),
    "residual": call("2:4", residual=Residual.BEFORE_ACTIVATION, activation=Activation.RELU),
    "relu, residual": call(residual=Residual.AFTER_ACTIVATION, activation=Activation.RELU),
    "shuffle": call("2:4", outputs=32, shuffle=2),
    "shuffle by 3": call(outputs=27, shuffle=3, activation=Activation.RELU),
}


def levelled(residual=Residual.NONE):
    patterns = [*map(Pattern.parse, ("1:8", "1:4", "2:4"))]
    weight, least = ladder(patterns, (16, 16, 3, 3))
    return Call(
        "layer", weight, noise(16), ConvShape((3, 3), padding=SAME), patterns[-1],
        residual=residual, least=least, levels=3,
    )  # fmt: skip


@pytest.mark.parametrize("wanted", CALLS.values(), ids=CALLS)
def test_call_is_the_reference_at_several_sizes(wanted):
    run_by = opened(wanted)
    for size in ((1, 12, 17), (3, 5, 33), (1, 40, 8)):
        compare(wanted, run_by, size)


@pytest.mark.parametrize("residual", [Residual.NONE, Residual.AFTER_ACTIVATION])
def test_levels(residual):
    wanted = levelled(residual)
    compare(wanted, opened(wanted), (2, 9, 14))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(threads):
    compare(CALLS["2:4"], opened(CALLS["2:4"], threads), (1, 64, 48))


def test_batch_of_nothing():
    (found,) = opened(CALLS["dense"]).run(None, {"x": np.zeros((0, 16, 8, 9), np.float32)})
    assert found.shape == (0, 16, 8, 9)


def test_several_threads_at_once():
    run_by, x = opened(CALLS["2:4"], 2), noise(1, 16, 40, 32)
    (expected,) = run_by.run(None, {"x": x})
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run_by.run(None, {"x": x})[0], range(12)):
            np.testing.assert_array_equal(found, expected)


def _threads_of_this_process():
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize(("threads", "said"), [(3, False), (2, True)])
def test_as_many_threads_as_the_session(tmp_path, threads, said):
    """In a process of its own: ONNX Runtime's workers and as many of ours, whatever the layers."""
    path = tmp_path / "model.onnx"
    write_nmconv(captured(Parts()), path, format="cpu")
    entries = f"{{'nmcompile.threads': '{threads}'}}" if said else "{}"
    code = f"""
import numpy as np, onnx
from tests.native.ort.sessions import session
from tests.native.ort.test_cpu import _threads_of_this_process as count
before = count()
run_by = session(onnx.load({str(path)!r}), {threads}, {entries})
x = np.zeros((1, 3, 64, 64), np.float32)
run_by.run(None, {{run_by.get_inputs()[0].name: x}})
print(count() - before)
"""
    library()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert int(done.stdout) == 2 * (threads - 1)


def test_network_and_its_shapes(tmp_path):
    """Shapes are found out by the library: the file's own are taken away."""
    program, path = captured(Parts()), tmp_path / "model.onnx"
    write_nmconv(program, path, format="cpu")
    model = onnx.load(path)
    del model.graph.value_info[:]
    height, width = (model.graph.input[0].type.tensor_type.shape.dim[axis] for axis in (2, 3))
    run_by = session(model, 2)
    assert run_by.get_outputs()[0].shape[2:] == [height.dim_param, width.dim_param]
    for size in ((16, 24), (7, 5)):
        x = image(program, *size).numpy()
        (found,) = run_by.run(None, {program.interface.input_name: x})
        expected = program(image(program, *size)).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_free_sizes_are_formulas():
    for name, expected in {
        "dense": ["batch", 16, "height", "width"],
        "stride 2": ["batch", 16, "((height - 1) / 2 + 1) * 1", "((width - 1) / 2 + 1) * 1"],
        "shuffle": ["batch", 8, "((height - 1) / 1 + 1) * 2", "((width - 1) / 1 + 1) * 2"],
    }.items():
        model = single(CALLS[name])
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        assert session(model).get_outputs()[0].shape == expected


def test_fixed_sizes_are_computed():
    model = single(CALLS["stride 2"])
    for axis, size in enumerate((1, 16, 11, 20)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == [1, 16, 6, 10]


def test_sessions_come_and_go():
    """ONNX Runtime closes the library with each session, and opens it again."""
    for _ in range(5):
        compare(CALLS["dense"], opened(CALLS["dense"], 2), (1, 16, 16))
        gc.collect()
    assert threading.active_count() >= 1
