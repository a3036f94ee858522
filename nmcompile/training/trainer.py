"""A pruned program, a policy, its dense original and patches -> the best program on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from nmcompile.context import Context
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import arrays_restorer, qualities
from nmcompile.program import Program
from nmcompile.training import checkpoint
from nmcompile.training.batches import Patches, batches
from nmcompile.training.features import Taps, distance
from nmcompile.training.network import Trainable, run
from nmcompile.training.parallel import World
from nmcompile.training.policy import Policy
from nmcompile.training.precision import trains_in_bf16
from nmcompile.training.recipe import Recipe
from nmcompile.training.scalars import Scalars

_POINTS = 100  # of the curve of losses
State = dict[str, Tensor]


@dataclass(frozen=True)
class Point:
    """One point of the training curve.

    Attributes:
        step: steps taken.
        loss: mean over the steps since the point before; None before the first step.
        psnr: of the averaged weights on the validation images, dB; None where not validated.
    """

    step: int
    loss: float | None
    psnr: float | None


@dataclass(frozen=True)
class Trained:
    """What training made.

    Attributes:
        program: with the best weights found, masked.
        curve: losses and PSNR on the way.
        steps: optimiser steps taken.
        seconds: training took, validation included.
        start_psnr, best_psnr: on the validation images, before training and of `program`, dB.
        best_step: when `program` was found.
        levels: PSNR of `program` at each of its levels, whose mean is `best_psnr`, dB.
        bf16: whether convolutions were trained in bf16.
        masks: what the policy says of the masks it ended with.
    """

    program: Program
    curve: tuple[Point, ...]
    steps: int
    seconds: float
    start_psnr: float
    best_psnr: float
    best_step: int
    levels: tuple[float, ...]
    bf16: bool
    masks: str


def train(
    program: Program,
    policy: Policy,
    teacher: Program,
    data: Patches,
    recipe: Recipe,
    ctx: Context,
    world: World | None = None,
) -> Trained:
    """Trains a pruned network under a policy's masks; keeps the best state on validation images.

    States are compared only among those with the patterns that the policy ends with.

    Args:
        program: pruned, with a plan.
        policy: what is masked.
        teacher: the dense program whose output is distilled.
        data: patches by number.
        recipe: how.
        ctx: task, validation images and reporter.
        world: processes that train together, all of which make this call.

    Raises:
        NmcompileError: the loss is no number any more; a checkpoint that cannot be resumed.
    """
    return _Run(program, policy, teacher, data, recipe, ctx, world or World()).run()


class _Run:
    def __init__(
        self,
        program: Program,
        policy: Policy,
        teacher: Program,
        data: Patches,
        recipe: Recipe,
        ctx: Context,
        world: World,
    ) -> None:
        self.policy, self.data, self.recipe, self.ctx = policy, data, recipe, ctx
        self.world, self.program = world, program
        world.share(recipe.batch)
        self.device = world.device(recipe.device)
        self.bf16 = trains_in_bf16(recipe.precision, self.device)
        self.digest = checkpoint.digest(program, recipe)
        self.network = Trainable(program, policy)
        layout: Any = {"device": self.device, "memory_format": torch.channels_last}
        self.module = self.network.module.to(**layout)
        self.teacher_module = teacher.clone_module().requires_grad_(False).to(**layout)
        self.taps = [Taps(m) for m in (self.module, self.teacher_module) if recipe.features > 0]
        self.wrapped = world.wrap(self.module)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=recipe.lr)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.elapsed = 0, 0.0
        self.curve: list[Point] = []
        self.best: dict[str, Any] = {}
        self.start_psnr = math.nan
        self.losses: list[float] = []
        self.saved_at = 0.0

    def run(self) -> Trained:
        recipe = self.recipe
        if recipe.resume:
            self._resume()
        else:
            self.start_psnr = self._validate()
        self.saved_at = self.elapsed
        started = time.perf_counter() - self.elapsed
        source = batches(self.data, recipe.batch, self.step, self.world.rank, self.world.size)
        with self._shown() as show, Scalars(self._tensorboard()) as scalars:
            progress = self._progress()
            while progress < 1:
                before = progress
                degraded, clean = next(source)
                self._take_step(degraded, clean, before)
                self.elapsed = time.perf_counter() - started
                progress = self._progress()
                self._look(before, progress, scalars)
                show(before * recipe.length, self._standing())
                if self.elapsed - self.saved_at > recipe.checkpoint_seconds:
                    self._save()
        self.elapsed = time.perf_counter() - started
        if not self.curve or self.curve[-1].step != self.step or self.curve[-1].psnr is None:
            self._validate()
        self._save()
        return self._trained()

    def _progress(self) -> float:
        if self.recipe.seconds is not None:
            return float(self.world.told(self.elapsed)) / self.recipe.seconds
        assert self.recipe.steps is not None
        return self.step / self.recipe.steps

    def _take_step(self, degraded: Tensor, clean: Tensor, progress: float) -> None:
        middle = progress if self.recipe.steps is None else progress + 0.5 / self.recipe.steps
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(middle)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._gradients(degraded.to(self.device), clean.to(self.device))
        mean = float(self.world.mean(loss))
        self.policy.before_step(progress)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        if not (math.isfinite(mean) and bool(torch.isfinite(norm))):
            self._stop(mean)
        self.optimiser.step()
        self.step += 1
        for name in self.policy.after_step(self._progress()):
            self._forget(self.network.raw(name))
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.losses.append(mean)

    def _forget(self, parameter: Tensor) -> None:
        """Begins the moving average and Adam's moments of a weight anew from what it is now."""
        place = next(i for i, p in enumerate(self.parameters) if p is parameter)
        self.average[place].copy_(parameter.detach())
        self.optimiser.state.pop(parameter, None)

    def _gradients(self, degraded: Tensor, clean: Tensor) -> Tensor:
        """Sums the gradients of all levels that this step trains, and gives the sum of losses."""
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), self._rounded():
            wanted = run(self.teacher_module, self.program, degraded).float()
        losses = []
        *others, last = self.policy.levels(self.step)
        # One backward run a level, so that memory holds the activations of one level only.
        for level in (*others, last):
            self.policy.set_level(level)
            alone = self.world.alone(self.wrapped) if level != last else contextlib.nullcontext()
            with alone:
                with self._rounded():
                    given = run(self.wrapped, self.program, degraded)
                loss = self._loss(given.float(), wanted, clean)
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _rounded(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _loss(self, given: Tensor, wanted: Tensor, clean: Tensor) -> Tensor:
        recipe, top = self.recipe, self.program.interface.value_range
        distilled = (given - wanted).abs().mean()
        restored = (given - clean).abs().mean()
        loss = (recipe.distillation * distilled + recipe.reconstruction * restored) / top
        if self.taps:
            loss = loss + recipe.features * distance(*self.taps)
        return loss + self.policy.penalty()

    def _look(self, before: float, after: float, scalars: Scalars) -> None:
        """Validates, and adds to the curve, where the run has come to a mark."""
        crossed = [int(after * n) > int(before * n) for n in (self.recipe.validations, _POINTS)]
        if crossed[0]:
            psnr = self._validate()
            scalars.add("PSNR on validation images", psnr, self.step)
        elif crossed[1]:
            self._add_point(None)
        if any(crossed):
            scalars.add("loss", self.curve[-1].loss, self.step)
            scalars.add("learning rate", self.recipe.rate(min(1.0, after)), self.step)

    def _add_point(self, psnr: float | None) -> None:
        mean = fmean(self.losses) if self.losses else None
        if mean is None and self.curve:
            mean = self.curve[-1].loss
        self.curve.append(Point(self.step, mean, psnr))
        self.losses.clear()

    def _validate(self) -> float:
        """PSNR of the averaged weights; they are kept if they are the best so far.

        Of a network of levels the mean is what counts: how often each will be taken is not known
        before there is a head that chooses.
        """
        with self._averaged():
            levels = self.world.made(self._psnrs)
            psnr = fmean(levels)
            patterns = {name: str(p) for name, p in self.policy.patterns().items()}
            if not self.best or self.best["patterns"] != patterns or psnr > self.best["psnr"]:
                state = self.network.state()
                self.best = {
                    "state": state, "psnr": psnr, "levels": levels, "step": self.step,
                    "patterns": patterns, "policy": self.policy.state(),
                }  # fmt: skip
        self._add_point(psnr)
        return psnr

    def _psnrs(self) -> list[float]:
        """Of every level on the validation images."""

        def restore(x: Any) -> Any:
            with torch.no_grad():
                given = torch.from_numpy(x).to(self.device)
                return run(self.module, self.program, given).cpu().numpy()

        restorer = arrays_restorer(self.program.interface, restore)
        samples, found = self.ctx.calibration.validation, []
        for level in self.policy.levels(None):
            self.policy.set_level(level)
            images = qualities(restorer, samples, self.ctx.task)
            found.append(fmean(quality.psnr for _, quality in images))
        return found

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The module with the moving average of its weights."""
        held = [p.detach().clone() for p in self.parameters]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(held)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _stop(self, loss: float) -> None:
        """The loss or its gradient is no number: goes back to the best state, and says so."""
        step, kept = self.step, self.best["step"]
        self._take_best()
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.recipe.lr)
        self.losses.clear()
        where = "no checkpoint was left: train again with a lower --lr"
        if folder := self.world.told(self._save()):
            where = (
                f"{folder} holds the best state (step {kept}, "
                f"{self.best['psnr']:.2f} dB): go on with --resume and a lower --lr"
            )
        raise NmcompileError(
            f"fine-tuning: step {step} has loss {loss:g} or a gradient that is no number "
            f"(--lr {self.recipe.lr:g}); {where}"
        )

    def _save(self) -> Path | None:
        """Writes a checkpoint if there is a place for it, which it gives; a full disk is no end."""
        self.saved_at = self.elapsed
        folder = self.recipe.checkpoint
        if folder is None or self.world.rank > 0:
            return None
        content = {
            "digest": self.digest, "step": self.step, "elapsed": self.elapsed,
            "module": self.network.state(), "optimiser": self.optimiser.state_dict(),
            "average": [value.cpu() for value in self.average], "best": self.best,
            "policy": self.policy.state(), "start_psnr": self.start_psnr, "losses": self.losses,
            "curve": [dataclasses.astuple(point) for point in self.curve],
        }  # fmt: skip
        try:
            checkpoint.write(folder / checkpoint.STATE, content)
        except OSError as error:
            self.ctx.reporter.note(
                f"note: no checkpoint could be written to {folder} ({error.strerror or error}); "
                "training goes on, and the checkpoint before it stands"
            )
            return None
        return folder

    def _resume(self) -> None:
        # Read by one process: the others may run on machines that do not have the folder.
        content = self.world.made(self._read)
        self.step, self.elapsed = content["step"], content["elapsed"]
        self.network.load(content["module"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.average = [value.to(self.device) for value in content["average"]]
        self.best, self.start_psnr = content["best"], content["start_psnr"]
        self.policy.restore(content["policy"])
        self.losses = content["losses"]
        self.curve = [Point(*values) for values in content["curve"]]

    def _read(self) -> dict[str, Any]:
        if self.recipe.checkpoint is None:
            raise NmcompileError("--resume needs the folder of the checkpoint: --checkpoint DIR")
        return checkpoint.read_for(self.recipe.checkpoint / checkpoint.STATE, self.digest)

    def _take_best(self) -> None:
        self.network.load(self.best["state"])
        self.policy.restore(self.best["policy"])

    def _trained(self) -> Trained:
        masks = self.policy.describe()
        self._take_best()
        return Trained(
            self.network.to_program(),
            tuple(self.curve),
            self.step,
            self.elapsed,
            self.start_psnr,
            self.best["psnr"],
            self.best["step"],
            tuple(self.best["levels"]),
            self.bf16,
            masks,
        )

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Callable[[float, str], None]]:
        if self.world.rank > 0:
            yield lambda *_: None
            return
        with self.ctx.reporter.run("fine-tuning", self.recipe.length) as show:
            yield show

    def _standing(self) -> str:
        loss = fmean(self.losses) if self.losses else self.curve[-1].loss
        known = next(point.psnr for point in reversed(self.curve) if point.psnr is not None)
        words = [f"step {self.step}", f"loss {loss:.3g}", f"{known:.2f} dB", self.policy.describe()]
        return ", ".join(word for word in words if word)

    def _tensorboard(self) -> Path | None:
        return self.recipe.tensorboard if self.world.rank == 0 else None
