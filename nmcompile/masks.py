"""What is asked of masks in training -> what training starts from, its policy, what it ends in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from nmcompile.budget import Budget
from nmcompile.context import Context
from nmcompile.errors import NmcompileError
from nmcompile.passes import analyze_cost
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.program import Program
from nmcompile.reassign import ReassignPolicy
from nmcompile.search import check_search, family_of_search, priced, settled, sls_policy
from nmcompile.training.parallel import World
from nmcompile.training.policy import FixedPolicy, Policy
from nmcompile.training.recipe import Recipe
from nmcompile.training.sr_ste import SrStePolicy

SEARCHES = "sensitivity, sls (groups of 32), sls:M or sls:VxM, as in sls:16 or sls:8x16k"


@dataclass(frozen=True)
class Masks:
    """How patterns and masks come about where a network is trained.

    Attributes:
        search: the family among whose patterns SLS learns one for each layer; None: patterns are
            assigned by sensitivity before training.
        sr_ste: draw masks anew at every step, by SR-STE; else they stay as pruning made them.
        reassign: how often at most patterns are assigned anew during training.
    """

    search: Pattern | None = None
    sr_ste: bool = False
    reassign: int = 0

    @classmethod
    def parse(cls, search: str, train_masks: str, reassign: int) -> Masks:
        """Reads `sensitivity` or `sls:16`, `fixed` or `sr-ste`, and a number."""
        kind, _, family = search.partition(":")
        if kind not in ("sensitivity", "sls") or (kind == "sensitivity" and family):
            raise NmcompileError(f"--search {search}: expected {SEARCHES}")
        if train_masks not in ("fixed", "sr-ste"):
            raise NmcompileError(f"--train-masks {train_masks}: expected fixed or sr-ste")
        if reassign < 0:
            raise NmcompileError(f"--reassign {reassign}: expected 0 or more")
        found = family_of_search(family or "32") if kind == "sls" else None
        masks = cls(found, train_masks == "sr-ste", reassign)
        if sum([found is not None, masks.sr_ste, reassign > 0]) > 1:
            raise NmcompileError(
                "--search sls, --train-masks sr-ste and --reassign exclude each other; give one"
            )
        return masks

    def check(self, budget: Budget, recipe: Recipe | None, given: bool) -> None:
        """Raises NmcompileError where this does not go with the rest of what was asked.

        Args:
            budget: what the result may cost.
            recipe: of the training, if there is any.
            given: whether patterns are given, by a plan or a uniform pattern.
        """
        if self == FIXED:
            return
        name = "--search sls" if self.search else "--reassign" if self.reassign else "--train-masks"
        if recipe is None:
            raise NmcompileError(f"{name} is about training; give --finetune STEPS|TIME with it")
        if given and not self.sr_ste:
            raise NmcompileError(f"{name} chooses patterns; leave out --plan and --uniform")
        if self.reassign and budget.quantity == "drop":
            raise NmcompileError(
                "--reassign needs a budget that patterns can be weighed by: --budget macs=0.5 or "
                "latency=0.5x"
            )
        if self.search:
            check_search(self.search, budget)
            if recipe.steps is None:
                raise NmcompileError(
                    "--search sls takes its pace from a number of steps: --finetune 3000"
                )

    def start(self, dense: Program, ctx: Context, prune: Callable[[], Program]) -> Program:
        """What training starts from: the pruned program, or the dense one where masks are learned.

        Args:
            dense: the cleaned program.
            ctx: its context.
            prune: assigns patterns and prunes to them.
        """
        if self.search:
            costs = run_passes(dense, ctx, (analyze_cost,))
            program = priced(costs, ctx, self.search)
            return program.with_plan(dataclasses.replace(program.the_plan, budget=str(ctx.budget)))
        return dense.with_plan(prune().the_plan) if self.sr_ste else prune()

    def policy(
        self, start: Program, dense: Program, ctx: Context, recipe: Recipe, world: World
    ) -> Policy:
        """What becomes of the masks of the program that training starts from."""
        if self.search:
            assert recipe.steps is not None
            return sls_policy(start, ctx.budget, self.search, recipe.steps, recipe.lr)
        if self.sr_ste:
            return SrStePolicy({layer.name: layer.pattern for layer in start.the_plan.layers})
        if self.reassign:
            return ReassignPolicy(start.the_plan, dense, ctx, self.reassign, world)
        return FixedPolicy(start.the_plan)

    def finish(self, trained: Program, ctx: Context) -> Program:
        """The trained program, every layer's pattern measured."""
        if not self.search:
            return trained
        return settled(trained, ctx, {x.name: x.pattern for x in trained.the_plan.layers})


FIXED = Masks()
