"""A folder -> pictures and a small x2 network there, which is compiled into levels and a head."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile import timing
from nmcompile.compile import Settings, assist, compile
from nmcompile.data import Source
from nmcompile.images import write_image
from nmcompile.routing import heading, learning
from nmcompile.routing.spec import RouteSpec
from nmcompile.tasks import Task
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe

ROUTE = RouteSpec.parse("0.4,0.7,1")


class Small(nn.Module):
    """A little x2 network over nearest-neighbour enlargement, three layers of 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()
        )
        self.tail = nn.Conv2d(32, 12, 3, padding=1)
        nn.init.normal_(self.tail.weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = nn.functional.interpolate(x, scale_factor=2)
        return near + nn.functional.pixel_shuffle(self.tail(self.body(self.head(x))), 2)


def pictures(folder: Path) -> None:
    """Four pictures of blocks and noise, large enough for windows."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(4):
        picture = generator.integers(0, 256, (18, 18, 3)).repeat(12, 0).repeat(12, 1)
        noise = generator.normal(0, 20, picture.shape) * (np.arange(216) > 100)[:, None]
        write_image(folder / f"{index}.png", np.clip(picture + noise, 0, 255).astype(np.uint8))


def few_windows(patch: pytest.MonkeyPatch) -> None:
    """Heads that learn from few windows, as quickly as tests need."""
    patch.setattr(heading, "PIXELS", 96 * 64**2)
    patch.setattr(learning, "STEPS", 4)
    patch.setattr(timing, "_SECONDS", 0.0)


def main(folder: Path) -> None:
    """Compiles into folder/engine on images in folder/images; started by torchrun or alone."""
    torch.set_num_threads(1)
    recipe = Recipe(
        steps=4, batch=4, patch=16, lr=1e-3, validations=2, precision="fp32", device="cpu"
    )
    settings = Settings(
        task=Task("sr", 2), value_range=1.0, size=(48, 64), crops=4, threads=1, target="onnx",
        source=Source.folder(folder / "images"), finetune=recipe, route=ROUTE,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        few_windows(patch)
        if World.here().rank == 0:
            compile(Small(), folder / "engine", settings)
        else:
            assist(Small(), settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
