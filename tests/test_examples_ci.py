"""examples/ci/bench.sh, run for real -> what it keeps, and the status of a CI job."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples/ci/bench.sh"


def job(folder, **environment):
    """One run of the job, with the commands of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPT, folder],
        env={**os.environ, "PATH": path, "RUNS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder after the first job."""
    place = tmp_path_factory.mktemp("ci") / "kept"
    done = job(place, NMCOMPILE_CACHE=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    assert "nothing to compare with" in done.stdout
    return place


def last(folder):
    (path,) = folder.glob("last-*.json")
    return path


def test_the_times_are_kept_by_processor(folder):
    (run,) = json.loads(last(folder).read_text())
    assert re.sub("[^A-Za-z0-9]+", "-", run["cpu"]) == last(folder).stem.removeprefix("last-")
    assert (run["size"], run["threads"]) == ([64, 96], 1)


def test_what_did_not_become_slower_passes_and_is_kept(folder):
    before = json.loads(last(folder).read_text())
    for run in before:  # the last time was so slow that no noise hides it
        run["ours"]["times"] = [4 * time for time in run["ours"]["times"]]
    last(folder).write_text(json.dumps(before))
    done = job(folder, ENGINE=str(folder / "engine"))
    assert done.returncode == 0, done.stderr
    assert "no engine is slower" in done.stdout
    assert last(folder).read_text() == (folder / "new.json").read_text()


def test_a_failed_comparison_fails_the_job_and_keeps_the_last(folder):
    before = json.loads(last(folder).read_text())
    before[0]["size"] = [1, 1]
    last(folder).write_text(json.dumps(before))
    done = job(folder, ENGINE=str(folder / "engine"))
    assert done.returncode == 1
    assert "the input size differs" in done.stderr
    assert json.loads(last(folder).read_text()) == before


def test_the_workflow_runs_the_script():
    text = (ROOT / "examples/ci/benchmark.yml").read_text()
    assert "examples/ci/bench.sh benchmark\n" in text
    assert "actions/upload-artifact" in text
