"""The plugin's libraries -> who may load them, and where their log goes without TensorRT's."""

import re
import subprocess
import sys

import pytest

import nmcompile
from nmcompile.cli.env import environment
from nmcompile.errors import NmcompileError
from nmcompile.runtime import native
from nmcompile.runtime.native import trt_plugin

_LOAD = """
import ctypes, sys
for path in sys.argv[1:]:
    library = ctypes.CDLL(path)
    if "libnvinfer" in path:
        registry = library
try:
    registry.registry_text.restype = ctypes.c_char_p
    print(registry.registry_text().decode(), end="")
except NameError:
    pass
"""


def _load(*paths):
    command = [sys.executable, "-c", _LOAD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_loading_registers_in_the_tensorrt_that_is_there(libraries):
    assert _load(libraries.nvinfer, libraries.registering) == ("NMConv in nmcompile\n", "")


def test_loading_the_plugin_alone_registers_nothing(libraries):
    """IPluginRegistry::loadLibrary refuses what is registered already."""
    assert _load(libraries.nvinfer, libraries.plugin) == ("", "")


def test_loading_without_tensorrt_is_one_line(libraries, major):
    _, said = _load(libraries.registering)
    assert said.startswith(f"nmcompile: found no libnvinfer.so.{major} in this process; load it")
    assert said.count("\n") == 1


def test_log_is_standard_error_without_a_logger(libraries):
    code = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "library.setLoggerFinder(None)\n"
        "harness = ctypes.CDLL(sys.argv[2])\n"
        "harness.harness_open(sys.argv[1].encode())\n"
        "library.setLoggerFinder(None)\n"
        "assert not harness.harness_create(b'node_7', None, 0, 0)\n"
    )
    command = [sys.executable, "-c", code, str(libraries.plugin), str(libraries.harness)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("nmcompile: layer node_7: found no field")
    assert done.stderr.count("\n") == 1


def test_plugin_of_this_version_is_accepted(libraries, major, monkeypatch):
    monkeypatch.setattr(nmcompile, "__version__", "0.0.1")
    assert trt_plugin.checked(libraries.plugin, major) == libraries.plugin


def test_plugin_for_another_tensorrt_is_refused(libraries, major):
    with pytest.raises(NmcompileError, match=f"for TensorRT {major}, TensorRT 9 is needed; build"):
        trt_plugin.checked(libraries.plugin, 9)


def test_plugin_of_another_nmcompile_is_refused(libraries, major):
    wanted = re.escape(f"is of nmcompile 0.0.1, this is {nmcompile.__version__}; build it")
    with pytest.raises(NmcompileError, match=wanted):
        trt_plugin.checked(libraries.plugin, major)


def test_library_that_is_no_plugin_is_refused(libraries, major):
    with pytest.raises(NmcompileError, match=r"libharness\.so does not load"):
        trt_plugin.checked(libraries.harness, major)


def test_build_says_which_plugins_it_has_or_why_none():
    parts = environment()["build"]["components"]
    found = {name: part for name, part in parts.items() if name.startswith("libnmk_trt")}
    assert found
    for name, part in found.items():
        if part["state"] == "on":
            assert trt_plugin.plugin_library(int(name.removeprefix("libnmk_trt"))).is_file()
        else:
            assert part["reason"]


def test_missing_plugin_says_why(monkeypatch):
    info = {"components": {"libnmk_trt": {"state": "off", "reason": "no nvcc was found"}}}
    monkeypatch.setattr(native, "__path__", [])
    monkeypatch.setattr(native, "build_info", lambda: info)
    wanted = r"TensorRT 11, was not found \(libnmk_trt: no nvcc was found\); build it with"
    with pytest.raises(NmcompileError, match=wanted):
        trt_plugin.plugin_library(11)
