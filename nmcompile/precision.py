"""A network, images and a wish -> the precision its engine computes in, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from nmcompile.backends.cpu import CpuTarget, allowed_kernels
from nmcompile.backends.cuda import CudaTarget
from nmcompile.backends.native import lower
from nmcompile.backends.tensorrt import TensorRtTarget
from nmcompile.context import Context, Target
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import Arrays, arrays_restorer, qualities
from nmcompile.metrics import countable
from nmcompile.pattern import Pattern
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
# The families of kernels that gain by each.
_GAINS = {"bf16": native.GAIN_BY_BF16, "fp16": native.GAIN_BY_FP16}


@dataclass(frozen=True)
class Precision:
    """What was chosen, and what was measured on the dense network if anything was.

    Attributes:
        chosen: fp32, bf16 or fp16.
        why: a sentence.
        loss_db: PSNR on the validation crops that rounding loses.
        agreement_db: PSNR of rounded outputs against fp32's, not rounded to 8 bits.
        ratio: time in fp32 / time in the precision measured.
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
    target = ctx.target
    if isinstance(target, TensorRtTarget | CudaTarget):
        return target, _of_gpu("TensorRT" if isinstance(target, TensorRtTarget) else "CUDA", wanted)
    if wanted == "fp32":
        return target, Precision("fp32", "asked for")
    names = [wanted] if wanted in _GAINS else [*_GAINS]
    obstacles = {name: _obstacle(target, name) for name in names}
    able = [name for name in names if not obstacles[name]]
    if not able and wanted != "auto":
        why = obstacles[wanted]
        raise NmcompileError(f"--precision {wanted}: {why}; give --precision auto or fp32")
    if not able:
        return target, Precision("fp32", obstacles[names[0]])
    assert isinstance(target, CpuTarget)
    measured = [_compared(program, target, ctx, name) for name in able]
    found = max(measured, key=lambda item: (item.chosen != "fp32", item.ratio or 0.0))
    if wanted != "auto":
        found = dataclasses.replace(found, chosen=wanted, why=f"asked for; {found.why}")
    elif len(measured) > 1:
        found = dataclasses.replace(found, why="; ".join(item.why for item in measured))
    return target.with_precision(found.chosen), found


def _of_gpu(name: str, wanted: str) -> Precision:
    if wanted in ("auto", "fp16"):
        return Precision("fp16", "engines for GPUs are fp16 throughout")
    raise NmcompileError(
        f"--precision {wanted}: {name} engines are fp16; leave it out, or give another --target"
    )


def _obstacle(target: Target, name: str) -> str:
    if not isinstance(target, CpuTarget):
        return "ONNX Runtime runs this engine, in fp32"
    if target.executor != "native":
        return "a network in regions runs in fp32"
    if target.isa not in _GAINS[name]:
        return f"kernels for {target.isa} gain nothing by {name}"
    return ""


def _compared(program: Program, target: CpuTarget, ctx: Context, name: str) -> Precision:
    """That precision beside fp32; chosen is what auto would take of the two."""
    threads = target.threads or available_cores()
    single, half = (
        NativeProgram(lower(program, allowed_kernels(target.with_precision(precision))))
        for precision in ("fp32", name)
    )
    interface = program.interface
    exact, rounded = (_runner(interface, network, threads) for network in (single, half))
    loss, agreement = _quality(program, ctx, exact, rounded)
    shape = (1, interface.channels, *ctx.reference_size)
    x = np.random.default_rng(0).random(shape, np.float32) * np.float32(interface.value_range)
    ratio = speed_ratio(lambda: exact(x), lambda: rounded(x))
    why = f"{name} loses {loss:.4f} dB and takes {1 / ratio:.2f} of the time, dense"
    if agreement < LEAST_AGREEMENT_DB:
        why += f"; its output is only {agreement:.1f} dB from that of fp32"
    # Some patterns gain in halves only, whatever the dense network does.
    wanted = ctx.patterns if ctx.uniform is None else (ctx.uniform,)
    gains = ratio >= _LEAST_GAIN or any(_gains_by(pattern, name) for pattern in wanted)
    pays = loss <= MOST_LOSS_DB and agreement >= LEAST_AGREEMENT_DB and gains
    return Precision(name if pays else "fp32", why, loss, agreement, ratio)


def _gains_by(pattern: Pattern, name: str) -> bool:
    """Pairs of bf16 need a mask that outputs share; whole kernels gain in Winograd's, in fp32."""
    return not (pattern.is_dense or pattern.whole) and (pattern.v > 1 or name == "fp16")


def _runner(interface: Interface, network: NativeProgram, threads: int) -> Runner:
    def run(x: Arrays) -> Arrays:
        values = interface.arguments(torch.from_numpy(x))
        return network.run([value.numpy() for value in values], threads)[0]

    return run


def _quality(program: Program, ctx: Context, single: Runner, half: Runner) -> tuple[float, float]:
    """The PSNR that rounding loses, and its outputs' PSNR against those of fp32, in dB.

    A sum beyond the largest half becomes an infinity or NaN, which counts as a huge error.
    """
    exact, rounded = (
        arrays_restorer(program.interface, run) for run in (single, lambda x: countable(half(x)))
    )
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
