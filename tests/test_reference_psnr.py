"""Pretrained networks, captured, reach the PSNR that other implementations measured."""

import json
from pathlib import Path

import pytest

from benchmarks.networks import NETWORKS, evaluation_set
from nmcompile.data import Source
from nmcompile.evaluate import evaluate
from nmcompile.tasks import Task

# Small images of small sets: the whole table is `python -m benchmarks.reference`.
CASES = [
    ("carn_m_x234@x4", "Set5 x4", ("butterfly", "woman")),
    ("imdn_x4", "Set5 x4", ("butterfly",)),
    ("rlfn_x2", "Set5 x2", ("butterfly",)),
    ("edsr_f32b5_x2", "Set5 x2", ("butterfly", "head")),
    ("dncnn_gray_s25_bn", "Set12 sigma25", ("01",)),
    ("dncnn3_gray_multitask", "Set5 x3 (Y)", ("butterfly",)),
    ("dncnn3_gray_multitask", "classic5 jpeg-q10", ("baboon",)),
    ("cdncnn_color_s25", "CBSD68 sigma25", ("101085",)),
]


@pytest.mark.parametrize(("network", "place", "names"), CASES)
def test_reference_psnr(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, network: str, place: str, names: tuple[str]
) -> None:
    monkeypatch.setenv("NMCOMPILE_DATA", str(data_dir))
    expected = json.loads((data_dir / "measured.json").read_text())[network][place]["per_image"]
    text, source = evaluation_set(place)
    count = 1 + max(index for index, path in enumerate(source.clean) if path.stem in names)
    first = Source(source.clean[:count], source.degraded[:count])
    program, task = NETWORKS[network].program(), Task.parse(text)
    samples = first.samples(task, program.interface.channels, program.interface.scale)
    found = evaluate(program, (s for s in samples if s.name in names), task)
    assert set(found.images) == set(names)
    for name in names:
        assert found.images[name].psnr == pytest.approx(expected[name], abs=0.002)
