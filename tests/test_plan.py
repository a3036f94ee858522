"""Plans <-> plan.json, and every way in which an edited plan can be wrong."""

import dataclasses
import json

import pytest

from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Choice, Plan
from tests.networks import HALF, layer, plan

TWO = plan(
    layer("head.weight", ("dense", 1000, 2.0, 0.0), ("2:4", 500, 1.5, 1e-4), pattern=HALF),
    layer("tail.weight", ("dense", 600, 1.0, 0.0), ("1:4", 150, 0.5, 3e-4), reason="as I like"),
    budget="macs=0.5",
    notes=("one", "two"),
)


def document(**changes):
    return {**json.loads(TWO.to_json()), **changes}


def edited_layer(**changes):
    found = document()
    found["layers"][0].update(changes)
    return found


def refused(found):
    """What is said of a document that is no plan."""
    with pytest.raises(NmcompileError) as caught:
        Plan.from_json(json.dumps(found), "mine.json")
    return str(caught.value)


def test_a_plan_survives_the_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(TWO.to_json())
    assert Plan.load(path) == TWO


def test_patterns_are_written_as_the_user_writes_them():
    first = document()["layers"][0]
    assert first["pattern"] == "2:4"
    assert [choice["pattern"] for choice in first["choices"]] == ["dense", "2:4"]


def test_what_has_a_default_may_be_left_out():
    found = document()
    for key in ("budget", "notes", "loss_quantity"):
        del found[key]
    del found["layers"][1]["pattern"], found["layers"][0]["choices"][0]["kernel"]
    read = Plan.from_json(json.dumps(found))
    assert read.layers[1].pattern == DENSE
    assert (read.budget, read.notes) == ("", ())


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (document(extra=1), "unknown key 'extra' in plan"),
        (edited_layer(extra=1), "unknown key 'extra' in layer"),
        (edited_layer(choices=[{"pattern": "dense", "macs": 1, "x": 1}]), "'x' in choice"),
        ({k: v for k, v in document().items() if k != "target"}, "missing key 'target' in plan"),
        ({k: v for k, v in document().items() if k != "layers"}, "missing key 'layers' in plan"),
        (edited_layer(choices=[{"macs": 1}]), "missing key 'pattern' in choice"),
        (document(version=2), "plan version 2, this nmcompile reads version 1"),
        (document(version=None), "plan version None"),
        ([], "plan version 'list'"),
        (edited_layer(pattern="1:4"), "1:4, which is not among its choices (dense, 2:4)"),
        (edited_layer(choices=[]), "not among its choices (none)"),
        (edited_layer(pattern="4:2"), "pattern 4:2"),
        (document(layers="none"), "'layers' must be a list of objects"),
        (document(layers=[1]), "'layers' must be a list of objects"),
        (document(reference_size=720), "'reference_size' must be two whole numbers, found 720"),
        (document(reference_size=[1, 2, 3]), "'reference_size' must be two whole numbers"),
        (document(notes="a note"), "'notes' must be a list of texts"),
        (edited_layer(shape=[8, 8, 3]), "'shape' must be four whole numbers"),
        (edited_layer(macs="many"), "'macs' must be a whole number, found 'many'"),
        (edited_layer(macs=True), "'macs' must be a whole number"),
        (edited_layer(pattern=24), "'pattern' must be a pattern such as '2:4', found 24"),
        (edited_layer(choices=[{"pattern": "2:4", "macs": 1, "loss": "low"}]), "'loss' must be"),
        (edited_layer(name="tail.weight"), "layer tail.weight is there twice"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(found, said):
    assert said in refused(found)
    assert "\n" not in refused(found)


def test_the_file_is_named():
    assert refused(document(extra=1)).startswith("mine.json: ")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_no_json_is_said(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(NmcompileError, match=str(path)):
        Plan.load(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(NmcompileError, match="cannot read the plan"):
        Plan.load(tmp_path / "plan.json")


def test_totals_follow_the_patterns():
    assert (TWO.macs, TWO.dense_macs, TWO.loss) == (500 + 600, 1600, 1e-4)
    sparser = TWO.assign({"tail.weight": Pattern(1, 1, 4)}, {"tail.weight": "less"})
    assert (sparser.macs, sparser.dense_macs) == (500 + 150, 1600)
    assert sparser.loss == pytest.approx(4e-4)
    assert sparser.layer("tail.weight").reason == "less"
    assert sparser.layer("head.weight") == TWO.layer("head.weight")


def test_a_sum_with_an_unmeasured_loss_is_unknown():
    unmeasured = Choice(HALF, 500)
    head = dataclasses.replace(TWO.layers[0], choices=(Choice(DENSE, 1000), unmeasured))
    assert TWO.with_layers([head]).loss is None
    assert TWO.with_layers([dataclasses.replace(head, pattern=DENSE)]).loss == 0.0


def test_a_layer_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError):
        TWO.layer("body.weight")
