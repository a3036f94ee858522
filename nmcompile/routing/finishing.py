"""Levels and a trained head -> both trained together by their soft mixture, if that helps.

The third stage of ClassSR (Kong et al., CVPR 2021): all levels run, the output is their sum
weighted by the head's soft shares, and the loss reaches head and levels alike.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nmcompile.context import Context
from nmcompile.convs import get_tensor, set_tensor
from nmcompile.passes.insert_routing import HEAD, SHARES, insert_routing
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.routing.head import Head, head_program
from nmcompile.routing.heading import Headed, fit, measured
from nmcompile.routing.learning import AVERAGE, CLASS, SHARPNESS
from nmcompile.routing.losses import average_loss, class_loss
from nmcompile.routing.nested import Nested
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches
from nmcompile.training.network import Trainable
from nmcompile.training.policy import FixedPolicy
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import Trained, train

JOINT = "joint"  # folder of this stage's checkpoints
_SCALE = 0.01  # of the head's losses beside distances of 0..1, as of ClassSR's 1000 : 0.5 : 3


def finish_jointly(
    nested: Nested,
    times: Sequence[float],
    headed: Headed,
    dense: Program,
    data: Patches,
    recipe: Recipe,
    ctx: Context,
) -> tuple[Nested, Headed]:
    """Trains levels and head together at effort 0.5, then the head on the errors that are left.

    Args:
        nested: the levels.
        times: of the levels, increasing.
        headed: their head, calibrated.
        dense: the network whose output is distilled.
        data: patches of the window's size.
        recipe: how; checkpoints go to the folder `joint` in its own.
        ctx: task, validation images and reporter.

    Returns:
        What is better on held-out windows at the same average cost: levels and head as they were
        given or as they are now. The head's facts and notes say which.

    Raises:
        NmcompileError: as of nmcompile.training.trainer.train.
    """
    recipe = _own(recipe)
    offsets = -headed.bias[len(headed.bias) // 2] * np.asarray(times)
    scored = head_program(headed.head, nested, folded=False)
    mixed = insert_routing(nested, scored, offsets.tolist(), "mixture", SHARPNESS)
    policy = RoutingPolicy(mixed.the_plan, headed.facts["held_out"]["shares"])
    trained = train(mixed, policy, dense, data, recipe, ctx)
    levels = _levels_of(nested, trained.program)
    head = _head_of(headed.head, trained.program)
    windows = measured(levels, data, recipe, ctx, headed.facts["window"])
    finished = fit(head, levels, times, windows, recipe, ctx)
    return _better((nested, headed), (levels, finished), trained)


class RoutingPolicy(FixedPolicy):
    """Masks stay as they are; the soft shares of a batch are drawn to the wanted ones."""

    def __init__(self, plan: Plan, shares: Sequence[float]) -> None:
        """Args: plan: of the last level; shares: of windows that each level is to get."""
        super().__init__(plan)
        self._wanted = torch.tensor(shares)
        self._soft: Tensor | None = None

    def begin(self, network: Trainable) -> None:
        """Watches the shares that the mixture is made of."""
        network.module.get_submodule(SHARES).register_forward_hook(self._see)

    def penalty(self) -> Tensor | float:
        """ClassSR's class and average losses of the last batch."""
        assert self._soft is not None
        soft = self._soft.flatten(1).float()
        wanted = self._wanted.to(soft.device)
        return _SCALE * (CLASS * class_loss(soft) + AVERAGE * average_loss(soft, wanted))

    def describe(self) -> str:
        """The soft shares of the last batch."""
        if self._soft is None:
            return ""
        shares = self._soft.detach().mean((0, 2, 3)).tolist()
        return "levels " + "/".join(f"{share:.0%}" for share in shares)

    def _see(self, module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        self._soft = output


def _own(recipe: Recipe) -> Recipe:
    """The recipe with a folder of its own, which is resumed if there is anything in it.

    The mixture has each layer several times, so that there is none to compare with the teacher's.
    """
    recipe = dataclasses.replace(recipe, features=0.0)
    if recipe.checkpoint is None:
        return dataclasses.replace(recipe, resume=False)
    folder = recipe.checkpoint / JOINT
    there = (folder / checkpoint.STATE).is_file()
    return dataclasses.replace(recipe, checkpoint=folder, resume=recipe.resume and there)


def _levels_of(nested: Nested, program: Program) -> Nested:
    """The levels with the weights that the mixture was trained to."""
    module = nested.program.clone_module()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            set_tensor(module, name, get_tensor(program.module, name))
    return dataclasses.replace(nested, program=nested.program.with_module(module))


def _head_of(head: Head, program: Program) -> Head:
    """The head with the weights that the mixture was trained to."""
    found = copy.deepcopy(head)
    names = found.state_dict()
    found.load_state_dict({name: get_tensor(program.module, HEAD + name) for name in names})
    return found


def _better(
    before: tuple[Nested, Headed], after: tuple[Nested, Headed], trained: Trained
) -> tuple[Nested, Headed]:
    """The pair whose windows are better at the same average cost, and a word on it."""
    psnrs = [pair[1].facts["held_out"]["psnr"] for pair in (before, after)]
    kept = after if psnrs[1] > psnrs[0] else before
    facts = {"steps": trained.steps, "before": psnrs[0], "after": psnrs[1]}
    notes = kept[1].notes
    if kept is before:
        said = f"took held-out windows from {psnrs[0]:.2f} to {psnrs[1]:.2f} dB"
        notes += (f"training levels and head together {said}; they are as they were",)
    headed = dataclasses.replace(kept[1], facts={**kept[1].facts, "joint": facts}, notes=notes)
    return kept[0], headed
