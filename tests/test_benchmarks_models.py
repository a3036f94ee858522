"""benchmarks/models.py and memory.py -> which cases are known, the table, the peak of a process."""

import json

import pytest
from rich.console import Console

from benchmarks.memory import OURS, peak_memory
from benchmarks.models import CASES, is_known, main, table
from benchmarks.networks import NETWORKS
from nmcompile.budget import Budget
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from tests import engines


def row(engine, **more):
    peer = {"ratio": 1.5, "ratio_low": 1.4, "ratio_high": 1.625}
    return {
        "engine": engine, "threads": 2, "isa": None, "macs": 0.5, "ours": {"ms": 12.34},
        "others": 0.25, "peers": {"openvino": peer}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cases_name_networks_and_what_can_be_compiled(case):
    assert case.network in NETWORKS
    for label in case.engines:
        assert Budget.parse(label) if "=" in label else Pattern.parse(label)


def test_a_case_is_known_under_its_threads_and_isa_alone():
    rows = [row(f"imdn {label}") for label in CASES["imdn"].engines]
    assert is_known("imdn", rows, 2, None)
    assert not is_known("imdn", rows, 1, None)
    assert not is_known("imdn", rows, 2, "avx2")
    assert not is_known("imdn", rows[1:], 2, None)


def test_the_table_shows_targets_and_memory():
    memory = {"ours": {"peak_mb": 300.0, "idle_mb": 100.0}}
    rows = [row("imdn macs=0.5"), row("dncnn-hd dense", memory=memory)]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(rows))
    shown = captured.get()
    assert "1.50 [1.40 1.62] (2)" in shown
    assert "ours 200" in shown
    assert "25%" in shown


def test_a_case_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["models", "nothing"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown case nothing; choose from edsr" in capsys.readouterr().err


def test_known_cases_are_only_shown(monkeypatch, tmp_path, capsys):
    out = tmp_path / "models.json"
    out.write_text(json.dumps({"rows": [row(f"imdn {label}") for label in CASES["imdn"].engines]}))
    monkeypatch.setattr("sys.argv", ["models", "imdn", "--threads", "2", "--out", str(out)])
    assert main() == 0
    assert "imdn macs=0.5" in capsys.readouterr().out


def test_peak_memory_grows_with_the_image(tmp_path):
    engine = engines.super_resolution(tmp_path / "engine")
    small, large = (peak_memory(engine, OURS, (size, size), 1) for size in (16, 1024))
    assert small["idle_mb"] > 10
    # The output alone has 3 x 2048 x 2048 floats.
    assert large["peak_mb"] - small["peak_mb"] > 3 * 2048 * 2048 * 4 / 1e6


def test_a_runtime_that_fails_is_said(tmp_path):
    engine = engines.super_resolution(tmp_path / "engine")
    with pytest.raises(NmcompileError, match=r"torch did not run .*give fewer --against"):
        peak_memory(engine, "torch", (16, 16), 1)
