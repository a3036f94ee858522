"""PyTorch image-restoration networks -> smaller, faster engines, by layer-wise N:M sparsity.

The names below are the whole public API. Each is loaded when it is first used, so that
`import nmcompile` and `import nmcompile.runtime` cost nothing and never import torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmcompile.capture import capture
    from nmcompile.compile import compile
    from nmcompile.errors import NmcompileError
    from nmcompile.evaluate import evaluate
    from nmcompile.pattern import Pattern
    from nmcompile.plan import Plan
    from nmcompile.runtime import load
    from nmcompile.runtime.custom_ops import custom_ops_library
    from nmcompile.tasks import Task
    from nmcompile.transform import analyze, assign, prepare, prune

__version__ = "0.1.0"

__all__ = [
    "NmcompileError",
    "Pattern",
    "Plan",
    "Task",
    "analyze",
    "assign",
    "capture",
    "compile",
    "custom_ops_library",
    "evaluate",
    "load",
    "prepare",
    "prune",
]

_HOME = {
    "NmcompileError": "errors",
    "Pattern": "pattern",
    "Plan": "plan",
    "Task": "tasks",
    "analyze": "transform",
    "assign": "transform",
    "capture": "capture",
    "compile": "compile",
    "custom_ops_library": "runtime.custom_ops",
    "prepare": "transform",
    "evaluate": "evaluate",
    "load": "runtime",
    "prune": "transform",
}


class _Package(ModuleType):
    """Keeps a function such as `nmcompile.capture` from being hidden by its module.

    Importing the submodule `nmcompile.capture` binds it as an attribute of the package, over
    the function of the same name; whichever came last would win.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    """Imports a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
