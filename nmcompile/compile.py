"""A model file or module, and images -> an engine folder: the whole pipeline, top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from torch import nn
from torch.export import ExportedProgram

from nmcompile import transform
from nmcompile.assumptions import settle
from nmcompile.backends import make_target
from nmcompile.budget import Budget
from nmcompile.calibration import CROPS, check_task
from nmcompile.capture import capture
from nmcompile.context import Context, Target
from nmcompile.data import Source
from nmcompile.engine import ExtraInput, check_writable, seal, writing
from nmcompile.errors import NmcompileError
from nmcompile.finetuning import fine_tune, remove_checkpoint, training_facts, with_checkpoint
from nmcompile.lowering import make_manifest, open_dense, settle_kernels, write_parts
from nmcompile.masks import FIXED, Masks
from nmcompile.pattern import Pattern
from nmcompile.pipeline import run_passes
from nmcompile.plan import Plan
from nmcompile.precision import settle_precision
from nmcompile.program import Program
from nmcompile.progress import SILENT, Reporter
from nmcompile.receipt import About, Compiled, make_receipt
from nmcompile.report import write_report
from nmcompile.routing.levels import make_levels
from nmcompile.routing.making import Adaptive, check_routable, make_adaptive, train_all_levels
from nmcompile.routing.nested import Nested
from nmcompile.routing.spec import RouteSpec
from nmcompile.runtime import Engine, load
from nmcompile.runtime.engine import open_engine
from nmcompile.runtime.executor import check_threads
from nmcompile.showcase import chosen_levels, showcase
from nmcompile.tasks import Task
from nmcompile.training.parallel import World, joined
from nmcompile.training.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """What may be asked of a compilation; everything has a default.

    Attributes:
        task: what the network does; found by trial if None.
        source: calibration images; scikit-image's photographs if None.
        target: cpu, cpu:ISA (a name of nmcompile.isa.CAPS), onnx, onnx:custom-ops, cuda or
            tensorrt.
        profile, strict: of tensorrt, see nmcompile.backends.make_target.
        budget: what the result may cost.
        patterns: candidates; the target's own if None.
        uniform: one pattern for the whole trunk instead of a search.
        prune: obs or magnitude.
        plan: patterns to take instead of searching, and the file they came from.
        channels, size, extras: the network's inputs; found by trial where None.
        value_range: 1.0 or 255.0; found by trial if None.
        finetune: how the pruned network is trained; None: it is not.
        masks: how patterns and masks come about in training.
        route: levels of an input-adaptive network, whose budgets take the place of `budget`.
        never_train_on: folder of images that must not be trained or calibrated on.
        precision: fp32, bf16, fp16, or auto: the fastest that loses at most 0.02 dB.
        crops: how many calibration crops.
        threads: for the engine's timing; all cores if None.
        check: compare outputs after every pass.
        dump: folder for the graph after every pass.
        name: what the receipt calls the model.
    """

    task: Task | None = None
    source: Source | None = None
    target: str = "cpu"
    profile: str | None = None
    strict: bool = False
    budget: Budget = dataclasses.field(default_factory=lambda: Budget.parse("drop=0.1dB"))
    patterns: tuple[Pattern, ...] | None = None
    uniform: Pattern | None = None
    prune: str = "obs"
    plan: tuple[Plan, str] | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    extras: tuple[ExtraInput, ...] | None = None
    value_range: float | None = None
    finetune: Recipe | None = None
    masks: Masks = FIXED
    route: RouteSpec | None = None
    never_train_on: Path | None = None
    precision: str = "auto"
    crops: int = CROPS
    threads: int | None = None
    check: bool = False
    dump: Path | None = None
    name: str = "model"


def compile(
    model: nn.Module | ExportedProgram,
    output: Path | str,
    settings: Settings | None = None,
    reporter: Reporter = SILENT,
) -> Engine:
    """Compiles a network into an engine folder and loads it.

    Args:
        model: an eager module, or what torch.export made of one.
        output: the engine's folder; an engine that stands there is replaced.
        settings: see Settings.
        reporter: shows progress.

    Raises:
        NmcompileError: anything that the user can mend; nothing is left behind.
    """
    settings, output = settings or Settings(), Path(output)
    check_writable(output)
    given = settings.plan is not None or settings.uniform is not None
    if settings.route and (given or settings.masks != FIXED):
        raise NmcompileError(
            f"--route {settings.route} assigns patterns to levels whose masks stay; leave out "
            "--plan, --uniform, --search, --train-masks and --reassign"
        )
    settings.masks.check(settings.budget, settings.finetune, given)
    if settings.finetune is None:
        return _compile(model, output, settings, reporter, World())
    recipe = with_checkpoint(settings.finetune, output)
    settings = dataclasses.replace(settings, finetune=recipe)
    with joined() as world:
        engine = _compile(model, output, settings, reporter, world)
    remove_checkpoint(recipe, output)
    return engine


def assist(model: nn.Module | ExportedProgram, settings: Settings | None = None) -> None:
    """Trains along with the process that compiles: what torchrun's other processes do.

    Takes what that process gives to `compile`, but for the folder: only training is shared.
    """
    settings = settings or Settings()
    recipe = settings.finetune
    if recipe is None:
        return
    with joined() as world:
        opened = _open(model, settings, _Clock(SILENT))
        ctx, masks = opened.ctx, settings.masks
        if settings.route:
            spec = settings.route
            train_all_levels(opened.dense, _never, opened.source, recipe, spec, ctx, world)
            return
        fine_tune(opened.dense, _never, opened.source, recipe, ctx, world, masks)


def _never() -> Never:
    raise RuntimeError("only the process that compiles prunes")


@dataclass(frozen=True)
class _Opened:
    """The cleaned dense program, what its images come from, its context, and what was assumed."""

    dense: Program
    source: Source
    ctx: Context
    notes: list[str]


def _open(model: nn.Module | ExportedProgram, settings: Settings, clock: _Clock) -> _Opened:
    reporter = clock.reporter
    target = make_target(settings.target, settings.threads, settings.profile, settings.strict)
    with clock.stage("capturing the network"):
        program = capture(
            model, settings.channels, settings.size, settings.extras, settings.value_range or 1.0
        )
        if settings.task:
            check_task(settings.task, program.interface.scale)
    with clock.stage("settling the task"):
        settled = settle(program, settings.task, settings.value_range)
    notes = [*settled.notes, *_defaults(settings, settled.program)]
    for note in notes:
        reporter.note(f"assumed: {note}")
    with clock.stage("reading images"):
        source, left_out = _source(settings)
        for note in left_out:
            reporter.note(f"note: {note}")
        notes.extend(left_out)
        settings = dataclasses.replace(settings, source=source)
        ctx = _context(settled.program, settled.task, target, settings, reporter)
    with clock.stage("cleaning the graph"):
        dense = run_passes(settled.program, ctx, transform.CLEAN)
    return _Opened(dense, source, ctx, notes)


def _compile(
    model: nn.Module | ExportedProgram,
    output: Path,
    settings: Settings,
    reporter: Reporter,
    world: World,
) -> Engine:
    clock = _Clock(reporter)
    opened = _open(model, settings, clock)
    dense, ctx = opened.dense, opened.ctx
    target = ctx.target.fitted(dense, ctx.reference_size)
    if target is not ctx.target:
        if target.note:
            clock.reporter.note(f"note: {target.note}")
        ctx = dataclasses.replace(ctx, target=target)
    with clock.stage("settling the precision"):
        target, precision = settle_precision(dense, ctx, settings.precision)
        patterns = settings.patterns or target.default_patterns()
        ctx = dataclasses.replace(ctx, target=target, patterns=patterns)
    reporter.detail(f"precision {precision.chosen}: {precision.why}")
    training, adaptive = None, None
    if settings.route:
        adaptive, training = _route(opened, ctx, settings.route, settings.finetune, clock, world)
        sparse = adaptive.nested.program
        opened.notes.extend(adaptive.headed.notes)
    elif settings.finetune is None:
        sparse = _prune(dense, ctx, settings, clock)
    else:
        sparse, training = _train(opened, ctx, settings, clock, world)
    with clock.stage("choosing kernels"):
        sparse = settle_kernels(sparse, ctx)
    about = About(settings.name, precision, opened.notes, training)
    return _write(output, dense, sparse, ctx, about, clock, adaptive)


def _route(
    opened: _Opened,
    ctx: Context,
    spec: RouteSpec,
    recipe: Recipe | None,
    clock: _Clock,
    world: World,
) -> tuple[Adaptive, dict[str, Any] | None]:
    """Levels and the head that chooses one, and how the levels were trained."""
    dense, source, training = opened.dense, opened.source, None
    check_routable(spec, dense, ctx)

    def made() -> Nested:
        with clock.stage("making levels", bar=True):
            return make_levels(dense, ctx, spec)

    if recipe is None:
        nested = made()
    else:
        with clock.stage("fine-tuning", bar=True):
            nested, trained = train_all_levels(dense, made, source, recipe, spec, ctx, world)
        training = training_facts(trained, recipe, world)
    with clock.stage("training the difficulty head", bar=True), world.waited_for():
        return make_adaptive(dense, nested, source, recipe, spec, ctx), training


def _train(
    opened: _Opened, ctx: Context, settings: Settings, clock: _Clock, world: World
) -> tuple[Program, dict[str, Any]]:
    dense, recipe = opened.dense, settings.finetune
    assert recipe is not None
    with clock.stage("fine-tuning", bar=True):
        trained = fine_tune(
            dense,
            lambda: settings.masks.start(dense, ctx, lambda: _prune(dense, ctx, settings, clock)),
            opened.source,
            recipe,
            ctx,
            world,
            settings.masks,
        )
    return settings.masks.finish(trained.program, ctx), training_facts(trained, recipe, world)


def _prune(dense: Program, ctx: Context, settings: Settings, clock: _Clock) -> Program:
    if settings.plan:
        followed = transform.follow(dense, ctx, *settings.plan)
    else:
        with clock.stage("measuring layers", bar=True):
            analyzed = transform.analyze(dense, ctx)
        with clock.stage("choosing patterns", bar=True):
            followed = transform.assign(analyzed, ctx)
    with clock.stage("pruning", bar=True):
        pruned = transform.prune(followed, ctx)
    budget = "given plan" if settings.plan else str(ctx.budget)
    return pruned.with_plan(dataclasses.replace(pruned.the_plan, budget=budget))


def _write(
    output: Path,
    dense: Program,
    sparse: Program,
    ctx: Context,
    about: About,
    clock: _Clock,
    adaptive: Adaptive | None,
) -> Engine:
    with writing(output) as folder:
        with clock.stage("writing the engine"):
            built = write_parts(folder, dense, sparse, ctx, adaptive)
            manifest = make_manifest(sparse, ctx, adaptive.routing if adaptive else None, built)
            (folder / "plan.json").write_text(sparse.the_plan.to_json())
            threads = check_threads(ctx.target.threads)
            engine = open_engine(folder, manifest, threads)
            alone = dataclasses.replace(manifest, routing=None)
            original = Engine(folder, alone, open_dense(folder, alone, threads))
        with clock.stage("verifying and timing"):
            done = Compiled(about, dense, sparse, engine, original, clock.seconds, adaptive)
            receipt = make_receipt(done, ctx)
        with clock.stage("writing the report"):
            (folder / "receipt.json").write_text(json.dumps(receipt, indent=1) + "\n")
            pictures = showcase(original, engine, ctx.calibration.validation)
            chosen = chosen_levels(engine, ctx.calibration.validation)
            write_report(folder / "report.html", sparse.the_plan, receipt, pictures, chosen)
            seal(folder, manifest)
    return load(output, ctx.target.threads)


def _context(
    program: Program, task: Task, target: Target, settings: Settings, reporter: Reporter
) -> Context:
    return transform.prepare(
        program,
        task,
        source=settings.source,
        target=target,
        threads=settings.threads,
        budget=settings.budget,
        patterns=settings.patterns,
        reference_size=settings.size,
        crops=settings.crops,
        uniform=settings.uniform,
        prune_method=settings.prune,
        reporter=reporter,
        dump_folder=settings.dump,
        check=settings.check,
    )


def _source(settings: Settings) -> tuple[Source, list[str]]:
    """The images to use, and what was left out of them."""
    source = Source.fallback() if settings.source is None else settings.source
    folder = settings.never_train_on
    if folder is None:
        return source, []
    source, left_out = source.without(folder)
    if not left_out:
        return source, []
    some = f"{len(left_out)} images of the data are in {folder} too, the first of them"
    return source, [f"{some} {left_out[0]}: they were left out"]


def _defaults(settings: Settings, program: Program) -> list[str]:
    """What was not asked for and not found out, but has an effect that the user must know."""
    notes = []
    if settings.source is None:
        notes.append("calibration images: the photographs inside scikit-image; give yours: --data")
    if program.interface.multiple > 1:
        notes.append(
            f"height and width must be multiples of {program.interface.multiple}: "
            "the runtime pads images by reflection and crops the result"
        )
    if program.interface.fixed_size:
        height, width = program.interface.fixed_size
        notes.append(
            f"the archive was exported for {height}x{width} only: other images are run in tiles of "
            "that size; export it with dynamic_shapes for any size"
        )
    return notes


class _Clock:
    """Names each stage as it begins, and keeps how long it took."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, title: str, bar: bool = False) -> Iterator[None]:
        """A stage; `bar` says that its parts show their own progress."""
        started = time.perf_counter()
        if bar:
            yield
        else:
            with self.reporter.stage(title):
                yield
        self.seconds[title] = time.perf_counter() - started
