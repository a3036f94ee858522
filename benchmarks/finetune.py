"""A pretrained denoiser, pruned and fine-tuned -> PSNR on Set12 for what a recipe may choose.

    python -m benchmarks.finetune [--steps 600] [--case quarter|half] [--set lr=3e-4 ...]

Prints one line: the patterns, PSNR of the dense, the pruned and the trained network.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from benchmarks.networks import NETWORKS, calibration_set, evaluation_set
from nmcompile.budget import Budget
from nmcompile.evaluate import evaluate
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.progress import Reporter
from nmcompile.tasks import Task
from nmcompile.training.batches import Patches
from nmcompile.training.policy import FixedPolicy
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import train
from nmcompile.transform import ANALYZE, CLEAN, assign, prepare, prune

NETWORK, SET = "dncnn_gray_s25_bn", "Set12-7"
CROPS = 96
# Case -> the share of the trunk's MACs that is left, and the candidate patterns.
CASES = {
    "quarter": (0.25, tuple(f"{n}:32" for n in (2, 3, 4, 5, 6, 8, 10, 12, 16))),
    "half": (0.5, tuple(f"64x{n}:64" for n in (16, 20, 24, 28, 32, 36, 40, 48))),
}


def main() -> None:
    """Prunes, trains and evaluates one case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, default="quarter")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of Recipe")
    args = parser.parse_args()
    fields = {field.name: type(field.default) for field in dataclasses.fields(Recipe)}
    given = dict(item.split("=", 1) for item in args.set)
    changes: dict[str, Any] = {name: fields[name](value) for name, value in given.items()}
    print(measure(args.case, Recipe(**{"validations": 4, **changes, "steps": args.steps})))


def measure(case: str, recipe: Recipe) -> str:
    """One line about a case trained by a recipe."""
    share, texts = CASES[case]
    captured = NETWORKS[NETWORK].program()
    text, source = evaluation_set(SET)
    task = Task.parse(text)
    # A target on which patterns change no time: nothing is reverted to dense.
    ctx = prepare(
        captured, task, source=calibration_set(), target="onnx", crops=CROPS,
        patterns=[Pattern.parse(pattern) for pattern in texts], reporter=Reporter(),
    )  # fmt: skip
    dense = run_passes(captured, ctx, CLEAN)
    analyzed = run_passes(dense, ctx, ANALYZE)
    budget = Budget("macs", _share_of_all(analyzed.the_plan, share), "x")
    ctx = dataclasses.replace(ctx, budget=budget)
    pruned = prune(assign(analyzed, ctx), ctx)
    data = Patches(
        calibration_set(),
        ctx.calibration.validation,
        task,
        dense.interface,
        recipe.patch,
        recipe.seed,
    )
    done = train(pruned, FixedPolicy(pruned.the_plan), dense, data, recipe, ctx)
    samples = list(source.samples(task, 1, 1))

    def psnr(program: Program) -> str:
        return f"{evaluate(program, samples, task).psnr:.3f}"

    found = ", ".join(psnr(program) for program in (dense, pruned, done.program))
    patterns = " ".join(str(layer.pattern) for layer in pruned.the_plan.layers)
    return f"{case}: dense, pruned, trained {found} dB; {done.steps} steps; {patterns}"


def _share_of_all(plan: Plan, share: float) -> float:
    """The share of all MACs that leaves `share` of the layers that can take a pattern."""
    trunk = sum(layer.macs for layer in plan.layers if len(layer.choices) > 1)
    return (share * trunk + plan.dense_macs - trunk) / plan.dense_macs + 1e-9


if __name__ == "__main__":
    main()
