"""Engines and plans made by hand -> what `nmcompile inspect` prints."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from nmcompile.cli import main
from nmcompile.engine import ExtraInput, Manifest, seal, writing
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.report import terminal
from nmcompile.runtime import native
from nmcompile.runtime.native.blob import Kind
from tests import engines
from tests.native.build import single

HALF = Pattern.parse("2:4")
NAMES = ("head.conv.weight", "body.[red]0[/red].a_long_name_that_must_stay_whole.conv.weight")


def _layer(name, pattern):
    choices = (Choice(DENSE, 4_000_000, 2.0, kernel="k.dense"), Choice(HALF, 2_000_000, None, 3e-6))
    return Layer(
        name, "conv2d", (8, 16, 3, 3), 1, 1, 1152, 4_000_000, "H*W", 99, choices, pattern,
        f"the reason of {name}",
    )  # fmt: skip


@pytest.fixture
def plan():
    layers = (_layer(NAMES[0], DENSE), _layer(NAMES[1], HALF))
    return Plan((180, 320), "cpu", layers, "macs=0.5", ("something to know",))


@pytest.fixture
def receipt():
    row = {"dense_ms": 2.0, "chosen_ms": 1.5, "kernel": "native.spmm", "valid": True}
    return {
        "version": 1,
        "cpu": "Some CPU",
        "note": "a note",
        "engine_ms": {"dense": 4.0, "compiled": 3.0, "ratio": 1.333, "size": [180, 320]},
        "quality": {"dense": {"psnr": 28.0, "ssim": 0.8}, "compiled": None, "where": "held-out"},
        "assumed": ["task sr:4", "something to know"],
        "layers": [{**row, "name": name, "status": "as planned"} for name in NAMES],
    }


@pytest.fixture
def plan_file(plan, tmp_path):
    path = tmp_path / "some.json"
    path.write_text(plan.to_json())
    return path


@pytest.fixture
def engine(plan, receipt, tmp_path):
    manifest = Manifest(
        target="cpu", executor="onnxruntime", task="sr:4", input_name="x", channels=3, scale=4,
        value_range=255.0, multiple=8, minimum=16, fixed_size=None, halo=None,
        halo_reason="mean over the image", bytes_per_pixel=400, created_by="nmcompile 0.1.0",
        extra_inputs=(ExtraInput("sigma", (1,), 0.5),),
    )  # fmt: skip
    with writing(tmp_path / "engine") as folder:
        (folder / "plan.json").write_text(plan.to_json())
        (folder / "receipt.json").write_text(json.dumps(receipt))
        seal(folder, manifest)
    return tmp_path / "engine"


def _printed(capsys, *words):
    assert main(["inspect", *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def _refused(capsys, path):
    assert main(["inspect", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_engine(engine, capsys):
    shown = _printed(capsys, engine)
    for said in (
        "nmcompile 0.1.0", "cpu, run by onnxruntime", "at least 16×16, padded to multiples of 8",
        "the whole image (mean over the image)", "sigma = 0.5", "8.00 M → 6.00 M (75 %) at 180×320",
        "2.30 k → 1.73 k", "4.00 → 3.00 ms (1.33×)", "28.00 dB → not measured, held-out", "a note",
        "task sr:4", "something to know", "2.00 → 1.50 ms", "native.spmm", "as planned", "3.0e-6",
    ):  # fmt: skip
        assert said in shown
    assert shown.count("something to know") == 1


def test_every_layer_is_one_whole_line_where_there_is_no_terminal(engine, capsys):
    lines = _printed(capsys, engine).splitlines()
    for name in NAMES:
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.rstrip().endswith(f"the reason of {name}")


def test_plan_alone(plan_file, capsys):
    shown = _printed(capsys, plan_file)
    assert "2.00 ms → not measured" in shown
    assert "k.dense" in shown
    assert "status" not in shown
    assert "candidate" not in shown


@pytest.mark.parametrize("flag", ["-v", "--candidates"])
def test_candidates(plan_file, capsys, flag):
    lines = _printed(capsys, plan_file, flag).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("candidate of"))
    rows = [line.split() for line in lines[start + 1 :]]
    assert [row[1] for row in rows] == ["dense", "2:4", "dense", "2:4"]
    assert [row[-1] == "chosen" for row in rows] == [True, False, False, True]


def test_a_native_engine_shows_the_kernels_it_takes_here(plan, receipt, tmp_path, capsys):
    kernels = ("f32.dense.avx9", "onnxruntime.conv2d")
    receipt["layers"] = [
        {**row, "kernel": kernel} for row, kernel in zip(receipt["layers"], kernels, strict=True)
    ]
    layers = [
        dataclasses.replace(
            layer, choices=tuple(dataclasses.replace(c, kernel=kernel) for c in layer.choices)
        )
        for layer, kernel in zip(plan.layers, ("f32.dense.portable", kernels[1]), strict=True)
    ]
    manifest = dataclasses.replace(engines.PLAIN, executor="native", scale=2)
    with writing(tmp_path / "native") as folder:
        (folder / "model.nmk").write_bytes(single(Kind.NEAREST, [3], 3, params=(2,)))
        (folder / "plan.json").write_text(plan.with_layers(layers).to_json())
        (folder / "receipt.json").write_text(json.dumps(receipt))
        seal(folder, manifest)
    isa = native.isa()
    here = json.loads(_printed(capsys, tmp_path / "native", "--json"))["here"]
    assert here["isa"] == isa
    assert list(here["kernels"].values()) == [f"f32.dense.{isa}", "onnxruntime.conv2d"]
    shown = _printed(capsys, tmp_path / "native")
    assert f"f32.dense.{isa}" in shown
    assert "avx9" not in shown


def test_json_of_an_engine(engine, plan, receipt, capsys):
    document = json.loads(_printed(capsys, engine, "--json"))
    assert set(document) == {"manifest", "plan", "receipt", "here"}
    assert document["here"] is None
    assert document["manifest"]["extra_inputs"][0]["name"] == "sigma"
    assert set(document["manifest"]["parts"]) == {"plan.json", "receipt.json"}
    assert Plan.from_json(json.dumps(document["plan"])) == plan
    assert document["receipt"] == receipt


def test_json_of_a_plan(plan_file, plan, capsys):
    document = json.loads(_printed(capsys, plan_file, "--json"))
    assert document["manifest"] is None
    assert document["receipt"] is None
    assert Plan.from_json(json.dumps(document["plan"])) == plan


def test_pattern_that_is_not_kept_is_said(engine, receipt, plan):
    receipt["layers"][1]["valid"] = False
    status = terminal.layer_table(plan, receipt).columns[8]
    assert list(status.cells) == ["as planned", "PATTERN NOT KEPT; as planned"]


@pytest.mark.parametrize("width", [20, 60, 100, 160, 300])
def test_no_width_of_a_terminal_loses_a_column(plan, receipt, width):
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False)
    terminal._print(console, terminal.layer_table(plan, receipt))
    shown = "".join(stream.getvalue().split())
    for cell in (*NAMES, "8×16×3×3", "4.00M→2.00M", "2.00→1.50ms", "3.0e-6", "native.spmm"):
        assert cell in shown
    for heading in ("pattern", "kernel", "status", "reason"):
        assert heading in shown


def test_engine_without_plan_and_receipt(tmp_path, capsys):
    manifest = Manifest(
        "cpu", "onnxruntime", "deblur", "x", 1, 1, 1.0, 1, 1, (64, 48), 12, "", 400
    )  # fmt: skip
    with writing(tmp_path / "bare") as folder:
        seal(folder, manifest)
    shown = _printed(capsys, tmp_path / "bare")
    assert "64×48 only" in shown
    assert "12 pixels" in shown
    assert "the engine holds no plan" in shown
    document = json.loads(_printed(capsys, tmp_path / "bare", "--json"))
    assert document["plan"] is None
    assert document["receipt"] is None


def test_altered_engine_is_refused(engine, capsys):
    text = (engine / "receipt.json").read_text()
    (engine / "receipt.json").write_text(text.replace("Some CPU", "Some GPU"))
    assert "receipt.json is not what was written" in _refused(capsys, engine)


def test_what_is_neither_is_refused(tmp_path, engine, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "other.json").write_text('{"version": 7}')
    (tmp_path / "cut.json").write_text('{"version": 1, "lay')
    assert "is not an engine: it has no manifest.json" in _refused(capsys, tmp_path / "folder")
    assert "is neither an engine (a folder" in _refused(capsys, tmp_path / "photo.png")
    assert "plan version 7" in _refused(capsys, tmp_path / "other.json")
    assert "not JSON" in _refused(capsys, tmp_path / "cut.json")
    assert "does not exist" in _refused(capsys, tmp_path / "absent")
    assert "one part of an engine" in _refused(capsys, engine / "manifest.json")
