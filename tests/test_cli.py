"""Command lines -> what is printed where, and the exit status."""

import json
import re
import subprocess
import sys

import pytest

import nmcompile
from nmcompile import cli
from nmcompile.cli import COMMANDS, env, main
from nmcompile.errors import NmcompileError


def _process(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nmcompile", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_shows_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, what in COMMANDS.items():
        assert f"  {name} " in shown
        assert what in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert COMMANDS[command] in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    lines = [
        "import argparse, importlib, sys",
        f"for name in {list(COMMANDS)}:",
        "    module = importlib.import_module('nmcompile.cli.' + name.replace(' ', '_'))",
        "    module.add_arguments(argparse.ArgumentParser())",
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'matplotlib', 'skimage', 'cv2'}",
        "print(sorted(heavy & set(sys.modules)))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_version_by_the_real_process():
    done = _process("--version")
    assert (done.returncode, done.stdout) == (0, f"nmcompile {nmcompile.__version__}\n")


def test_env_json_has_the_documented_keys(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {
        "nmcompile",
        "python",
        "platform",
        "packages",
        "onnxruntime_providers",
        "cpu",
        "ram_bytes",
        "build",
        "cache",
    }
    assert set(facts["cpu"]) == {"name", "features", "cores", "threads"}
    assert facts["packages"]["torch"]
    assert facts["build"]["components"]["libnmk"]["state"] == "on"


def test_env_names_what_is_absent(capsys, monkeypatch):
    monkeypatch.setitem(env._PACKAGES, "tensorrt", ("no-such-distribution",))
    assert main(["env"]) == 0
    assert re.search(r"^tensorrt +not installed$", capsys.readouterr().out, re.MULTILINE)


def test_env_without_the_library_says_why(capsys, monkeypatch, tmp_path):
    from nmcompile.runtime import native

    native.library.cache_clear()
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    assert main(["env"]) == 0
    assert "off: libnmk.so was not found in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env", "--no-such"], "unrecognized arguments: --no-such (see `nmcompile env --help`)"),
        (["evl", "engine"], "no file and no command is called 'evl'; did you mean"),
        ([], "no network and no command given"),
        (["model.pt2", "-o", "engine", "--no-such"], "unrecognized arguments: --no-such"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_1(words, said, capsys):
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"nmcompile: error: {said}")
    assert captured.err.count("\n") == 1


def test_compile_may_be_left_out():
    short, _ = cli.parse(["model.pt2", "-o", "engine"])
    whole, _ = cli.parse(["compile", "model.pt2", "-o", "engine"])
    assert short is whole


def test_a_mistake_is_one_line_without_traceback(capsys, monkeypatch):
    def fail(args):
        raise NmcompileError("this was found,\nthat was expected")

    monkeypatch.setattr(env, "execute", fail)
    assert main(["env"]) == 1
    assert capsys.readouterr().err == "nmcompile: error: this was found, that was expected\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr(env, "execute", fail)
    with pytest.raises(ZeroDivisionError):
        main(["env"])


def test_an_interrupt_is_one_line_and_exit_130(capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "execute", interrupt)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == "nmcompile: interrupted\n"


def test_a_reader_that_left_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "nmcompile", "env"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
