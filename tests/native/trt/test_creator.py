"""Fields of a node -> a plugin, or nothing and one line that names the layer."""

import struct
from dataclasses import replace

import pytest

from tests.native.cuda.cases import Case
from tests.native.trt.checks import node_of
from tests.native.trt.harness import BUILD, FIELD_CHAR, FIELD_FLOAT32, RUNTIME, Field, parsed

CASE = Case("2:4", height=5, width=6)
NAMES = ["weights", "bytes", "format", "residual", "routed", "layout", "name", "pattern"]
IDENTITY = "NMConv 1 nmcompile"


def _fields(harness, **attributes):
    return parsed(node_of(CASE, **attributes), [*harness.fields])


def _changed(fields, name, **changes):
    return [replace(field, **changes) if field.name == name else field for field in fields]


def _refusal(harness, fields, layer="body.0", phase=BUILD):
    assert harness.create(fields, phase) is None
    (line,) = harness.log()
    begin = f"1 nmcompile: layer {layer}: "
    assert line.startswith(begin)
    return line.removeprefix(begin)


def test_parser_finds_the_operator_and_its_attributes(harness):
    assert harness.identity == IDENTITY
    assert [*harness.fields] == NAMES
    assert set(NAMES) == {attribute.name for attribute in node_of(CASE).attribute}


def test_plugin_tells_what_it_is(harness):
    identity, timed, shown = harness.plugin(node_of(CASE)).describe()
    assert identity == IDENTITY
    assert timed == (
        "nmcompile-0.0.1_f16_3x3_64to64_stride1_pads.1.1.1.1_activation0_residual0_shuffle1_NCHW_sparse"
    )
    assert shown == f"name=body.0 pattern=2:4 kernel={timed}"


def test_layers_that_take_the_same_time_are_timed_once(harness):
    """Neither weights nor names matter; the kind of weights does."""

    def timed(case, **more):
        return harness.plugin(node_of(case, **more)).describe()[1]

    assert timed(CASE, seed=1, name="a") == timed(CASE, seed=2, name="b")
    assert timed(CASE) != timed(Case("dense"))
    assert timed(CASE) != timed(CASE, layout="NHWC")


@pytest.mark.parametrize("phase", [BUILD, RUNTIME])
def test_engine_keeps_what_makes_the_same_plugin(harness, phase):
    fields = _fields(harness)
    plugin = harness.create(fields)
    kept = plugin.serialised()
    assert kept == fields
    del plugin
    again = harness.create(kept, phase)
    assert again.serialised() == fields
    assert again.clone().serialised() == fields


def test_texts_need_no_zero_at_their_end(harness):
    fields = [
        replace(field, data=field.data[:-1], length=field.length - 1)
        if field.type == FIELD_CHAR
        else field
        for field in _fields(harness, pattern="")
    ]
    assert harness.create(fields).serialised() == _fields(harness, pattern="")


@pytest.mark.parametrize("name", NAMES)
def test_missing_field_is_named(harness, name):
    line = _refusal(
        harness, _fields(harness, **{name: None}) if name != "residual" else
        [field for field in _fields(harness) if field.name != name],
        "node_7" if name == "name" else "body.0",
    )  # fmt: skip
    assert line == f"found no field {name}, expected {', '.join(NAMES)}; write the model again"


@pytest.mark.parametrize("name", NAMES)
def test_field_that_is_there_twice_is_named(harness, name):
    fields = _fields(harness)
    twice = [*fields, *(field for field in fields if field.name == name)]
    assert _refusal(harness, twice).startswith(f"found field {name} twice, expected it once")


def test_unknown_field_is_named(harness):
    fields = [*_fields(harness), Field("slope", bytes(4), FIELD_FLOAT32, 1)]
    assert _refusal(harness, fields).startswith("found field slope, expected weights, bytes")


@pytest.mark.parametrize("name", NAMES)
def test_field_of_another_type_is_named(harness, name):
    line = _refusal(harness, _changed(_fields(harness), name, type=FIELD_FLOAT32),
                    "node_7" if name == "name" else "body.0")  # fmt: skip
    assert line.startswith(f"found field {name} of type 1, expected ")


@pytest.mark.parametrize("name", ["weights", "bytes", "residual", "routed"])
def test_field_of_another_length_is_named(harness, name):
    line = _refusal(harness, _changed(_fields(harness), name, length=0))
    assert line.startswith(f"found field {name} with 0 numbers, expected ")


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"format": "cpu"}, "found format cpu, expected cuda; "),
        ({"layout": "CHW"}, "found layout CHW, expected NCHW or NHWC; "),
        ({"routed": 2}, "found routed = 2, expected 0 or 1; "),
        ({"residual": 1}, "found residual = 1 beside weights packed for 0, expected the same; "),
        ({"bytes": 0}, "found 0 bytes in "),
        ({"bytes": -4}, "found -4 bytes in "),
        ({"bytes": 2**32 + 96}, "found 96 bytes in "),  # narrowed by the parser
    ],
)
def test_value_that_makes_no_sense_is_named(harness, attributes, found):
    assert _refusal(harness, _fields(harness, **attributes)).startswith(found)


@pytest.mark.parametrize("phase", [BUILD, RUNTIME])
@pytest.mark.parametrize(
    ("word", "value", "found"),
    [
        (0, 7, "not packed weights"),
        (1, 2, "packed by another version of nmcompile"),
        (5, 2**20, "an impossible number of channels"),
        (20, 9, "an unknown kind of weights"),
    ],
)
def test_damaged_bytes_are_refused(harness, phase, word, value, found):
    fields = _fields(harness)
    damaged = bytearray(fields[0].data)
    struct.pack_into("<I", damaged, 4 * word, value)
    line = _refusal(harness, _changed(fields, "weights", data=bytes(damaged)), phase=phase)
    assert line.startswith(f"packed weights: found {found}; ")


def test_cut_bytes_are_refused(harness):
    fields = _fields(harness)
    cut = _changed(fields, "weights", data=fields[0].data[:400], length=100)
    cut = _changed(cut, "bytes", data=struct.pack("<i", 400))
    assert _refusal(harness, cut).startswith("packed weights: found cut short")


def test_no_fields_at_all_are_one_line(harness):
    assert _refusal(harness, [], "node_7").startswith("found no field ")
