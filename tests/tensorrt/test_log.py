"""What TensorRT 10 and 11 say of an engine, in the documented formats -> the same facts."""

import json
from pathlib import Path

import pytest

from nmcompile.backends.tensorrt_log import node_names, read_inspector, read_log, read_profile
from nmcompile.errors import NmcompileError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tensorrt"
MADE = "made from the documented format, not recorded"


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("conv1", {"conv1"}),
        ("conv1 + relu1", {"conv1", "relu1"}),
        ("body.0.weight@2 + Add_9 + Relu_10", {"body.0.weight@2", "Add_9", "Relu_10"}),
        ("conv1 + PWN(PWN(sigmoid), mul)", {"conv1", "PWN", "sigmoid", "mul"}),
        ("left || right", {"left", "right"}),
        ("{ForeignNode[first...last]}", {"ForeignNode", "first", "last"}),
        (
            "Reformatting CopyNode for Input Tensor 0 to conv1",
            {"Reformatting CopyNode for Input Tensor 0 to conv1"},
        ),
        ("", set()),
    ],
)
def test_fused_names_come_apart(name, nodes):
    assert node_names(name) == nodes


def test_fixtures_say_what_they_are():
    for path in FIXTURES.iterdir():
        assert MADE in path.read_text(), path


def test_log_as_trtexec_prints_it():
    log = read_log((FIXTURES / "trtexec.log").read_text().splitlines())
    assert {"body.0.weight", "body.0.weight@2", "body.1.weight", "body.2.weight"} <= log.eligible
    assert "head.weight" not in log.eligible
    assert {"body.0.weight", "body.0.weight@2", "Add_9"} <= log.picked
    assert "body.1.weight" not in log.picked


def test_log_as_a_logger_is_told():
    eligible = "(Sparsity) Layers eligible for sparse math: conv1 + relu1"
    picked = "(Sparsity) TRT inference plan picked sparse implementation for layers:"
    log = read_log(["Detected 1 inputs", eligible, picked])
    assert (log.eligible, log.picked) == ({"conv1", "relu1"}, frozenset())
    assert read_log([eligible, eligible.replace("conv1", "conv2")]).eligible >= {"conv1", "conv2"}
    assert read_log(["nothing of it"]).picked is None


def test_both_schemas_say_the_same():
    ten, eleven = (
        read_inspector((FIXTURES / f"layers-{major}.json").read_text()) for major in (10, 11)
    )
    assert ten.tensors == eleven.tensors == ("x", "output")
    for first, second in zip(ten.layers, eleven.layers, strict=True):
        assert (first.name, first.kind, first.tactic) == (second.name, second.kind, second.tactic)
        assert first.nodes == second.nodes
    reformat, conv = ten.layers[0], ten.layers[2]
    assert not reformat.computes
    assert {"body.0.weight", "Sigmoid_4", "Mul_5"} <= conv.nodes
    assert "sparse" in conv.tactic
    assert conv.types[0].startswith("Channel major FP16")
    assert eleven.layers[2].types[0].startswith("Half Channel major FP16")
    # What lies between the ends of a foreign node, only the metadata tells.
    assert "mix.weight" in ten.layers[6].nodes


def test_unknown_and_missing_keys_are_passed_over():
    found = read_inspector('{"Layers": [{"Name": "a", "Novel": {"b": 1}, "Inputs": 3}], "New": 0}')
    assert found.tensors == ()
    assert found.layers[0].nodes == {"a"}
    assert found.layers[0].types == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"Layers": [', "engine inspector is not JSON"),
        ("[]", "no list of 'Layers'"),
        ('{"Bindings": ["x"]}', "no list of 'Layers'"),
        ('{"Layers": ["conv1 + relu1"]}', "names alone; build the engine with ProfilingVerbosity"),
        ('{"Layers": [{"LayerType": "Reformat"}]}', "layers without a Name"),
        ('{"Layers": [3]}', "layers without a Name"),
    ],
)
def test_damaged_inspector_output(text, problem):
    with pytest.raises(NmcompileError, match=problem):
        read_inspector(text)


def test_half_of_a_file_is_no_file():
    text = (FIXTURES / "layers-11.json").read_text()
    with pytest.raises(NmcompileError, match="not JSON"):
        read_inspector(text[: len(text) // 2])


def test_profile():
    profile = read_profile((FIXTURES / "profile.json").read_text())
    assert profile["head.weight + Relu_2"] == 0.052
    assert len(profile) == 8
    assert read_profile('[{"name": "a", "medianMs": 1}, {"name": "a", "medianMs": 2}]') == {"a": 3}


@pytest.mark.parametrize("text", ["[", "{}", '[{"count": 3}]', '[{"name": "a", "medianMs": "1"}]'])
def test_damaged_profile(text):
    with pytest.raises(NmcompileError, match="TensorRT's profile"):
        read_profile(text)


def test_json_of_fixtures_is_whole():
    for major, key in ((10, "Bindings"), (11, "I/O Tensors")):
        assert key in json.loads((FIXTURES / f"layers-{major}.json").read_text())
