"""A model file (and an architecture) -> an eager module or an ExportedProgram, opened safely."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import pickle
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from nmcompile.errors import NmcompileError

Model = nn.Module | ExportedProgram
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "generator")
_NEEDS_ARCH = (
    "it needs its architecture: --arch package.module:factory[?key=value,...], a function or class "
    "that returns the nn.Module; or save the whole network with "
    "torch.export.save(torch.export.export(model, (example,)), 'model.pt2')"
)
_RUNS_CODE = "opening it runs code from the file. If you trust its author add --trust-pickle"
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# What torch.export writes of image sizes: sums and products of symbols.
_ARITHMETIC = (
    ast.Expression, ast.Constant, ast.Name, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context,
)  # fmt: skip


def load_model(path: Path, arch: str | None = None, trust_pickle: bool = False) -> Model:
    """Opens `.pt2` archives, state dicts (`.pt`, `.pth`, `.safetensors`) and trusted pickles.

    Raises:
        NmcompileError: unreadable, foreign or truncated file; missing or unfitting arch; a
            pickled module without `trust_pickle`; weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise NmcompileError(f"{path}: no such file; expected a .pt2, .pt, .pth or .safetensors")
    kind = _kind(path)
    if kind == "pt2":
        model: Model = _load_archive(path, trust_pickle)
    elif kind == "safetensors":
        model = _build(_load_safetensors(path), arch, path)
    else:
        content = _load_torch(path, trust_pickle)
        model = content if isinstance(content, nn.Module) else _build(content, arch, path)
    _check_finite(model, path)
    return model.eval() if isinstance(model, nn.Module) else model


def _kind(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(16)
    if len(head) == 0:
        raise NmcompileError(f"{path}: the file is empty")
    if zipfile.is_zipfile(path):
        names = _intact_names(path)
        if "archive_format" in names or any(name.startswith("models/") for name in names):
            return "pt2"
        if "constants.pkl" in names and any(name.startswith("code/") for name in names):
            raise NmcompileError(
                f"{path} is TorchScript, which nmcompile does not read; save the original module "
                "with torch.export.save(torch.export.export(model, (example,)), 'model.pt2')"
            )
        if "data.pkl" in names:
            return "torch"
        raise NmcompileError(f"{path} is a zip archive, but not one that PyTorch wrote")
    if head[:4] == b"PK\x03\x04":
        raise NmcompileError(f"{path} is truncated (a zip archive without its end); copy it again")
    if path.suffix == ".safetensors":
        return "safetensors"
    if head[:1] == b"\x80":
        return "torch"
    found = "an ONNX file" if path.suffix == ".onnx" else "not a file that PyTorch wrote"
    raise NmcompileError(f"{path} is {found}; expected .pt2, a state dict or .safetensors")


def _intact_names(path: Path) -> set[str]:
    """The names in a zip archive, less its top folder, once all checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if item.CRC:  # torch.serialization.set_crc32_options(False) leaves none
                    archive.read(item)
            return {name.split("/", 1)[-1] for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise NmcompileError(f"{path} is damaged ({_first_line(error)}); copy it again") from None


def _load_archive(path: Path, trust_pickle: bool) -> ExportedProgram:
    if not trust_pickle:
        _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"), _without_code(not trust_pickle):
            exported = torch.export.load(path)
    except pickle.UnpicklingError:
        raise NmcompileError(f"{path} holds a pickled Python object: {_RUNS_CODE}") from None
    except Exception as error:
        raise NmcompileError(
            f"{path}: cannot read the torch.export archive ({_first_line(error)}); save it again "
            f"with torch {torch.__version__.split('+')[0]} or an older one"
        ) from error
    exported._guards_code = []  # Python text; the runtime checks sizes by itself
    return exported


@contextmanager
def _without_code(wanted: bool) -> Iterator[None]:
    """torch.export.load opens pickles that it cannot open safely unsafely, unless told not to."""
    before = os.environ.get(_WEIGHTS_ONLY)
    if wanted:
        os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        os.environ.pop(_WEIGHTS_ONLY, None)
        if before is not None:
            os.environ[_WEIGHTS_ONLY] = before


def _check_archive(path: Path) -> None:
    """Raises NmcompileError for what torch.export.load would run: objects and expressions."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        documents = [reader.get_record(name) for name in names if name.endswith(".json")]
        expressions: list[str] = []
        for document in documents:
            json.loads(document, object_hook=lambda x: expressions.append(x.get("expr_str", "0")))
    except (RuntimeError, ValueError) as error:
        raise NmcompileError(f"{path} is damaged ({_first_line(error)}); copy it again") from None
    objects = [name for name in names if re.search("/(custom|opaque)_obj", name.lower())]
    if objects:
        raise NmcompileError(f"{path} holds a pickled Python object ({objects[0]}): {_RUNS_CODE}")
    for text in expressions:
        if not _is_arithmetic(text):
            raise NmcompileError(f"{path} has code ({text[:60]!r}) for a size: {_RUNS_CODE}")


def _is_arithmetic(text: str) -> bool:
    """Whether text, which torch gives to eval, only combines numbers and symbols."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError):
        return False
    return all(
        isinstance(node, _ARITHMETIC)
        and (not isinstance(node, ast.Call) or _makes_symbol(node.func))
        and (not isinstance(node, ast.Constant) or bool(re.fullmatch(r"[\w.+-]*", str(node.value))))
        for node in nodes
    )


def _makes_symbol(function: ast.expr) -> bool:
    """sympy's classes begin with a capital; Python's functions that do harm do not."""
    if not isinstance(function, ast.Name):
        return False
    return function.id[0].isupper() or function.id in ("ceiling", "floor")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        raise NmcompileError(
            f"{path}: not a safetensors file ({_first_line(error)}); copy it again"
        ) from error


def _load_torch(path: Path, trust_pickle: bool) -> Any:
    if trust_pickle:
        _import_from_here()
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if not trust_pickle and (zipfile.is_zipfile(path) or "global" in str(error).lower()):
            raise NmcompileError(
                f"{path} is a pickled Python object: {_RUNS_CODE}; better, save a .pt2 archive "
                "(torch.export.save) or a state dict and give --arch"
            ) from None
        raise NmcompileError(f"{path} is damaged, or no file that torch.save wrote") from None
    except Exception as error:
        raise NmcompileError(f"{path}: cannot read it ({_first_line(error)})") from error


def _build(content: Any, arch: str | None, path: Path) -> nn.Module:
    state = _state_dict(content, path)
    if arch is None:
        raise NmcompileError(
            f"{path} holds {len(state)} weight tensors but not the network itself: {_NEEDS_ARCH}"
        )
    model = make_architecture(arch)
    faults = _misfits(model.state_dict(), state)
    if faults:
        raise NmcompileError(
            f"{path} does not fit --arch {arch}: {faults[0]}"
            + (f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else "")
        )
    floating = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(floating)
    return model


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        wrapped = next((k for k in _WRAPPERS if isinstance(content, dict) and k in content), None)
        if wrapped and isinstance(content[wrapped], dict):
            content = content[wrapped]
    if not isinstance(content, dict) or not content:
        raise NmcompileError(
            f"{path} holds {type(content).__name__}; expected a state dict (name -> tensor)"
        )
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if len(tensors) < len(content):
        odd = next(str(k) for k, v in content.items() if not isinstance(v, Tensor))
        raise NmcompileError(f"{path}: entry {odd!r} is no tensor; expected a plain state dict")
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


def _misfits(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    # Files from before torch 0.4.1 lack this counter, which inference does not need.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    faults = [f"weight {name} is missing in the file" for name in needed if name not in found]
    faults += [f"weight {name} is not in the architecture" for name in found if name not in wanted]
    faults += [
        f"weight {name} is {tuple(found[name].shape)}, the architecture has {tuple(w.shape)}"
        for name, w in wanted.items()
        if name in found and found[name].shape != w.shape
    ]
    return faults


def make_architecture(arch: str) -> nn.Module:
    """`package.module:factory[?key=value,...]` -> the module that factory returns."""
    place, _, query = arch.partition("?")
    module_name, _, factory_name = place.partition(":")
    if not module_name or not factory_name:
        raise NmcompileError(
            f"--arch {arch!r}: expected package.module:factory[?key=value,...], "
            "for example basicsr.archs.rrdbnet_arch:RRDBNet?num_block=6"
        )
    arguments = _arguments(query, arch)
    _import_from_here()
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:
        raise NmcompileError(
            f"--arch {arch}: cannot import it ({_described(error)}); the module must be "
            "importable from the current folder or installed"
        ) from error
    if not callable(factory):
        raise NmcompileError(f"--arch {arch} is a {type(factory).__name__}; expected a function")
    try:
        model = factory(**arguments)
    except Exception as error:
        raise NmcompileError(
            f"--arch {arch}: it fails ({_described(error)}); it takes {_parameters(factory)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise NmcompileError(
            f"--arch {arch} returned {type(model).__name__}; expected a torch.nn.Module"
        )
    return model.eval()


def _import_from_here() -> None:
    """Makes modules of the current folder importable, as they are for `python -m`."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def _parameters(factory: Any) -> str:
    try:
        return ", ".join(inspect.signature(factory).parameters) or "no arguments"
    except (TypeError, ValueError):
        return "arguments that it does not tell"


def _arguments(query: str, arch: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for item in filter(None, query.split(",")):
        key, equals, text = item.partition("=")
        if not equals:
            raise NmcompileError(f"--arch {arch}: {item!r} is not key=value")
        arguments[key.strip()] = _literal(text.strip())
    return arguments


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _check_finite(model: Model, path: Path) -> None:
    for name, value in (
        model.state_dict.items()
        if isinstance(model, ExportedProgram)
        else model.state_dict().items()
    ):
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise NmcompileError(
                f"{path}: weight {name} has {bad} values that are NaN or infinite; "
                "the network is damaged or its training diverged"
            )


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
