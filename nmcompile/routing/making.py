"""A dense network, images and `--route` -> trained levels and a trained head, and their manifest.

The stages: levels are pruned, and trained jointly where training is asked for; a head learns on the
frozen levels which one a window deserves; where training is asked for, both finish it together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nmcompile.context import Context
from nmcompile.data import Source
from nmcompile.engine import Routing
from nmcompile.errors import NmcompileError
from nmcompile.finetuning import started, training_patches
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.routing.finishing import finish_jointly
from nmcompile.routing.fitting import fit_levels
from nmcompile.routing.head import head_program
from nmcompile.routing.heading import Headed, train_head
from nmcompile.routing.nested import Nested
from nmcompile.routing.pacing import level_times
from nmcompile.routing.spec import RouteSpec
from nmcompile.runtime.routing import default_window, offsets_of
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches
from nmcompile.training.nested import train_levels
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import Trained

_JOINT = 0.05  # of a training's length, in which levels and head finish it together


@dataclass(frozen=True)
class Adaptive:
    """What an input-adaptive engine is made of.

    Attributes:
        nested: the levels.
        headed: the head that chooses one, and how it decides.
        routing: as the manifest has it.
    """

    nested: Nested
    headed: Headed
    routing: Routing

    @property
    def head(self) -> Program:
        """An image [N, C, h, w] -> K scores and the difficulty, [N, K + 1, 1, 1]."""
        return head_program(self.headed.head, self.nested)

    @property
    def offsets(self) -> list[float]:
        """What is added to the scores at the engine's own effort, one a level."""
        offsets: list[float] = offsets_of(self.routing, self.routing.effort).tolist()
        return offsets


def check_routable(spec: RouteSpec, program: Program, ctx: Context) -> None:
    """Raises NmcompileError for networks and targets that cannot switch levels."""
    if program.interface.fixed_size:
        height, width = program.interface.fixed_size
        raise NmcompileError(
            f"--route {spec}: the archive was exported for {height}x{width} only, and a level is "
            "chosen for windows of other sizes; export it with dynamic_shapes"
        )
    if ctx.target.executor == "tensorrt":
        raise NmcompileError(
            f"--route {spec}: TensorRT engines have one level; give --target cpu or onnx"
        )
    if ctx.target.name != "onnx" and ctx.target.executor != "native":
        raise NmcompileError(
            f"--route {spec}: only a network that libnmk runs as a whole can switch levels on the "
            f"CPU ({ctx.target.note or ctx.target.name}); give --target onnx"
        )


def train_all_levels(
    dense: Program,
    make: Callable[[], Nested],
    source: Source,
    recipe: Recipe,
    spec: RouteSpec,
    ctx: Context,
    world: World,
) -> tuple[Nested, Trained]:
    """Prunes and trains the levels; all processes of `world` make this call, rank 0 alone prunes.

    Args:
        dense: the cleaned program.
        make: prunes; not called where a run is resumed.
        source: images.
        recipe: with_checkpoint.
        spec: what the levels may cost.
        ctx: target, task, validation images.
        world: the processes that train.
    """
    data = training_patches(source, recipe, ctx, dense.interface, world)

    def start() -> dict[str, Any]:
        nested = make()
        return _pack(fit_levels(nested, dense, ctx) if ctx.prune_method == "obs" else nested)

    packed = started(start, f"--route {spec}", dense, source, recipe, ctx, world)
    first = _part(recipe, 1 - _JOINT)
    return train_levels(_unpack(dense, packed), dense, data, first, ctx, world)


def make_adaptive(
    dense: Program,
    nested: Nested,
    source: Source,
    recipe: Recipe | None,
    spec: RouteSpec,
    ctx: Context,
) -> Adaptive:
    """Trains a head on levels, and finishes both together.

    Args:
        dense: the cleaned program.
        nested: its levels.
        source: images; those that validate are not trained on.
        recipe: of the whole training; None: the levels stay as they were pruned, and only the head
            is trained, which is short and always the same.
        spec: what a level is chosen for, and the default effort.
        ctx: task, reporter.
    """
    interface = dense.interface
    window, overlap = default_window(interface.scale)
    own = recipe or Recipe(steps=1)
    data = Patches(source, ctx.calibration.validation, ctx.task, interface, window, own.seed)
    times = level_times(nested, ctx)
    headed = train_head(nested, times, data, own, ctx, window)
    if recipe is not None:
        # As many pixels a step as before: a window is larger than a patch.
        batch = max(2, round(recipe.batch * (recipe.patch / window) ** 2))
        last = dataclasses.replace(_part(recipe, _JOINT), batch=batch)
        nested, headed = finish_jointly(nested, times, headed, dense, data, last, ctx)
    for note in headed.notes:
        ctx.reporter.note(f"note: {note}")
    by_tile = spec.by == "tile"
    routing = Routing(
        by=spec.by,
        tile=window if by_tile else 0,
        overlap=overlap if by_tile else 0,
        costs=nested.costs,
        times=times,
        head_cost=headed.cost,
        bias=headed.bias,
        effort=headed.effort if spec.effort is None else spec.effort,
    )
    return Adaptive(nested, headed, routing)


def _part(recipe: Recipe, share: float) -> Recipe:
    """The recipe for a share of its length."""
    if recipe.seconds is not None:
        return dataclasses.replace(recipe, seconds=share * recipe.seconds)
    assert recipe.steps is not None
    return dataclasses.replace(recipe, steps=max(1, round(share * recipe.steps)))


def _pack(nested: Nested) -> dict[str, Any]:
    return {
        **checkpoint.pack(nested.program),
        "least": dict(nested.least),
        "plans": [plan.to_json() for plan in nested.plans],
    }


def _unpack(dense: Program, content: dict[str, Any]) -> Nested:
    plans = tuple(Plan.from_json(text, "the checkpoint's plan") for text in content["plans"])
    return Nested(checkpoint.unpack(dense, content), content["least"], plans)
