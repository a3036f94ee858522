"""Folder of images -> trained weights of the sample x2 network, as an fp16 safetensors file.

Run from the repository root; the run can be stopped and taken up again with `--resume`:

    python -m examples.train_sample --data ../shared/data/train/BSDS500_train
"""

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.models.sample import ResidualBlock, SampleSR, sample_sr_x2
from nmcompile.resize import imresize

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

BATCH = 16
CROP = 32  # side of a low-resolution crop, in pixels
HELD_OUT = 10
WARM_UP = 300
PEAK_LR = 1e-3
FINAL_LR = 1e-6
CLIP_NORM = 0.5
EMA_DECAY = 0.999
SEED = 20240
BORDER = 2  # pixels left out of PSNR on each side: the scale, as is usual


def load_pairs(folder: Path) -> list[Pair]:
    """Read every image as (low-resolution, high-resolution), H x W x 3 uint8, sorted by name."""
    names = sorted(p for p in folder.glob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(names) <= HELD_OUT:
        raise SystemExit(f"{folder} holds {len(names)} images; give at least {HELD_OUT + 1}")
    pairs = []
    for name in names:
        full = np.array(Image.open(name).convert("RGB"))
        high = full[: full.shape[0] // 2 * 2, : full.shape[1] // 2 * 2]
        pairs.append((imresize(high, 0.5).astype(np.uint8), high))
    return pairs


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] float in 0..1, channels last in memory."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    return batch.contiguous(memory_format=torch.channels_last)


def random_batch(pairs: list[Pair], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut BATCH aligned crops, each turned one of eight ways -> ([N,3,32,32], [N,3,64,64])."""
    lows: list[npt.NDArray[np.uint8]] = []
    highs: list[npt.NDArray[np.uint8]] = []
    for index in rng.integers(len(pairs), size=BATCH):
        low, high = pairs[index]
        top = int(rng.integers(low.shape[0] - CROP + 1))
        left = int(rng.integers(low.shape[1] - CROP + 1))
        low = low[top : top + CROP, left : left + CROP]
        high = high[2 * top : 2 * (top + CROP), 2 * left : 2 * (left + CROP)]
        flip_rows, flip_columns, transpose = rng.integers(2, size=3)
        for crop, chosen in ((low, lows), (high, highs)):
            turned = crop[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
            chosen.append(turned.transpose(1, 0, 2) if transpose else turned)
    return to_tensor(np.stack(lows)), to_tensor(np.stack(highs))


def luma(image: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """[H, W, 3] in 0..255 -> luma Y of ITU-R BT.601 in 16..235, not rounded."""
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    return 16.0 + image @ weights


@torch.no_grad()
def validation_psnr(network: nn.Module, pairs: list[Pair]) -> float:
    """Mean PSNR in dB of luma, output rounded to 8 bits, BORDER pixels cropped."""
    values = []
    for low, high in pairs:
        output = network(to_tensor(low[None]))[0].permute(1, 2, 0).double().numpy()
        image = np.floor(np.clip(output, 0.0, 1.0) * 255.0 + 0.5)
        error = (luma(image) - luma(high.astype(np.float64)))[BORDER:-BORDER, BORDER:-BORDER]
        values.append(10.0 * math.log10(255.0**2 / float(np.mean(error**2))))
    return float(np.mean(values))


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine from PEAK_LR to FINAL_LR at `steps`."""
    if step < WARM_UP:
        return PEAK_LR * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return FINAL_LR + (PEAK_LR - FINAL_LR) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def small_start(network: SampleSR) -> None:
    """Scale down what each skip connection is added to, so that a high learning rate is stable."""
    last = [m.conv2 for m in network.modules() if isinstance(m, ResidualBlock)]
    with torch.no_grad():
        for conv in (*last, network.tail):
            conv.weight.mul_(0.1)
            if conv.bias is not None:
                conv.bias.zero_()


@dataclass
class Trainer:
    """Everything that a run continues from: networks, optimiser, random numbers, best so far."""

    network: SampleSR
    average: SampleSR = field(init=False)
    optimiser: torch.optim.Adam = field(init=False)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))
    step: int = 0
    best_psnr: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Set up the averaged copy and the optimiser."""
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.99))

    def update(self, pairs: list[Pair], steps: int) -> float:
        """Take one step of gradient descent; returns the L1 loss in 0..1."""
        low, high = random_batch(pairs, self.rng)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            output = self.network(low)
        loss = (output.float() - high).abs().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.optimiser.step()
        self.step += 1
        # Early on the average has to forget the start faster than its final decay allows.
        decay = min(EMA_DECAY, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            values = self.network.parameters()
            for mean, value in zip(self.average.parameters(), values, strict=True):
                mean.lerp_(value, 1.0 - decay)
        return float(loss.detach())

    def validate(self, pairs: list[Pair]) -> float:
        """Measure the averaged network and keep it if it is the best so far; returns dB."""
        psnr = validation_psnr(self.average, pairs)
        if psnr > self.best_psnr:
            self.best_psnr = psnr
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        return psnr

    def save(self, state: Path, weights: Path) -> None:
        """Write the state to continue from and the best weights, each by rename."""
        content: dict[str, Any] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "best_psnr": self.best_psnr,
            "best": self.best,
        }
        temporary = state.with_suffix(".part")
        torch.save(content, temporary)
        temporary.replace(state)
        temporary = weights.with_suffix(".part")
        save_file({k: v.half().contiguous() for k, v in self.best.items()}, temporary)
        temporary.chmod(0o644)  # safetensors leaves it readable by its owner alone
        temporary.replace(weights)

    def load(self, state: Path) -> None:
        """Continue from what `save` wrote."""
        content = torch.load(state, weights_only=True)
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.rng.bit_generator.state = content["rng"]
        self.step, self.best_psnr, self.best = (
            content[key] for key in ("step", "best_psnr", "best")
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the sample x2 super-resolution network.")
    parser.add_argument("--data", type=Path, required=True, help="folder of training images")
    parser.add_argument(
        "--out", type=Path, default=Path("examples/sample/sample_sr_x2.safetensors")
    )
    parser.add_argument("--state", type=Path, help="state to continue from [OUT with .state.pt]")
    parser.add_argument("--steps", type=int, default=20000, help="length of the schedule")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop early after these")
    parser.add_argument("--every", type=int, default=1000, help="steps from validation to next")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="continue from the state file")
    return parser.parse_args()


def main() -> None:
    """Train, validating and saving every `--every` steps."""
    arguments = parse_arguments()
    state = arguments.state or arguments.out.with_suffix(".state.pt")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    network = sample_sr_x2()
    small_start(network)
    trainer = Trainer(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    if arguments.resume:
        trainer.load(state)
    pairs = load_pairs(arguments.data)
    # Evenly spread over the sorted names: neighbours are often shots of the same subject.
    held_out = pairs[:: len(pairs) // HELD_OUT][:HELD_OUT]
    training = [pair for pair in pairs if not any(pair is p for p in held_out)]
    end = time.monotonic() + 60.0 * arguments.minutes
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=arguments.steps, completed=trainer.step, note="")
        loss = math.nan
        while trainer.step < arguments.steps and time.monotonic() < end:
            latest = trainer.update(training, arguments.steps)
            loss = latest if math.isnan(loss) else 0.99 * loss + 0.01 * latest
            progress.update(task, completed=trainer.step, note=f"L1 {loss:.5f}")
            if trainer.step % arguments.every == 0:
                psnr = trainer.validate(held_out)
                trainer.save(state, arguments.out)
                progress.console.print(
                    f"{time.strftime('%H:%M:%S')} step {trainer.step} L1 {loss:.5f} "
                    f"validation {psnr:.3f} dB, best {trainer.best_psnr:.3f} dB"
                )
    trainer.validate(held_out)
    trainer.save(state, arguments.out)
    print(f"best validation PSNR {trainer.best_psnr:.3f} dB; weights in {arguments.out}")


if __name__ == "__main__":
    main()
