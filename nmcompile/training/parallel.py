"""torchrun's environment -> the processes that train together, and what they tell each other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nmcompile.errors import NmcompileError

_PATIENCE = timedelta(days=1)  # the others wait while rank 0 measures and prunes
Made = TypeVar("Made")


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: which of them this is; 0 compiles, shows and writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> World:
        """As torchrun has set it in the environment; one process without torchrun."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def share(self, batch: int) -> int:
        """Patches a process takes of a batch."""
        if batch % self.size:
            raise NmcompileError(
                f"--batch {batch} does not divide among {self.size} processes; give a multiple"
            )
        return batch // self.size

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over all processes in each backward run."""
        if self.size == 1:
            return module
        # Strides along an axis of length 1, as in 1x1 kernels, mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch 2.13 has another name for it, earlier ones have not
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
            return DistributedDataParallel(
                module, broadcast_buffers=False, find_unused_parameters=True
            )

    def alone(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Backward runs in this context add to the gradients without averaging them."""
        if isinstance(wrapped, DistributedDataParallel):
            found: AbstractContextManager[None] = wrapped.no_sync()
            return found
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def told(self, value: Any) -> Any:
        """What rank 0 has for `value`; the others' is ignored."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, device=self.device("auto"))
        return held[0]

    def made(self, make: Callable[[], Made]) -> Made:
        """What rank 0 makes, with the threads of those that wait; told to all."""
        made = None
        if self.rank == 0:
            with self.waited_for():
                made = make()
        found: Made = self.told(made)
        return found

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Here this process has the threads of all processes on its machine: the others wait."""
        own = torch.get_num_threads()
        torch.set_num_threads(own * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        try:
            yield
        finally:
            torch.set_num_threads(own)

    def device(self, wanted: str) -> torch.device:
        """Where this process trains: its own GPU, or the CPU."""
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            return torch.device("cuda", local % max(1, torch.cuda.device_count()))
        return torch.device(wanted)


@contextmanager
def joined() -> Iterator[World]:
    """All processes that torchrun started, connected; alone without torchrun."""
    world = World.here()
    if world.size == 1 or dist.is_initialized():
        yield world
        return
    device = world.device("auto")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield world
    finally:
        dist.destroy_process_group()
