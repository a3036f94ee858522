"""Pretrained networks, pruned and trained -> PSNR: uniform, layer-wise and learned patterns.

    python -m benchmarks.quality [NETWORK ...] [--shares 0.5 0.25] [--methods ...] [--steps N]
        [--set FIELD=VALUE ...]

All methods of a network have the same steps and, at a share, the same MACs: those of the uniform
pattern that keeps that share of the trunk. A row that the result file holds is not measured again
(remove the file to start anew), and a run that was cut goes on from its last checkpoint. The
trained programs stay in --kept, for benchmarks.pareto.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import check_names, command
from benchmarks.networks import NETWORKS, ROOT, calibration_set, evaluation_set, psnr_on
from nmcompile.backends import make_target
from nmcompile.budget import Budget
from nmcompile.cache import cache_folder
from nmcompile.context import Context
from nmcompile.masks import FIXED, Masks
from nmcompile.passes import analyze_cost
from nmcompile.passes.assign_patterns import within_loss
from nmcompile.pattern import ALL_OUTPUTS, Pattern
from nmcompile.pipeline import run_passes
from nmcompile.program import Program
from nmcompile.progress import Reporter
from nmcompile.runtime.native import cpu_name
from nmcompile.training.batches import Patches
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe
from nmcompile.training.trainer import train
from nmcompile.transform import CLEAN, analyze, assign, prepare, prune

CROPS = 96
_SR = ("Set5 x4", "Set14 x4", "BSD100 x4")


@dataclass(frozen=True)
class Study:
    """A network, and what is compared on it.

    Attributes:
        sets: test sets.
        m: channels of a group; a grouped convolution may have no more.
        steps, batch, patch: of the training.
    """

    sets: tuple[str, ...]
    m: int
    steps: int
    batch: int
    patch: int


STUDIES = {
    "dncnn_gray_s25_bn": Study(("Set12-7",), 32, 600, 32, 40),
    "carn_m_x234@x4": Study(_SR, 16, 1500, 16, 32),
    "imdn_x4": Study(_SR, 16, 1500, 8, 32),
    "rlfn_x4": Study(_SR, 16, 1500, 8, 32),
}
SHARES = (0.5, 0.25)
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A cleaned network at a share of its trunk's MACs.

    Attributes:
        dense: the network.
        ctx: its context, with a budget of that share.
        study: see Study.
        share: of the trunk's MACs.
    """

    dense: Program
    ctx: Context
    study: Study
    share: float

    def uniform(self, v: int, m: int) -> Pattern:
        """The pattern that keeps the share."""
        return Pattern(v, round(self.share * m), m)


def _pruned(case: Case, **changes: Any) -> Program:
    ctx = dataclasses.replace(case.ctx, **changes)
    return prune(assign(analyze(case.dense, ctx), ctx), ctx)


def _uniform(case: Case) -> Program:
    return _pruned(case, uniform=case.uniform(1, case.study.m))


def _shared(case: Case) -> Program:
    return _pruned(case, uniform=case.uniform(64, 64))


def _shared_layer_wise(case: Case) -> Program:
    return _pruned(case, patterns=tuple(Pattern(64, n, 64) for n in range(8, 64, 8)))


def _layer_wise(case: Case) -> Program:
    return _pruned(case)


def _kernels(case: Case) -> Program:
    """In steps of an eighth; of each layer the largest M that it can take."""
    patterns = (Pattern(8, n * m // 8, m, True) for m in (64, 32, 16) for n in range(1, 8))
    return _pruned(case, patterns=tuple(patterns))


def _channels(case: Case) -> Program:
    """The share of every layer's inputs: fewer MACs in an engine than are counted here."""
    uniform = dataclasses.replace(case.uniform(ALL_OUTPUTS, 64), whole=True)
    return _pruned(case, uniform=uniform)


def _by_macs(case: Case) -> Program:
    """Every kind of pattern, weighed by MACs alone."""
    return _pruned(case, patterns=make_target("cpu").default_patterns())


def _by_ms(case: Case) -> Program:
    """The fastest plan whose losses sum to what those of `_by_macs` do."""
    limit = _by_macs(case).the_plan.loss
    target = make_target("cpu")
    ctx = dataclasses.replace(case.ctx, target=target, patterns=target.default_patterns())
    analyzed = analyze(case.dense, ctx)
    plan = within_loss(analyzed.the_plan, limit or 0.0)
    assigned = dataclasses.replace(analyzed, plan=plan, facts=analyzed.facts | {"patterns"})
    return prune(assigned, ctx)


@dataclass(frozen=True)
class Method:
    """How a case is pruned, and what becomes of its masks in training."""

    prune: Callable[[Case], Program]
    masks: Callable[[Case], Masks] = lambda _: FIXED


METHODS = {
    "uniform": Method(_uniform),
    "layer-wise": Method(_layer_wise),
    "reassigned once": Method(_layer_wise, lambda _: Masks(reassign=1)),
    "sls": Method(_layer_wise, lambda case: Masks(search=Pattern(1, 1, case.study.m))),
    "sr-ste": Method(_layer_wise, lambda _: Masks(sr_ste=True)),
    "64xN:64": Method(_shared),
    "layer-wise 64xN:64": Method(_shared_layer_wise),
    "8xN:Mk": Method(_kernels),
    "N:64c": Method(_channels),
    "any pattern by MACs": Method(_by_macs),
    "any pattern by ms": Method(_by_ms),
}


def main() -> None:
    """Measures what is asked for (everything by default), and prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(STUDIES), metavar="NETWORK")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the trunk's")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, help="other than the study's")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of Recipe, such as lr=3e-4"
    )
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/quality.json")
    parser.add_argument("--kept", type=Path, default=cache_folder() / "quality")
    args = parser.parse_args()
    check_names(parser, "network", args.names, STUDIES)
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.names:
        _study(name, args)
    print_table(_rows(args.out))


def _study(name: str, args: argparse.Namespace) -> None:
    study = STUDIES[name]
    study = dataclasses.replace(study, steps=args.steps or study.steps)
    reporter = Reporter()
    captured = NETWORKS[name].program()
    task = evaluation_set(study.sets[0])[0]
    # A target on which patterns change no time: equal MACs are compared, nothing is reverted.
    ctx = prepare(
        captured, task, source=calibration_set(), target="onnx", crops=CROPS, reporter=reporter
    )
    ladder = tuple(Pattern(1, n, study.m) for n in _ladder(study.m))
    dense = run_passes(captured, ctx, CLEAN)
    if f"{name} dense" not in _rows(args.out):
        _keep(args.out, f"{name} dense", {"macs": 1.0, "psnr": psnr_on(dense, study.sets)})
    for share in args.shares:
        case = Case(dense, dataclasses.replace(ctx, patterns=ladder), study, share)
        macs = _uniform(case).the_plan.macs  # what the uniform pattern leaves, ends and all
        case = dataclasses.replace(
            case, ctx=dataclasses.replace(case.ctx, budget=_budget(macs, dense, ctx))
        )
        for method in args.methods:
            key = " ".join([f"{name} {share:g} {method}, {study.steps} steps", *sorted(args.set)])
            if key not in _rows(args.out):
                reporter.note(key)
                folder = args.kept / key.replace(" ", "_")
                _keep(args.out, key, _measured(case, method, folder, _changes(args.set)))


def _ladder(m: int) -> tuple[int, ...]:
    """N of the candidates: all of an eighth's steps, and finer ones below a quarter."""
    return tuple(sorted({*range(m // 8, m, m // 8), m // 16, 3 * m // 16}))


def _budget(macs: int, dense: Program, ctx: Context) -> Budget:
    whole = run_passes(dense, ctx, (analyze_cost,)).the_plan.dense_macs
    return Budget("macs", macs / whole + 1e-9, "x")


def _changes(items: list[str]) -> dict[str, Any]:
    kinds = {field.name: type(field.default) for field in dataclasses.fields(Recipe)}
    given = dict(item.split("=", 1) for item in items)
    return {name: kinds[name](value) for name, value in given.items()}


def _measured(case: Case, method: str, folder: Path, changes: dict[str, Any]) -> Row:
    study, ctx, how = case.study, case.ctx, METHODS[method]
    masks = how.masks(case)
    program = masks.start(case.dense, ctx, lambda: how.prune(case))
    start = psnr_on(program, study.sets)
    fields: dict[str, Any] = {"batch": study.batch, "patch": study.patch, **changes}
    resume = (folder / "state.pt").exists()
    recipe = Recipe(**fields, steps=study.steps, checkpoint=folder, resume=resume)
    interface = case.dense.interface
    data = Patches(
        calibration_set(), ctx.calibration.validation, ctx.task, interface, recipe.patch,
        recipe.seed,
    )  # fmt: skip
    policy = masks.policy(program, case.dense, ctx, recipe, World())
    trained = train(program, policy, case.dense, data, recipe, ctx)
    result = masks.finish(trained.program, ctx)
    plan = result.the_plan
    torch.save(result.module.state_dict(), folder / "weights.pt")
    (folder / "plan.json").write_text(plan.to_json())
    return {
        "macs": plan.macs / plan.dense_macs, "start": start, "psnr": psnr_on(result, study.sets),
        "steps": trained.steps, "seconds": round(trained.seconds), "best_step": trained.best_step,
        "recipe": {name: getattr(recipe, name) for name in ("batch", "patch", "lr", "features")},
        "patterns": [str(layer.pattern) for layer in plan.layers], "weights": str(folder.name),
    }  # fmt: skip


def _rows(path: Path) -> dict[str, Row]:
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def _keep(path: Path, key: str, row: Row) -> None:
    rows = {**_rows(path), key: row}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cpu": cpu_name(), "rows": rows}, indent=1) + "\n")


def print_table(rows: dict[str, Row]) -> None:
    """One line a row: share of MACs, PSNR on each test set, before training in brackets."""
    sets = list(dict.fromkeys(name for row in rows.values() for name in row["psnr"]))
    table = Table("", "MACs", *sets, "minutes")
    for key, row in rows.items():
        before = row.get("start", {})
        cells = [
            f"{row['psnr'][s]:.2f}" + (f" ({before[s]:.2f})" if s in before else "")
            if s in row["psnr"]
            else ""
            for s in sets
        ]
        minutes = f"{row['seconds'] / 60:.1f}" if "seconds" in row else ""
        table.add_row(key, f"{row['macs']:.3f}", *cells, minutes)
    Console(width=130).print(table)


if __name__ == "__main__":
    command(main)
