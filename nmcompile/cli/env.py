"""This machine and this installation -> what a bug report or a puzzled user needs to know.

With `--json`, one document: `nmcompile` and `python` (versions), `platform`, `packages` (name ->
version, null where not installed), `onnxruntime_providers`, `cpu` (`name`, `features`, `cores`,
`threads`), `ram_bytes`, `build` (`components`: name -> `state` on/off and `reason`; and, where the
library is built, its `version`, `compiler`, `flags`, `build_type`, `system`), `cache` (a folder).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from importlib import metadata
from typing import Any

import nmcompile
from nmcompile.cache import cache_folder
from nmcompile.errors import NmcompileError

# What is shown -> the distributions that may provide it.
_PACKAGES = {
    "torch": ("torch",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `nmcompile env`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(args: argparse.Namespace) -> int:
    """Prints the environment."""
    facts = environment()
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    return 0


def environment() -> dict[str, Any]:
    """The document that `nmcompile env --json` prints."""
    return {
        "nmcompile": nmcompile.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(candidates) for name, candidates in _PACKAGES.items()},
        "onnxruntime_providers": _providers(),
        "cpu": _cpu(),
        "ram_bytes": _ram_bytes(),
        "build": _build(),
        "cache": str(cache_folder()),
    }


def _version(candidates: tuple[str, ...]) -> str | None:
    for name in candidates:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _providers() -> list[str]:
    """What ONNX Runtime can run on; empty if it is not installed."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _cpu() -> dict[str, Any]:
    import psutil

    from nmcompile.runtime import native

    try:
        name, features = native.cpu_name(), list(native.cpu_features())
    except NmcompileError:  # _build tells why
        name, features = platform.processor() or platform.machine(), []
    return {
        "name": name,
        "features": features,
        "cores": psutil.cpu_count(logical=False),
        "threads": len(os.sched_getaffinity(0)),
    }


def _ram_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _build() -> dict[str, Any]:
    from nmcompile.runtime import native

    try:
        native.library()
        return native.build_info()
    except NmcompileError as error:
        return {"components": {"libnmk": {"state": "off", "reason": str(error)}}}


def _text(facts: dict[str, Any]) -> str:
    cpu, build = facts["cpu"], facts["build"]
    rows = [("nmcompile", facts["nmcompile"]), ("python", facts["python"])]
    rows += [(name, found or "not installed") for name, found in facts["packages"].items()]
    rows += [
        ("providers", ", ".join(facts["onnxruntime_providers"]) or "none"),
        ("platform", facts["platform"]),
        ("cpu", f"{cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads for this process"),
        ("isa", " ".join(cpu["features"]) or "nothing beyond the baseline is known"),
        ("ram", f"{facts['ram_bytes'] / 2**30:.1f} GiB"),
    ]
    if "compiler" in build:
        rows.append(("built with", f"{build['compiler']}, {build['build_type']}, {build['flags']}"))
    rows += [(name, _state(part)) for name, part in build["components"].items()]
    rows.append(("cache", facts["cache"]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _state(part: dict[str, str]) -> str:
    return f"{part['state']}: {part['reason']}" if part["reason"] else part["state"]
