"""Numbers of a training run -> TensorBoard's event files, where they were asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from nmcompile.errors import NmcompileError


def check_tensorboard(folder: Path) -> None:
    """Raises NmcompileError, before anything is measured, where scalars could not be written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise NmcompileError("--tensorboard needs the package tensorboard: pip install tensorboard")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NmcompileError(
            f"--tensorboard {folder}: cannot make that folder ({error.strerror}); give another"
        ) from None


class Scalars:
    """Writes scalars to a folder; does nothing without one."""

    def __init__(self, folder: Path | None) -> None:
        """Args: folder: where TensorBoard will look."""
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Scalars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, name: str, value: float | None, step: int) -> None:
        """Adds a point; None adds nothing."""
        if self._writer is not None and value is not None:
            self._writer.add_scalar(name, value, step)
