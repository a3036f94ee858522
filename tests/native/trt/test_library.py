"""The plugin's libraries -> who may load them, and where their log goes without TensorRT's."""

import subprocess
import sys

from nmcompile.cli.env import environment

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


def test_build_says_which_plugins_it_has_or_why_none():
    parts = environment()["build"]["components"]
    found = {name: part for name, part in parts.items() if name.startswith("libnmk_trt")}
    assert found
    for part in found.values():
        assert part["state"] == "on" or part["reason"]

