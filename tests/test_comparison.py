"""Benchmark documents, drawn with the noise that was measured -> verdicts; never a clock."""

import copy
import json

import numpy as np
import pytest

from nmcompile.cli import main
from nmcompile.comparison import compare, documents
from nmcompile.errors import NmcompileError

ROUNDS = 20
PEERS = {"onnxruntime": 1.53, "openvino": 0.77}


def draw(seed, slower=1.0, engine="net", between=0.004, others=0.01, rounds=ROUNDS):
    """One run: what a two-core machine in the cloud showed, and worse.

    The machine's speed wanders from round to round and differs by half between runs; a time has
    noise of 1.5 %, and one in twelve is hit by something; each process has its own luck.
    """
    random = np.random.default_rng(seed)
    drift = np.cumsum(random.normal(0, 0.02, rounds)) + random.uniform(0, 0.5)

    def times(ms):
        hit = np.where(random.random(rounds) < 1 / 12, random.uniform(1.05, 1.6, rounds), 1.0)
        noise = np.exp(drift + random.normal(0, 0.015, rounds) + random.normal(0, between))
        return {"times": (ms * noise * hit).tolist()}

    known = {"version": "1.2", "precision": "f32"}
    return {
        "engine": engine,
        "ours": times(24.0 * slower),
        "peers": {name: times(24.0 * ratio) | known for name, ratio in PEERS.items()},
        "others": others, "size": [64, 96], "threads": 1, "isa": None, "cpu": "Some CPU",
    }  # fmt: skip


def verdicts(old, new, **options):
    return [row.verdict for row in compare(old, new, **options).rows]


def test_twenty_comparisons_of_the_same_raise_no_alarm():
    for seed in range(0, 40, 2):
        found = compare([draw(seed)], [draw(seed + 1)])
        assert not found.slower
        assert all(abs(row.change) < 0.05 for row in found.rows)


def test_ten_percent_are_found_every_time():
    for seed in range(0, 40, 2):
        found = compare([draw(seed)], [draw(seed + 1, slower=1.1)])
        assert found.slower == ("net",)
        assert all(row.low < row.change < row.high for row in found.rows)


def test_of_processes_that_differ_by_luck_several_runs_tell():
    def side(seed, **more):
        return [draw(seed + run, between=0.02, **more) for run in range(5)]

    starts = range(0, 200, 10)
    assert not any(compare(side(seed), side(seed + 5)).slower for seed in starts)
    assert all(compare(side(seed), side(seed + 5, slower=1.15)).slower for seed in starts)


def test_change_and_verdict():
    old, (slow, fast) = [draw(0, rounds=200)], ([draw(1, s, rounds=200)] for s in (1.2, 1 / 1.2))
    (row, _) = compare(old, slow).rows
    assert row.change == pytest.approx(0.2, abs=0.02)
    assert row.old / row.new == pytest.approx(1 + row.change)
    assert verdicts(old, slow) == ["slower", "slower"]
    assert verdicts(old, fast) == ["faster", "faster"]
    assert verdicts(old, slow, limit=0.3) == ["same", "same"]


def test_few_noisy_rounds_are_unclear():
    old, new = draw(0, rounds=6), draw(0, rounds=6)
    factors = [2.2, 2, 0.5, 2, 0.5, 2]
    new["ours"]["times"] = np.multiply(new["ours"]["times"], factors).tolist()
    assert set(verdicts([old], [new])) == {"unclear"}


def test_what_slows_down_alone_is_the_peer():
    old, new = draw(0), draw(0)
    new["peers"]["openvino"]["times"] = [t / 1.3 for t in new["peers"]["openvino"]["times"]]
    found = compare([old], [new])
    assert [row.verdict for row in found.rows] == ["same", "slower"]
    assert not found.slower


def test_a_disturbed_run_counts_only_where_there_is_no_other():
    old, busy, quiet = draw(0), draw(1, slower=2, others=0.47), draw(2)
    assert verdicts([old], [busy, quiet]) == ["same", "same"]
    found = compare([old], [busy])
    assert {row.verdict for row in found.rows} == {"unclear"}
    assert "other work took the cores" in found.notes[0]


def test_engines_are_matched_by_name():
    old = [draw(0, engine="a"), draw(1, engine="b")]
    new = [draw(2, engine="c"), draw(3, 1.2, engine="b"), draw(4, engine="a"), draw(5, engine="a")]
    found = compare(old, new)
    assert found.slower == ("b",)
    assert [row.engine for row in found.rows] == ["a", "a", "b", "b"]
    assert found.notes == ("c is new: nothing to compare with",)


def test_a_lone_engine_may_change_its_name():
    assert verdicts([draw(0, engine="old")], [draw(1, engine="new")]) == ["same", "same"]


def test_a_peer_of_another_version_is_left_out():
    old, new = draw(0), draw(1)
    new["peers"]["openvino"]["version"] = "1.3"
    found = compare([old], [new])
    assert [row.peer for row in found.rows] == ["onnxruntime"]
    assert found.notes == ("net: not compared with openvino, which differs (1.2 f32, 1.3 f32)",)
    del new["peers"]["onnxruntime"]
    with pytest.raises(NmcompileError, match="share no peer of one version"):
        compare([old], [new])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [180, 320]}, "the input size differs"),
        ({"threads": 2}, "the number of threads differs"),
        ({"isa": "avx2"}, "the --isa differs"),
        ({"cpu": "Other CPU"}, "the processor differs"),
    ],
)
def test_what_was_timed_otherwise_is_refused(change, said):
    with pytest.raises(NmcompileError, match=said):
        compare([draw(0)], [draw(1) | change])


def test_an_engine_that_is_gone_is_refused():
    with pytest.raises(NmcompileError, match="b was timed before and is not now"):
        compare([draw(0, engine="a"), draw(0, engine="b")], [draw(0, engine="a")])


def test_a_file_holds_one_document_or_several():
    one = draw(0)
    for found in (one, [one], {"rows": [one], "cpu": "Some CPU"}):
        assert documents(found, "f") == [one]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: d.pop("others"), "not what this version's"),
        (lambda d: d.update(peers={}), "timed against no peer"),
        (lambda d: d["ours"].pop("times"), "the time of every round"),
        (lambda d: d["ours"]["times"].pop(), "the time of every round"),
        (lambda d: d["ours"]["times"].__setitem__(0, -1), "the time of every round"),
        (lambda d: d["ours"]["times"].__setitem__(0, "x"), "the time of every round"),
        (lambda d: d["peers"].update(torch=None), "the time of every round"),
    ],
)
def test_damaged_documents_are_one_line(damage, said):
    found = copy.deepcopy(draw(0))
    damage(found)
    with pytest.raises(NmcompileError, match=said):
        documents(found, "f")


@pytest.fixture
def files(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def run(capsys, *words):
    status = main(["bench", "compare", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command(files, capsys):
    old, same, slow = files("o", draw(0)), files("s", draw(1)), files("w", draw(2, 1.1))
    status, out, _ = run(capsys, old, same)
    assert status == 0
    assert "no engine is slower by more than 5.0%" in out
    status, out, err = run(capsys, old, slow)
    assert (status, err) == (1, "")
    assert "slower by more than 5.0%: net" in out
    assert run(capsys, old, slow, "--fail-slower", "25%")[0] == 0


def test_the_command_as_json(files, capsys):
    status, out, _ = run(capsys, files("o", draw(0)), files("n", [draw(1, 1.1)]), "--json")
    found = json.loads(out)
    assert status == 1
    assert set(found) == {"limit", "rows", "slower", "notes"}
    assert found["slower"] == ["net"]
    assert set(found["rows"][0]) == {
        "engine", "peer", "old", "new", "change", "low", "high", "verdict",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("{", [], "not JSON"),
        ("[]", [], "expected what"),
        ("3", [], "expected what"),
        ('[{"a": 1}]', [], "bench again"),
        (draw(1), ["--fail-slower", "5"], "expected a percentage"),
        (draw(1), ["--fail-slower", "0%"], "expected a percentage"),
    ],
)
def test_bad_files_are_one_line(files, capsys, content, more, said):
    status, out, err = run(capsys, files("o", draw(0)), files("n", content), *more)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert said in err


def test_a_file_that_is_not_there(files, capsys):
    status, _, err = run(capsys, files("o", draw(0)), "/no/such.json")
    assert status == 1
    assert "/no/such.json: cannot be read" in err


def test_an_engine_folder_called_compare_needs_a_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare").mkdir()
    assert main(["bench", "./compare"]) == 1
    assert "is not an engine" in capsys.readouterr().err
