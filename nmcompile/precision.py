"""A network, images and a wish -> the precision its engine computes in, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from nmcompile.backends.cpu import CpuTarget, allowed_kernels
from nmcompile.backends.native import lower
from nmcompile.context import Context, Target
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import Arrays, arrays_restorer, qualities
from nmcompile.program import Interface, Program
from nmcompile.runtime import native
from nmcompile.runtime.executor import available_cores
from nmcompile.runtime.native.program import NativeProgram
from nmcompile.timing import interleaved

Runner = Callable[[Arrays], Arrays]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MOST_LOSS_DB = 0.02
LEAST_AGREEMENT_DB = 50.0
_LEAST_GAIN = 1.02


@dataclass(frozen=True)
class Precision:
    """What was chosen, and what was measured on the dense network if anything was.

    Attributes:
        chosen: fp32 or bf16.
        why: a sentence.
        loss_db: PSNR on the validation crops that bf16 loses.
        agreement_db: PSNR of bf16's outputs against fp32's, not rounded to 8 bits.
        ratio: time in fp32 / time in bf16.
    """

    chosen: str
    why: str
    loss_db: float | None = None
    agreement_db: float | None = None
    ratio: float | None = None


def settle_precision(program: Program, ctx: Context, wanted: str) -> tuple[Target, Precision]:
    """The target at the precision that is wanted, or at the fastest that loses at most 0.02 dB.

    Args:
        program: the dense network.
        ctx: its target and validation crops.
        wanted: auto, fp32, bf16 or fp16.

    Raises:
        NmcompileError: this machine or target has no kernels for what is wanted.
    """
    if wanted not in PRECISIONS:
        raise NmcompileError(f"--precision {wanted}: expected {', '.join(PRECISIONS)}")
    if wanted == "fp16":
        raise NmcompileError("--precision fp16: there are no fp16 kernels; give auto, fp32 or bf16")
    target = ctx.target
    if wanted == "fp32":
        return target, Precision("fp32", "asked for")
    why = _obstacle(target)
    if why and wanted == "bf16":
        raise NmcompileError(f"--precision bf16: {why}; give --precision auto or fp32")
    if why:
        return target, Precision("fp32", why)
    assert isinstance(target, CpuTarget)
    found = _compared(program, target, ctx)
    if wanted == "bf16":
        found = dataclasses.replace(found, chosen="bf16", why=f"asked for; {found.why}")
    return target.with_precision(found.chosen), found


def _obstacle(target: Target) -> str:
    if not isinstance(target, CpuTarget):
        return "ONNX Runtime runs this engine, in fp32"
    if target.executor != "native":
        return "a network in regions runs in fp32"
    if target.isa not in native.GAIN_BY_BF16:
        return f"kernels for {target.isa} gain nothing by bf16"
    return ""


def _compared(program: Program, target: CpuTarget, ctx: Context) -> Precision:
    threads = target.threads or available_cores()
    single, half = (
        NativeProgram(lower(program, allowed_kernels(target.with_precision(precision))))
        for precision in ("fp32", "bf16")
    )
    interface = program.interface
    exact, rounded = (_runner(interface, network, threads) for network in (single, half))
    loss, agreement = _quality(program, ctx, exact, rounded)
    shape = (1, interface.channels, *ctx.reference_size)
    x = np.random.default_rng(0).random(shape, np.float32) * np.float32(interface.value_range)
    ratio = speed_ratio(lambda: exact(x), lambda: rounded(x))
    why = f"bf16 loses {loss:.4f} dB and takes {1 / ratio:.2f} of the time, dense"
    if agreement < LEAST_AGREEMENT_DB:
        why += f"; its output is only {agreement:.1f} dB from that of fp32"
    # Vector-wise patterns gain in bf16 only, whatever the dense network does; those of whole
    # kernels gain in Winograd's products, in fp32.
    wanted = ctx.patterns if ctx.uniform is None else (ctx.uniform,)
    gains = ratio >= _LEAST_GAIN or any(p.v > 1 and not p.whole for p in wanted)
    pays = loss <= MOST_LOSS_DB and agreement >= LEAST_AGREEMENT_DB and gains
    return Precision("bf16" if pays else "fp32", why, loss, agreement, ratio)


def _runner(interface: Interface, network: NativeProgram, threads: int) -> Runner:
    def run(x: Arrays) -> Arrays:
        values = interface.arguments(torch.from_numpy(x))
        return network.run([value.numpy() for value in values], threads)[0]

    return run


def _quality(program: Program, ctx: Context, single: Runner, half: Runner) -> tuple[float, float]:
    """The PSNR that bf16 loses, and its outputs' PSNR against those of fp32, in dB."""
    exact, rounded = (arrays_restorer(program.interface, run) for run in (single, half))
    samples = ctx.calibration.validation
    before, after = (
        fmean(quality.psnr for _, quality in qualities(restore, samples, ctx.task))
        for restore in (exact, rounded)
    )
    errors = [
        float(np.mean((exact(sample.degraded) - rounded(sample.degraded)) ** 2))
        for sample in samples
    ]
    return before - after, -10 * float(np.log10(max(fmean(errors), 1e-20)))


def speed_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Time of the first over time of the second, the median of interleaved rounds."""
    return interleaved(first, second)[2]
