"""Routed networks as one ONNX file: every level in ONNX Runtime, and the weights there once."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from nmcompile.backends.onnx import export_onnx
from nmcompile.backends.routed_onnx import LEVEL, OFFSETS, SCORES, check_routed, export_routed
from nmcompile.errors import NmcompileError
from nmcompile.routing.head import head_for, head_program, make_head
from tests.networks import Around, PerPixel, Shared, conv, image, plain
from tests.routing.nests import nest

NETWORKS = {
    "plain": (plain, ("1:4", "2:4", "dense")),
    "two levels": (plain, ("1:4", "2:4")),
    "five levels": (plain, ("1:8", "2:8", "4:8", "6:8", "dense")),
    "whole kernels": (lambda: Around(conv(8, 8), nn.PReLU(8)), ("8x2:8k", "8x4:8k", "dense")),
    "one weight thrice": (Shared, ("1:4", "2:4", "dense")),
    "linear": (PerPixel, ("1:4", "2:4", "dense")),
    "transposed": (
        lambda: Around(conv(8, 8, stride=2), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)),
        ("1:4", "2:4", "dense"),
    ),
}


def written(folder, kind="plain", offsets=None):
    make, ladder = NETWORKS[kind]
    _, nested = nest(folder, make(), ladder)
    head = make_head(3, nested.count, 1.0, seed=2)
    program = head_program(head, nested)
    offsets = offsets or [0.0] * nested.count
    path = folder / "model.onnx"
    export_routed(nested, program, offsets, path)
    return nested, head, program, path


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_level_runs_in_onnx_runtime(tmp_path, kind):
    nested, head, program, path = written(tmp_path, kind)
    check_routed(nested, program, [0.0] * nested.count, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = image(nested.program, 16, 20, batch=1)
    name = nested.program.interface.input_name
    for level in range(nested.count):
        forced = np.eye(nested.count, dtype=np.float32)[level] * np.float32(1e9)
        found, chosen, *said = session.run(None, {name: x.numpy(), OFFSETS: forced})
        np.testing.assert_allclose(found, nested.at(level)(x).numpy(), rtol=1e-4, atol=1e-5)
        assert chosen.tolist() == [level]
        with torch.no_grad():
            expected = head(x).flatten(1).numpy()
        np.testing.assert_allclose(np.concatenate(said, 1), expected, rtol=1e-4, atol=1e-5)


def test_offsets_have_a_default(tmp_path):
    nested, _, _, path = written(tmp_path, offsets=[0.0, 1e9, 0.0])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = image(nested.program, 13, 9, batch=1)
    name = nested.program.interface.input_name
    found, level = session.run(["output", LEVEL], {name: x.numpy()})
    assert level == 1
    np.testing.assert_allclose(found, nested.at(1)(x).numpy(), rtol=1e-4, atol=1e-5)
    (level,) = session.run([LEVEL], {name: x.numpy(), OFFSETS: np.zeros(3, np.float32)})
    (scores,) = session.run([SCORES], {name: x.numpy()})
    assert level == scores.argmax()


@pytest.mark.parametrize("ladder", [("1:4", "2:4", "dense"), ("8x4:16k", "8x8:16k", "dense")])
def test_three_levels_take_little_more_than_one(tmp_path, ladder):
    wide = Around(conv(64, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 64), outputs=64)
    wide.head = conv(3, 64)
    _, nested = nest(tmp_path, wide, ladder)
    head = head_program(head_for(nested, 0), nested)
    export_onnx(nested.program, tmp_path / "one.onnx")
    export_routed(nested, head, [0.0] * 3, tmp_path / "routed.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("one.onnx", "routed.onnx")]
    assert sizes[1] <= 1.1 * sizes[0]


def test_a_file_of_another_head_is_told(tmp_path):
    nested, _, _, path = written(tmp_path)
    other = head_program(make_head(3, 3, 1.0, seed=9), nested)
    with pytest.raises(NmcompileError, match="please report the network"):
        check_routed(nested, other, [0.0] * 3, path)


def test_weights_of_another_program_are_told(tmp_path):
    nested, _, program, path = written(tmp_path)
    changed = nested.program.clone_module()
    with torch.no_grad():
        changed.get_parameter("tail.weight").mul_(3)
    other = dataclasses.replace(nested, program=nested.program.with_module(changed))
    with pytest.raises(NmcompileError, match="differs by"):
        check_routed(other, program, [0.0] * 3, path)


def test_the_file_is_for_one_image(tmp_path):
    nested, _, _, path = written(tmp_path)
    model = onnx.load(path)
    sizes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    first = sizes[nested.program.interface.input_name]
    assert first[0].dim_value == 1
    assert first[2].dim_param
    assert sizes[OFFSETS][0].dim_value == 3
