"""The state of a training run <-> one file, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from nmcompile.convs import get_tensor, set_tensor, weight_uses
from nmcompile.errors import NmcompileError
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.training.recipe import Recipe

STATE, START = "state.pt", "start.pt"

# May change between a run and the one that resumes it.
_FREE = ("lr", "checkpoint", "checkpoint_seconds", "resume", "tensorboard", "device")


def digest(program: Program, recipe: Recipe) -> str:
    """Equal for the same graph, weights, patterns and recipe (its learning rate apart)."""
    fields = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in _FREE}
    found = hashlib.sha256(f"{program.module.graph}{sorted(fields.items())}".encode())
    if program.plan is not None:
        found.update(repr([(x.name, str(x.pattern)) for x in program.plan.layers]).encode())
    _add_weights(program, found)
    return found.hexdigest()


def weights_digest(program: Program) -> str:
    """Equal for equal weights of equal names."""
    found = hashlib.sha256()
    _add_weights(program, found)
    return found.hexdigest()


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values to a file.

    Raises:
        OSError: it cannot be written; what stood there is as it was.
    """
    stream = io.BytesIO()
    torch.save(content, stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(stream.getbuffer())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Reads what `write` wrote; never runs code from the file."""
    if not path.is_file():
        raise NmcompileError(f"{path.parent} holds no checkpoint to resume; leave out --resume")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise NmcompileError(f"{path} is damaged; remove it and start without --resume") from None
    return content


def read_for(path: Path, wanted: str) -> dict[str, Any]:
    """A checkpoint whose digest is `wanted`; raises NmcompileError for another run's."""
    content = read(path)
    if content.get("digest") != wanted:
        raise NmcompileError(
            f"{path} is the checkpoint of another model, data, plan or recipe; repeat the command "
            "that made it, or remove it and start without --resume"
        )
    return content


def pack(program: Program) -> dict[str, Any]:
    """A pruned program's plan and weights, without the graph."""
    names = _tensors(program)
    return {
        "plan": program.the_plan.to_json(),
        "weights": {name: get_tensor(program.module, name).cpu() for name in names},
    }


def unpack(dense: Program, content: dict[str, Any]) -> Program:
    """The dense program it was pruned from -> the pruned program that was packed."""
    weights, names = content["weights"], _tensors(dense)
    shapes = {name: get_tensor(dense.module, name).shape for name in names}
    if shapes != {name: value.shape for name, value in weights.items()}:
        raise NmcompileError(
            "the checkpoint is of another model: its weights have other names or shapes; start "
            "without --resume"
        )
    module = dense.clone_module()
    for name, value in weights.items():
        set_tensor(module, name, value)
    plan = Plan.from_json(content["plan"], "the checkpoint's plan")
    facts = dense.facts | {"costs", "latency", "patterns", "pruned"}
    return Program(module, dense.interface, plan, facts)


def _add_weights(program: Program, digest: hashlib._Hash) -> None:
    for name, value in sorted(program.module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())


def _tensors(program: Program) -> list[str]:
    return list(weight_uses(program.module))
