"""Log, inspector and profile of both majors -> what runs each layer, and what --strict refuses."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nmcompile.backends.tensorrt_onnx import is_two_of_four, layer_of
from nmcompile.backends.tensorrt_receipt import check_strict, layer_facts, row, summary
from nmcompile.convs import set_tensor
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.program import Interface, Program
from nmcompile.report.facts import tensorrt_line

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tensorrt"
# name -> pattern, and whether its weights are really 2:4
LAYERS = {
    "head.weight": (DENSE, False),
    "body.0.weight": (Pattern.parse("2:4"), True),
    "body.1.weight": (Pattern.parse("1:4"), True),
    "body.2.weight": (Pattern.parse("4:8"), False),
    "body.3.weight": (Pattern.parse("64x1:4"), True),
    "mix.weight": (Pattern.parse("2:4"), True),
    "tail.weight": (Pattern.parse("2:8"), True),
    "gone.weight": (Pattern.parse("2:4"), True),
}


def program() -> Program:
    """Weights alone, under those names; the engine is what TensorRT says it is."""
    module = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())
    layers = []
    for name, (pattern, sparse) in LAYERS.items():
        weight = torch.ones(4, 8, 3, 3)
        weight[:, 2:4] = weight[:, 6:] = 0 if sparse else 1
        set_tensor(module, name, weight)
        choices = tuple(Choice(p, 1) for p in dict.fromkeys((DENSE, pattern)))
        layers.append(Layer(name, "conv2d", (4, 8, 3, 3), 1, 1, 288, 1, "", 0, choices, pattern))
    return Program(module, Interface("x", 3, 1), Plan((8, 8), "tensorrt", tuple(layers)))


def said_in(folder: Path, major: int, log: str | None = None) -> Path:
    for stem in ("engine", "dense"):
        shutil.copy(FIXTURES / f"layers-{major}.json", folder / f"{stem}.layers.json")
        shutil.copy(FIXTURES / "profile.json", folder / f"{stem}.profile.json")
        shutil.copy(FIXTURES / "trtexec.log", folder / f"{stem}.log")
    if log is not None:
        (folder / "engine.log").write_text(log)
    return folder


@pytest.mark.parametrize("major", [10, 11])
def test_what_runs_each_layer(tmp_path, major):
    facts = layer_facts(program(), said_in(tmp_path, major))
    assert {name: (item.runs, item.eligible, item.reverted) for name, item in facts.items()} == {
        "head.weight": ("dense tactic", False, False),
        "body.0.weight": ("sparse tactic", True, False),
        "body.1.weight": ("dense tactic", True, True),
        "body.2.weight": ("dense tactic", True, True),
        "body.3.weight": ("plugin", False, False),
        "mix.weight": ("dense tactic", False, True),
        "tail.weight": ("dense tactic", False, True),
        "gone.weight": ("not found", False, True),
    }
    first = facts["body.0.weight"]
    assert first.ms == pytest.approx(0.21 + 0.19)  # its weight is used twice
    assert first.engine_layers == (
        "body.0.weight + PWN(PWN(Sigmoid_4), Mul_5)", "body.0.weight@2 + Add_9",
    )  # fmt: skip
    assert "sparse_conv" in first.tactic
    assert all("FP16" in kind for kind in first.types)
    assert facts["head.weight"].ms == 0.052  # without the reformat before it
    assert facts["gone.weight"].ms is None


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("head.weight", "dense tactic; in the engine 0.052 ms (dense 0.052 ms)"),
        ("body.0.weight", "sparse tactic; in the engine 0.4 ms (dense 0.4 ms)"),
        ("body.1.weight", "runs dense: its dense tactic is faster; in the"),
        ("body.2.weight", "runs dense: sparse tactics need one group and at most 2 of every 4"),
        ("body.3.weight", "plugin; in the engine 0.3 ms"),
        ("tail.weight", "runs dense: TensorRT finds it not eligible; in"),
        ("gone.weight", "no layer of the engine names it"),
    ],
)
def test_status_says_why(tmp_path, name, status):
    found = row(layer_facts(program(), said_in(tmp_path, 11))[name])
    assert str(found["status"]).startswith(status)
    assert found["tensorrt"]["expected"] == (name != "head.weight")


def test_silent_log_leaves_the_tactics_names(tmp_path):
    facts = layer_facts(program(), said_in(tmp_path, 10, "Detected 1 inputs\n"))
    assert facts["body.0.weight"].runs == "sparse tactic"
    assert facts["body.0.weight"].eligible is None
    assert "the build log says nothing of sparsity" in facts["body.1.weight"].status


def test_the_log_counts_where_tactics_have_no_telling_name(tmp_path):
    said_in(tmp_path, 10)
    path = tmp_path / "engine.layers.json"
    path.write_text(path.read_text().replace("sparse", "novel"))
    assert layer_facts(program(), tmp_path)["body.0.weight"].runs == "sparse tactic"
    (tmp_path / "engine.log").write_text("")
    assert layer_facts(program(), tmp_path)["body.0.weight"].runs == "dense tactic"


def test_a_layer_is_as_dense_as_its_worst_use(tmp_path):
    said_in(tmp_path, 10)
    for name, old in (("engine.layers.json", "body.2.weight"), ("engine.log", "body.2.weight")):
        path = tmp_path / name
        path.write_text(path.read_text().replace(old, "body.0.weight@3"))
    assert layer_facts(program(), tmp_path)["body.0.weight"].reverted


def test_strict_names_what_runs_dense(tmp_path):
    facts = layer_facts(program(), said_in(tmp_path, 11))
    with pytest.raises(NmcompileError, match=r"--strict: 5 pruned layers run dense: body.1.weight "
                       r"\(runs dense.*gone.weight .*; no engine was written: leave"):  # fmt: skip
        check_strict(facts)
    check_strict({name: item for name, item in facts.items() if not item.reverted})


def test_summary_and_its_line(tmp_path):
    facts = layer_facts(program(), said_in(tmp_path, 11))
    counts = summary(facts)
    assert (counts["pruned"], counts["sparse_tactics"], counts["plugins"]) == (7, 1, 1)
    assert tensorrt_line({"tensorrt": {"version": "11.1", **counts}}) == (
        "11.1, 7 layers pruned: 1 in sparse tactics, 1 in our plugin, 5 run dense: body.1.weight, "
        "body.2.weight, mix.weight, tail.weight, gone.weight"
    )
    assert tensorrt_line({"tensorrt": None}) == ""
    assert dataclasses.asdict(facts["gone.weight"])["types"] == ()


@pytest.mark.parametrize("stem", ["engine", "dense"])
@pytest.mark.parametrize("part", ["layers.json", "profile.json"])
def test_damage_is_told(tmp_path, stem, part):
    path = said_in(tmp_path, 11) / f"{stem}.{part}"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(NmcompileError, match="is not JSON"):
        layer_facts(program(), tmp_path)


@pytest.mark.parametrize(
    ("pattern", "inputs", "valid"),
    [
        ("2:4", 8, True),
        ("1:4", 8, True),
        ("2:8", 16, True),
        ("64x1:4", 8, True),
        ("64x2:8", 8, True),
        ("3:4", 8, False),
        ("4:8", 16, False),
        ("2:4", 6, False),  # channels beyond fours
    ],
)
def test_which_patterns_are_two_of_four(pattern, inputs, valid):
    weight = np.random.default_rng(0).standard_normal((64, inputs, 3, 3)).astype(np.float32)
    mask = Pattern.parse(pattern).largest(weight)
    assert is_two_of_four(weight * mask) == valid


def test_zeros_elsewhere_than_the_pattern_promises_do_as_well():
    weight = np.zeros((4, 8, 1, 1), np.float32)
    weight[:, [0, 1, 4, 7]] = 1  # 4:8 that happens to be 2:4
    assert is_two_of_four(weight)
    weight[0, 2] = 1
    assert not is_two_of_four(weight)


def test_nodes_carry_their_layers_name():
    assert layer_of("body.0.weight@2") == layer_of("body.0.weight") == "body.0.weight"
