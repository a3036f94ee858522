"""A dense program and what prunes it -> the pruned program, fine-tuned, and how that went."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nmcompile.context import Context
from nmcompile.data import Source
from nmcompile.errors import NmcompileError
from nmcompile.masks import Masks
from nmcompile.program import Interface, Program
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe
from nmcompile.training.scalars import check_tensorboard
from nmcompile.training.trainer import Trained, train

_LEFT_OUT = ("checkpoint", "checkpoint_seconds", "resume", "tensorboard", "precision", "device")


def with_checkpoint(recipe: Recipe, output: Path) -> Recipe:
    """The recipe with a folder for its checkpoints: beside the engine where none was named.

    Raises:
        NmcompileError: there is nothing to resume, or something that would be overwritten;
            scalars are asked for and cannot be written.
    """
    folder = recipe.checkpoint or _beside(output)
    state = folder / checkpoint.STATE
    if recipe.resume and not state.is_file():
        raise NmcompileError(f"{folder} holds no checkpoint to resume; leave out --resume")
    if state.is_file() and not recipe.resume:
        raise NmcompileError(
            f"{folder} holds a checkpoint already: go on with --resume, or remove that folder"
        )
    if recipe.tensorboard:
        check_tensorboard(recipe.tensorboard)
    return dataclasses.replace(recipe, checkpoint=folder)


def remove_checkpoint(recipe: Recipe, output: Path) -> None:
    """Removes the checkpoints of a run that ended, unless the user chose the place for them."""
    if recipe.checkpoint == _beside(output):
        shutil.rmtree(recipe.checkpoint, ignore_errors=True)


def fine_tune(
    dense: Program,
    prune: Callable[[], Program],
    source: Source,
    recipe: Recipe,
    ctx: Context,
    world: World,
    masks: Masks,
) -> Trained:
    """Prunes and trains; all processes of `world` make this call, rank 0 alone prunes.

    Args:
        dense: the cleaned program; its output is distilled.
        prune: makes the pruned program; not called where a run is resumed.
        source: images; those that validate are not trained on.
        recipe: how to train, with_checkpoint.
        ctx: target, task, validation images.
        world: the processes that train.
        masks: what becomes of them.
    """
    data = training_patches(source, recipe, ctx, dense.interface, world)
    start = checkpoint.unpack(
        dense,
        started(lambda: checkpoint.pack(prune()), str(masks), dense, source, recipe, ctx, world),
    )
    policy = masks.policy(start, dense, ctx, recipe, world)
    return train(start, policy, dense, data, recipe, ctx, world)


def training_patches(
    source: Source, recipe: Recipe, ctx: Context, interface: Interface, world: World
) -> Patches:
    """The patches that a recipe asks for; says which images are too small for them."""
    data = Patches(
        source, ctx.calibration.validation, ctx.task, interface, recipe.patch, recipe.seed
    )
    if data.too_small and world.rank == 0:
        ctx.reporter.note(
            f"note: {len(data.too_small)} training images are smaller than a patch and left out "
            f"(the first is {data.too_small[0]})"
        )
    world.share(recipe.batch)
    return data


def started(
    make: Callable[[], dict[str, Any]],
    what: str,
    dense: Program,
    source: Source,
    recipe: Recipe,
    ctx: Context,
    world: World,
) -> dict[str, Any]:
    """What training starts from: made by rank 0, or a checkpoint's for the same; told to all.

    Args:
        make: prunes and packs; not called where a run is resumed.
        what: is trained, besides what the other arguments say.
        dense: the cleaned program.
        source: images.
        recipe: with_checkpoint.
        ctx: task and budget.
        world: the processes that train.
    """
    # The plan of a network with other weights, images, budget or way to masks would still fit.
    names = hashlib.sha256("\n".join(source.names).encode()).hexdigest()
    asked = f"{checkpoint.weights_digest(dense)} {names} {ctx.task} {ctx.budget} {what}"
    return world.made(lambda: _start(make, recipe, ctx, asked))


def training_facts(trained: Trained, recipe: Recipe, world: World) -> dict[str, Any]:
    """What the receipt says of a training run."""
    fields = dataclasses.asdict(recipe)
    return {
        "steps": trained.steps,
        "seconds": round(trained.seconds, 1),
        "processes": world.size,
        "start_psnr": _finite(trained.start_psnr),
        "best_psnr": _finite(trained.best_psnr),
        "best_step": trained.best_step,
        "precision": "bf16" if trained.bf16 else "fp32",
        "masks": trained.masks,
        "recipe": {k: v for k, v in fields.items() if k not in _LEFT_OUT and v is not None},
        "curve": [dataclasses.asdict(point) for point in trained.curve],
    }


def _start(
    make: Callable[[], dict[str, Any]], recipe: Recipe, ctx: Context, asked: str
) -> dict[str, Any]:
    """What training starts from: a checkpoint's for the same, or made."""
    assert recipe.checkpoint is not None
    path = recipe.checkpoint / checkpoint.START
    if recipe.resume:
        return checkpoint.read_for(path, asked)
    packed = {"digest": asked, **make()}
    try:
        checkpoint.write(path, packed)
    except OSError as error:
        ctx.reporter.note(
            f"note: {path.parent} cannot be written ({error.strerror or error}): "
            "this run leaves no checkpoint; name another folder with --checkpoint"
        )
    return packed


def _beside(output: Path) -> Path:
    output = output.absolute()
    return output.with_name(f".{output.name}.training")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
