"""Plans and receipts made by hand -> what report.html tells, and that it needs nothing else."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Choice, Layer, Plan
from nmcompile.report import Chosen, Example, crops, numbers, write_report
from nmcompile.report.verdict import verdict

NOTE = "dense kernel: no speed-up from zeros"
HALF, WIDE = Pattern.parse("2:4"), Pattern.parse("8:16")
VOID = {"meta", "br", "img", "wbr"}
NASTY = "body.<script>alert('1')</script>&\"$x$.weight"


def make_layer(name="conv.weight", inner=16, pattern=HALF, loss=1e-5):
    shape, macs = (8, inner, 3, 3), 8 * inner * 9 * 64
    choices = [Choice(DENSE, macs, 1.0)]
    for tried, worse in ((HALF, 1), (WIDE, 0.5)):
        if not tried.obstacle(8, inner, 9):
            choices.append(Choice(tried, macs // 2, 1.0, loss and loss * worse))
    return Layer(
        name, "conv2d", shape, 1, 1, 8 * inner * 9, macs, "H*W", 2048, tuple(choices), pattern, "R"
    )


def make_plan(*layers):
    return Plan((8, 8), "cpu", layers or (make_layer(),), "drop=0.1dB", ("a note",))


def make_receipt(plan, **changes):
    rows = [
        {
            "name": layer.name, "op": layer.op, "shape": list(layer.shape),
            "pattern": str(layer.pattern), "macs_dense": layer.macs, "macs": layer.chosen.macs,
            "dense_ms": 1.25, "chosen_ms": 1.5, "gain": 0.83, "kernel": "ort.conv2d", "valid": True,
            "status": NOTE, "reason": layer.reason,
        }
        for layer in plan.layers
    ]  # fmt: skip
    receipt = {
        "version": 1, "created_by": "nmcompile 0.1.0", "target": "cpu", "executor": "onnxruntime",
        "cpu": "Some CPU", "threads": 2, "note": NOTE, "model": "net.pt", "task": "sr:4",
        "params": {"dense": 2000, "kept": 1000}, "reference_size": [8, 8],
        "macs": {"dense": plan.dense_macs, "compiled": plan.macs},
        "engine_ms": {"dense": 12.3, "compiled": 12.2, "ratio": 1.01, "size": [180, 320]},
        "quality": {
            "images": 3, "where": "held-out images", "protocol": "Y channel",
            "dense": {"psnr": 28.0, "ssim": 0.81}, "compiled": {"psnr": 27.92, "ssim": 0.8},
            "drop_db": 0.08,
        },
        "verification": {"max_abs_difference": 1e-6, "tolerance": 1e-4, "sizes": [[48, 56]]},
        "budget": "drop=0.1dB", "patterns": ["2:4", "8:16"], "assumed": ["task sr:4: the shapes"],
        "layers": rows, "seconds": {"pruning": 12.1},
    }  # fmt: skip
    return {**receipt, **changes}


def make_example(channels=3, scale=4, difference=3):
    clean = np.random.default_rng(0).integers(0, 200, (32, 40, channels), np.uint8)
    low = clean[::scale, ::scale]
    return Example("a <crop>", low, clean, clean + np.uint8(difference), clean)


def written(tmp_path, plan, receipt, examples=(), chosen=None):
    path = tmp_path / "report.html"
    write_report(path, plan, receipt, examples, chosen)
    return path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Collects text and attributes, and requires every element to be closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.loads, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _pictures(page):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


def test_page_needs_nothing_beside_it(tmp_path):
    plan = make_plan()
    page = written(tmp_path, plan, make_receipt(plan), [make_example()])
    assert "http://" not in page
    assert "https://" not in page
    parsed = _Page(page)
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert parsed.loads
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in parsed.loads)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]+)\)", page))
    assert "default-src 'none'" in page
    assert "@import" not in page


def test_pictures_are_well_formed(tmp_path):
    plan = make_plan(make_layer(NASTY), make_layer("b", inner=3, pattern=DENSE))
    page = written(tmp_path, plan, make_receipt(plan))
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 2
    for svg in drawn:
        ET.fromstring(svg)
        assert "#0100" not in svg, "a stand-in colour was left"
        assert 'id="tip' not in svg


def test_same_input_gives_the_same_page(tmp_path):
    plan = make_plan()
    pages = {written(tmp_path, plan, make_receipt(plan)) for _ in range(2)}
    assert len(pages) == 1


def test_page_tells_costs_quality_assumptions_and_machine(tmp_path):
    plan = make_plan()
    text = _Page(written(tmp_path, plan, make_receipt(plan))).text
    for said in (
        "task sr:4: the shapes", "a note", "Some CPU, 2 threads", "28.00 → 27.92 dB",
        "0.8100 → 0.8000", "12.3 → 12.2 ms", "1.25 → 1.50 ms", "held-out images", "Y channel",
        "at most 1.0e-6 of the output's range apart", "48×56", "drop=0.1dB", "ort.conv2d",
        "nmcompile 0.1.0", "nmcompile bench ENGINE --size 180x320 --threads 2",
    ):  # fmt: skip
        assert said in text


def test_note_stands_out_and_no_speed_is_claimed(tmp_path):
    plan = make_plan()
    fast = {"dense": 12.0, "compiled": 10.0, "ratio": 1.2, "size": [8, 8]}
    page = written(tmp_path, plan, make_receipt(plan, engine_ms=fast))
    head = page[: page.index("</header>")]
    assert "Dense kernel: no speed-up from zeros." in head
    assert "no faster</h1>" in head
    assert "as fast" not in page


def test_hostile_names_are_escaped(tmp_path):
    plan = make_plan(make_layer(NASTY))
    bad = "<img src=x onerror=1>"
    changes = {"model": bad, "assumed": [bad], "cpu": bad, "note": bad, "budget": bad}
    page = written(tmp_path, plan, make_receipt(plan, **changes), [make_example()])
    parsed = _Page(page)
    assert "script" not in parsed.tags
    assert "<img src=x" not in page
    assert NASTY in parsed.text
    assert "a <crop>" in parsed.text


def test_layer_that_cannot_take_a_pattern_says_why(tmp_path):
    plan = make_plan(make_layer("first", inner=3, pattern=DENSE), make_layer("second"))
    page = written(tmp_path, plan, make_receipt(plan))
    assert "first, 8:16: cannot be taken (3 input channels per group, pattern 8:16 needs" in page
    assert "<pattern" in page
    assert "second, 2:4: loss 1.0e-5" in page


@pytest.mark.parametrize("count", [1, 100])
def test_every_layer_is_shown(tmp_path, count):
    names = [f"body.{i}.a_rather_long_name_for_a_convolution.{i}.weight" for i in range(count)]
    plan = make_plan(*(make_layer(name) for name in names))
    page = written(tmp_path, plan, make_receipt(plan))
    parsed = _Page(page.replace("<wbr>", ""))
    assert all(name in parsed.text for name in names)
    assert page.count('<th scope="row">') == count


def test_null_fields_are_not_measured(tmp_path):
    plan = make_plan(make_layer(loss=None))
    plan = plan.with_layers([plan.layers[0], make_layer("other", pattern=DENSE)])
    nothing = dict.fromkeys(("engine_ms", "quality", "verification", "params", "seconds", "note"))
    receipt = make_receipt(plan, **nothing)
    for row in receipt["layers"]:
        row.update(dense_ms=None, chosen_ms=None, gain=None)
    text = _Page(written(tmp_path, plan, receipt)).text
    assert "quality not measured, speed not measured" in text
    assert "None" not in text
    assert "nan" not in text


def test_receipt_that_lacks_everything_is_shown(tmp_path):
    plan = make_plan(make_layer(loss=float("inf")))
    assert "not measured" in written(tmp_path, plan, {})


def test_partly_null_sections(tmp_path):
    plan = make_plan()
    quality = {"images": 1, "dense": {"psnr": 28.0, "ssim": float("nan")}, "compiled": None}
    time = {"dense": 1.0, "compiled": None, "ratio": None, "size": None}
    receipt = make_receipt(plan, quality=quality, engine_ms=time)
    text = _Page(written(tmp_path, plan, receipt)).text
    assert "28.00 dB → not measured" in text
    assert "1.00 ms → not measured" in text
    assert "None" not in text


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_keep_their_pixels(tmp_path, channels):
    plan, example = make_plan(), make_example(channels)
    page = written(tmp_path, plan, make_receipt(plan), [example])
    degraded, dense, compiled, clean, difference = _pictures(page)
    assert degraded.shape[:2] == clean.shape[:2]
    assert (degraded.reshape(32, 40, -1) == example.degraded.repeat(4, 0).repeat(4, 1)).all()
    for shown, given in ((dense, example.dense), (compiled, example.compiled)):
        assert (shown.reshape(given.shape) == given).all()
    assert (difference == 150).all()
    assert "|compiled − dense| × 50" in page


@pytest.mark.parametrize(("difference", "factor"), [(0, 50), (6, 20), (51, 5), (200, 1)])
def test_difference_is_amplified_as_far_as_it_fits(difference, factor):
    black = np.zeros((16, 16, 1), np.uint8)
    found, (picture,) = crops.differences([Example("", black, black, black + difference, black)])
    assert found == factor
    assert (picture == difference * factor).all()


def test_page_without_examples_has_no_crops(tmp_path):
    plan = make_plan()
    page = written(tmp_path, plan, make_receipt(plan))
    assert "<img" not in page
    assert "Side by side" not in page


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "50 % fewer multiply-accumulates, 0.08 dB lost, no faster"),
        (
            {"note": "", "engine_ms": {"dense": 3.0, "compiled": 2.0, "ratio": 1.5}},
            "50 % fewer multiply-accumulates, 0.08 dB lost, 1.50× as fast",
        ),
        (
            {"engine_ms": {"dense": 2.0, "compiled": 2.5, "ratio": 0.8}, "macs": None},
            "Arithmetic not measured, 0.08 dB lost, slower (0.80×)",
        ),
        (
            {"quality": {"drop_db": -0.02}, "macs": {"dense": 5, "compiled": 5}},
            "No arithmetic saved, 0.02 dB gained, no faster",
        ),
        (
            {"quality": {"drop_db": 0.001}, "engine_ms": None},
            "50 % fewer multiply-accumulates, no quality lost, speed not measured",
        ),
    ],
)
def test_headline(changes, headline):
    plan = make_plan()
    assert verdict(plan, make_receipt(plan, **changes)).headline == headline


def test_levels_of_an_image_are_shown(tmp_path):
    plan, picture = make_plan(), np.full((6, 9, 3), 7, np.uint8)
    chosen = Chosen("a <map>", picture, (0.25, 0.75), 0.512)
    page = written(tmp_path, plan, make_receipt(plan), chosen=chosen)
    text = _Page(page).text
    assert "a <map> at its own effort: 0.512 of the dense" in text
    assert "level 0: 25 %, level 1: 75 %" in text
    np.testing.assert_array_equal(_pictures(page)[0], picture)
    assert "Levels of one image" not in written(tmp_path, plan, make_receipt(plan))


def test_faulty_engine_is_an_alarm(tmp_path):
    plan = make_plan()
    apart = {"max_abs_difference": float("nan"), "tolerance": 1e-4, "sizes": []}
    receipt = make_receipt(plan, verification=apart)
    receipt["layers"][0]["valid"] = False
    assert len(verdict(plan, receipt).alarms) == 2
    assert written(tmp_path, plan, receipt).count('role="alert"') == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.count(715176), "715 k"),
        (numbers.count(999_900), "1.00 M"),
        (numbers.count(0), "0"),
        (numbers.percent(0.125), "12.5 %"),
        (numbers.percent(0.9999), "99.9 %"),
        (numbers.percent(1), "100 %"),
        (numbers.tiny(3.21e-6), "3.2e-6"),
        (numbers.decibel(float("inf")), "∞ dB"),
        (numbers.milliseconds(float("nan")), "not measured"),
        (numbers.change(numbers.milliseconds, 12.34, 8.1), "12.3 → 8.10 ms"),
        (numbers.change(numbers.count, 1e9, 1e6), "1.00 G → 1.00 M"),
        (numbers.change(numbers.decibel, None, 8.0), "not measured → 8.00 dB"),
        (numbers.unbroken("1 dB of 5 things"), "1\N{NO-BREAK SPACE}dB of 5 things"),
    ],
)
def test_numbers(text, expected):
    assert text == expected
