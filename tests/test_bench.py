"""`nmcompile bench` -> a document whose numbers belong together; never how fast anything is."""

import itertools
import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import nmcompile.bench
from nmcompile.bench import FEWEST_ROUNDS, bench, bench_together, interleaved, natural_image
from nmcompile.cli import main
from nmcompile.peers import default_peers
from tests import engines

ROUNDS = ["--runs", str(FEWEST_ROUNDS), "--threads", "1"]


@pytest.fixture
def engine(tmp_path):
    return engines.strided(tmp_path / "engine")


def document(capsys, *words):
    assert main(["bench", *map(str, words), *ROUNDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def failing(capsys, *words):
    """The one line that a failing command prints."""
    assert main(["bench", *map(str, words)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_the_document(engine, capsys):
    found = document(capsys, engine, "--size", "16x24", "--against", "onnxruntime,openvino")
    assert set(found) == {
        "engine", "ours", "peers", "size", "threads", "isa", "rounds", "others", "cpu", "note",
    }  # fmt: skip
    assert (found["engine"], found["isa"], found["ours"]["isa"]) == ("engine", None, None)
    assert 0 <= found["others"] <= 1
    assert (found["size"], found["threads"], found["rounds"]) == ([16, 24], 1, FEWEST_ROUNDS)
    assert found["note"] == "dense kernel: no speed-up"
    assert found["cpu"]
    assert list(found["peers"]) == ["onnxruntime", "openvino"]
    for row in (found["ours"], *found["peers"].values()):
        assert 0 < row["min"] <= row["ms"] <= row["max"]
        assert len(row["times"]) == FEWEST_ROUNDS
        assert min(row["times"]) == pytest.approx(row["min"], rel=1e-5)
    for peer in found["peers"].values():
        assert 0 < peer["ratio_low"] <= peer["ratio"] <= peer["ratio_high"]
        assert peer["version"][0].isdigit()
    assert found["peers"]["onnxruntime"]["precision"] == "f32"


def test_the_size_is_rounded_to_what_fits(engine, capsys, tmp_path):
    assert document(capsys, engine, "--against", "onnxruntime")["size"] == [180, 320]
    wide = engines.strided(tmp_path / "wide", multiple=32, minimum=224)
    assert document(capsys, wide, "--against", "onnxruntime")["size"] == [224, 320]
    fixed = engines.identity(tmp_path / "fixed", fixed_size=(32, 48))
    assert document(capsys, fixed, "--against", "onnxruntime")["size"] == [32, 48]


class AddSigma(nn.Module):
    def forward(self, image, sigma):
        return image + sigma


def test_torch_runs_the_exported_archive(tmp_path, capsys):
    folder = engines.noise_level(tmp_path / "engine", (0, 1, "H", "W"))
    shapes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    arguments = (torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))
    program = torch.export.export(AddSigma(), arguments, dynamic_shapes=(shapes, shapes))
    torch.export.save(program, folder / "dense.pt2")
    found = document(capsys, folder, "--size", "8x12", "--against", "torch,onnxruntime")
    assert list(found["peers"]) == ["torch", "onnxruntime"]
    assert found["peers"]["torch"]["version"] == torch.__version__


def test_engines_of_one_network_share_the_rounds_of_the_peers(engine, tmp_path):
    other = engines.strided(tmp_path / "other")
    found = bench_together([engine, other], ["onnxruntime"], (16, 24), 1, FEWEST_ROUNDS)
    assert [document["engine"] for document in found] == ["engine", "other"]
    first, second = (document["peers"]["onnxruntime"]["times"] for document in found)
    assert first == second
    assert found[0]["ours"]["times"] != found[1]["ours"]["times"]


def test_openvino_in_its_own_precision_and_in_fp32(engine, capsys):
    found = document(capsys, engine, "--size", "16x24", "--against", "openvino,openvino-f32")
    assert found["peers"]["openvino-f32"]["precision"] == "f32"


def test_a_signal_ends_no_process_in_which_openvino_ran(engine):
    code = f"""
        import signal
        from nmcompile.bench import bench
        for _ in range(2):
            bench({str(engine)!r}, ["openvino", "openvino-f32"], (16, 24), 1, {FEWEST_ROUNDS})
        signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
        signal.raise_signal(signal.SIGUSR1)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_the_table(engine, capsys):
    words = ["bench", str(engine), "--size", "16x24", "--against", "onnxruntime", *ROUNDS]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "16x24, 1 threads, 5 rounds" in out
    assert "onnxruntime" in out
    assert "note: dense kernel: no speed-up" in out


def test_runs_are_interleaved_and_rotate():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleaved(runs, rounds=7, seconds=0)
    assert "".join(order) == "aabbcc" + "abcbcacab" * 2 + "abc"
    assert {name: len(found) for name, found in times.items()} == {"a": 7, "b": 7, "c": 7}


@pytest.mark.parametrize(("seconds", "rounds"), [(1.5, 100), (0.01, FEWEST_ROUNDS)])
def test_rounds_go_on_for_the_time_given(monkeypatch, seconds, rounds):
    clock = itertools.count(step=0.005)  # read three times a round: 15 ms
    fake = SimpleNamespace(perf_counter=lambda: next(clock), sleep=lambda _: None)
    monkeypatch.setattr(nmcompile.bench, "time", fake)
    times = interleaved({"a": lambda: None}, rounds=None, seconds=seconds)
    assert abs(len(times["a"]) - rounds) <= (2 if rounds > FEWEST_ROUNDS else 0)
    assert np.allclose(times["a"], 5.0)


def test_a_ratio_is_the_median_of_the_rounds(engine, monkeypatch):
    ours = np.array([1.0, 2.0, 4.0, 1.0, 1.0])
    peer = np.array([2.0, 6.0, 4.0, 5.0, 1.0])  # ratios 2, 3, 1, 5, 1
    monkeypatch.setattr(
        nmcompile.bench, "interleaved", lambda *_: {"ours 0": ours, "onnxruntime": peer}
    )
    found = bench(engine, ["onnxruntime"], (8, 8))
    assert found["ours"] == {"ms": 1.0, "min": 1.0, "max": 4.0, "times": [*ours], "isa": None}
    row = found["peers"]["onnxruntime"]
    assert (row["ratio_low"], row["ratio"], row["ratio_high"]) == (1.0, 2.0, 3.0)


def test_the_input_looks_like_a_photograph():
    image = natural_image((1, 3, 60, 100), 255.0)
    assert image.shape == (1, 3, 60, 100)
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0, 255)
    assert np.abs(np.diff(image, axis=3)).mean() < 0.7 * image.std()  # neighbours are alike


def test_default_peers_are_those_installed(monkeypatch):
    monkeypatch.setattr("nmcompile.peers.util", SimpleNamespace(find_spec={}.get))
    assert default_peers() == ["onnxruntime"]
    monkeypatch.setattr("nmcompile.peers.util", SimpleNamespace(find_spec=str))
    assert default_peers() == ["onnxruntime", "openvino"]


def test_a_peer_that_is_not_installed_is_said(engine, capsys, monkeypatch):
    monkeypatch.setattr("nmcompile.peers.util", SimpleNamespace(find_spec={}.get))
    line = failing(capsys, engine, "--against", "openvino")
    assert "pip install nmcompile[peers]" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--against", "tflite"], "unknown peer 'tflite'"),
        (["--against", ","], "names no peer"),
        (["--size", "12"], "expected HxW"),
        (["--size", "10x12"], "multiples of 4"),
        (["--runs", "2"], "--runs 2"),
        (["--threads", "0"], "0 threads"),
        (["--against", "torch"], "has no dense.pt2"),
    ],
)
def test_what_cannot_be_is_one_line(engine, capsys, words, said):
    assert said in failing(capsys, engine, *words)
