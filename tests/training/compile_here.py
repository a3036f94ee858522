"""A folder -> a little network compiled into it and fine-tuned; started by torchrun or alone."""

import dataclasses
import sys
from pathlib import Path

import torch

from nmcompile.compile import assist, compile
from nmcompile.data import Source
from nmcompile.training.parallel import World
from nmcompile.training.recipe import Recipe
from tests.test_compile import SETTINGS, _Enlarge

RECIPE = Recipe(steps=4, batch=4, patch=16, lr=1e-3, validations=2, precision="fp32", device="cpu")


def main(folder: Path) -> None:
    """Compiles into folder/engine, on images in folder/images."""
    torch.set_num_threads(1)
    source = Source.folder(folder / "images")
    settings = dataclasses.replace(SETTINGS, finetune=RECIPE, source=source, target="onnx")
    if World.here().rank == 0:
        compile(_Enlarge(), folder / "engine", settings)
    else:
        assist(_Enlarge(), settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
