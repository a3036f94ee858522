"""An fp16 ONNX model and a profile -> a TensorRT engine, what was said of it, its layers' times."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmcompile.cache import cache_folder
from nmcompile.engine import Built
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface
from nmcompile.runtime.cuda import open_device
from nmcompile.runtime.tensorrt import Session
from nmcompile.runtime.tensorrt_module import (
    find_tensorrt,
    load_plugins,
    major_of,
    make_logger,
    said,
    version_of,
)

Size = tuple[int, int, int]
# The least, usual and largest shape of every input.
Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
_TEXT = re.compile(r"1x(\d+)x(\d+),1x(\d+)x(\d+),(\d+)x(\d+)x(\d+)")
_LARGEST = 1024
DENSE_PLAN = "dense.plan"
_RUNS = 20


@dataclass(frozen=True)
class Profile:
    """The images that an engine takes, and those that its tactics are chosen for.

    Attributes:
        least, usual, most: (N, H, W); N is 1 but for `most`, larger batches run in parts.
    """

    least: Size
    usual: Size
    most: Size

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Reads `1x64x64,1x720x1280,4x1080x1920`; raises NmcompileError for anything else."""
        found = _TEXT.fullmatch(text)
        if not found:
            raise NmcompileError(
                f"--profile {text!r}: expected the least, usual and largest NxHxW, N being 1 but "
                "in the largest, for example 1x64x64,1x720x1280,4x1080x1920"
            )
        h, w, usual_h, usual_w, n, most_h, most_w = map(int, found.groups())
        profile = cls((1, h, w), (1, usual_h, usual_w), (n, most_h, most_w))
        sizes = zip(profile.least, profile.usual, profile.most, strict=True)
        if not all(1 <= a <= b <= c for a, b, c in sizes):
            raise NmcompileError(f"--profile {text}: expected sizes from 1 up that do not fall")
        return profile

    def check(self, interface: Interface) -> None:
        """Raises NmcompileError for sizes that the network does not take."""
        for _, *size in (self.least, self.usual, self.most):
            if interface.fixed_size and tuple(size) != interface.fixed_size:
                fixed = "x".join(map(str, interface.fixed_size))
                raise NmcompileError(f"--profile: the network takes images of {fixed} only")
            if any(side < interface.minimum or side % interface.multiple for side in size):
                raise NmcompileError(
                    f"--profile: found {size[0]}x{size[1]}, the network takes multiples of "
                    f"{interface.multiple} from {interface.minimum} up"
                )

    def shapes(self, interface: Interface) -> Shapes:
        """The same of every input of the network."""
        found = {}
        for index, name in enumerate(_inputs(interface)):
            three = tuple(_shape(interface, index, size) for size in self.sizes)
            found[name] = (three[0], three[1], three[2])
        return found

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        """All three."""
        return self.least, self.usual, self.most


def default_profile(interface: Interface, reference: tuple[int, int]) -> Profile:
    """From the smallest image that the network takes to twice the reference size, or 1024."""
    if interface.fixed_size:
        size = (1, *interface.fixed_size)
        return Profile(size, size, size)
    step = interface.multiple
    smallest = -(-interface.minimum // step) * step
    most = tuple(-(-max(2 * side, _LARGEST) // step) * step for side in reference)
    least = (1, min(smallest, reference[0]), min(smallest, reference[1]))
    return Profile(least, (1, *reference), (1, most[0], most[1]))


@dataclass(frozen=True)
class Engine:
    """A built engine and what was said of it.

    Attributes:
        plan: the serialised engine.
        log: TensorRT's messages while it was built.
        layers: the engine inspector's JSON, at the profile's usual shapes.
        profile: layer -> median milliseconds there.
    """

    plan: bytes
    log: tuple[str, ...]
    layers: str
    profile: dict[str, float]

    def write(self, plan: Path) -> None:
        """Writes it, and beside it what was said of it: the profile as trtexec would."""
        plan.write_bytes(self.plan)
        plan.with_suffix(".log").write_text("\n".join(self.log) + "\n")
        plan.with_suffix(".layers.json").write_text(self.layers)
        rows = [{"name": name, "medianMs": ms} for name, ms in self.profile.items()]
        text = json.dumps([{"count": _RUNS}, *rows], indent=1)
        plan.with_suffix(".profile.json").write_text(text + "\n")


def build_engine(model: bytes, shapes: Shapes, name: str, plugins: bool) -> Engine:
    """Builds an engine for this GPU, strongly typed, and times its layers.

    Args:
        model: ONNX, its types as they are to be.
        shapes: the least, usual and largest of every input.
        name: what errors call it.
        plugins: whether it has NMConv nodes.

    Raises:
        NmcompileError: no TensorRT or GPU, or TensorRT cannot build it; in its own words.
    """
    module, device = find_tensorrt(), open_device()
    device.enter(name)
    if plugins:
        load_plugins(module)
    logger = make_logger(module)
    builder = module.Builder(logger)
    network = builder.create_network(_strongly_typed(module))
    parser = module.OnnxParser(network, logger)
    if not parser.parse(model):
        faults = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        why = " ".join((faults or [said(logger)])[0].split())
        raise NmcompileError(f"TensorRT cannot read {name}: {why}; give another --target")
    config = builder.create_builder_config()
    config.set_flag(module.BuilderFlag.SPARSE_WEIGHTS)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for tensor, three in shapes.items():
        profile.set_shape(tensor, *three)
    config.add_optimization_profile(profile)
    with _timing_cache(module, config, device.gpu.name):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NmcompileError(f"TensorRT cannot build {name}: {said(logger)}; give another --target")
    session = Session(module, bytes(plan), name)
    inputs = {tensor: _noise(three[1]) for tensor, three in shapes.items()}
    times = session.profile(inputs, _RUNS)
    medians = {layer: statistics.median(found) for layer, found in times.items()}
    return Engine(bytes(plan), tuple(logger.lines), session.describe(), medians)


def built_facts(profile: Profile, plugins: bool) -> Built:
    """What the manifest says of an engine that was built here."""
    gpu = open_device().gpu
    version = version_of(find_tensorrt())
    return Built(version, gpu.name, gpu.compute_capability, profile.sizes, plugins)


def _strongly_typed(module: Any) -> int:
    """The flags of a network whose types are those of the model; from 11 on there is no other."""
    if major_of(module) > 10:
        return 0
    return 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@contextlib.contextmanager
def _timing_cache(module: Any, config: Any, gpu: str) -> Iterator[None]:
    """Lets a build use what builds before it timed, by version and GPU, and add to it."""
    words = re.sub(r"\W+", "-", f"{module.__version__} {gpu}")
    path = cache_folder() / f"tensorrt-{words}.timing"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(found)
        if cache is None or not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")  # damaged, or of another driver
            config.set_timing_cache(cache, False)
        yield
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            stream.write(bytes(config.get_timing_cache().serialize()))
        Path(stream.name).replace(path)
    except OSError as error:
        raise NmcompileError(
            f"{path}: cannot keep TensorRT's timings there ({error}); set NMCOMPILE_CACHE to a "
            "writable folder"
        ) from None


def _inputs(interface: Interface) -> list[str]:
    return [interface.input_name, *(extra.name for extra in interface.extra_inputs)]


def _shape(interface: Interface, index: int, size: Size) -> tuple[int, ...]:
    batch, height, width = size
    if index == 0:
        return batch, interface.channels, height, width
    sizes: dict[int | str, int] = {0: batch, "H": height, "W": width}
    return tuple(int(sizes.get(item, item)) for item in interface.extra_inputs[index - 1].shape)


def _noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)
