"""An engine folder + an image of any size and depth -> the restored image, at bounded memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nmcompile.engine import Manifest, read_manifest
from nmcompile.errors import NmcompileError
from nmcompile.runtime.assembly import Assembly, Network
from nmcompile.runtime.custom_ops import open_custom
from nmcompile.runtime.executor import (
    MODEL,
    NATIVE,
    NativeExecutor,
    OrtExecutor,
    check_threads,
)
from nmcompile.runtime.inputs import check_names, check_tensor, filled
from nmcompile.runtime.pixels import Picture, Tensor, check_picture, enlarged, to_tensor
from nmcompile.runtime.regions import RegionExecutor
from nmcompile.runtime.routed import AtLevel, Routed, open_routed
from nmcompile.runtime.router import Router
from nmcompile.runtime.routing import Effort, Route, Routes, read_route
from nmcompile.runtime.tensorrt import PLAN, TensorRtExecutor
from nmcompile.runtime.tiling import TilePlan, plan_tiles

Executor = Callable[[Mapping[str, NDArray[Any]]], Tensor]

_LOGGER = logging.getLogger("nmcompile.runtime")


def load(path: Path | str, threads: int | None = None, check_parts: bool = True) -> Engine:
    """Loads an engine.

    Args:
        path: the engine's folder.
        threads: how many threads it may use; None takes every core.
        check_parts: whether to compare every part with its SHA-256.

    Raises:
        NmcompileError: not an engine, damaged, of a newer version, or nothing here can run it.
    """
    folder = Path(path)
    count = check_threads(threads)
    manifest = read_manifest(folder, check_parts)
    engine = open_engine(folder, manifest, count)
    _tell(engine)
    return engine


def open_engine(folder: Path, manifest: Manifest, threads: int) -> Engine:
    """An engine whose manifest is known; NmcompileError if nothing here can run its parts."""
    if manifest.routing is None:
        return Engine(folder, manifest, open_executor(folder, manifest, threads))
    routed = open_routed(folder, manifest, len(manifest.routing.costs), threads)
    return Engine(folder, manifest, AtLevel(routed, routed.levels - 1), routed)


def _tell(engine: Engine) -> None:
    """Logs which kernels were chosen; warns where they are not those that the engine is for."""
    runs_in = f"libnmk's {engine.isa} kernels" if engine.isa else engine.manifest.executor
    _LOGGER.info("%s runs in %s", engine.path, runs_in)
    wanted = engine.manifest.target.partition(":")[2]
    if engine.isa and wanted not in ("", engine.isa):
        _LOGGER.warning(
            "%s was compiled for %s kernels, which this processor or NMK_ISA excludes; it runs in "
            "%s kernels, where other patterns may be faster: compile it with --target cpu:%s",
            engine.path, wanted, engine.isa, engine.isa,
        )  # fmt: skip


def open_executor(folder: Path, manifest: Manifest, threads: int) -> Executor:
    """What runs an engine's parts; NmcompileError if they are damaged or nothing here can."""
    if manifest.executor == "native":
        return NativeExecutor(folder / NATIVE, threads)
    if manifest.executor == "regions":
        return RegionExecutor(folder, threads)
    if manifest.executor == "onnxruntime":
        return OrtExecutor(folder / MODEL, threads)
    if manifest.executor in ("onnxruntime-nmconv", "onnxruntime-cuda"):
        return open_custom(folder, threads)
    if manifest.executor == "tensorrt":
        return TensorRtExecutor(folder / PLAN, manifest)
    raise NmcompileError(
        f"{folder} needs the executor {manifest.executor!r}, this nmcompile has onnxruntime "
        "(also -nmconv and -cuda), native, regions and tensorrt; "
        f"update nmcompile (the engine was made by {manifest.created_by or 'unknown'})"
    )


class Engine:
    """A compiled network, ready to run.

    Attributes:
        path: the engine's folder.
        manifest: its sizes, range and inputs.
        isa: the family of libnmk's kernels that it runs in, None where another runtime runs it.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        executor: Executor,
        routed: Routed | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.isa: str | None = getattr(executor, "isa", None)
        self._executor, self._routed = executor, routed

    def at(self, level: int) -> Engine:
        """One level of an input-adaptive engine, as an engine of its own, without a head.

        Raises:
            NmcompileError: it has no such level.
        """
        count = 0 if self._routed is None else self._routed.levels
        if self._routed is None or not 0 <= level < count:
            raise NmcompileError(f"{self.path} has {count} levels, there is no level {level}")
        manifest = dataclasses.replace(self.manifest, routing=None)
        return Engine(self.path, manifest, AtLevel(self._routed, level))

    def run(self, x: Tensor, /, effort: Effort = None, **extras: ArrayLike) -> Tensor:
        """Runs the network itself, on a tensor; an input-adaptive one at a level for each image.

        Args:
            x: N x C x H x W, float32, in the network's own range.
            effort: of an input-adaptive engine, see `restore`.
            **extras: further inputs by name; a number fills the whole input. One that is left
                out gets the manifest's value.

        Returns:
            N x C x scale*H x scale*W, float32, in the network's own range, not clipped.

        Raises:
            NmcompileError: a size, type or name that the network does not take.
        """
        check_tensor(self.manifest, x)
        check_names(self.manifest, extras)
        route, inputs = self._route(effort), self._inputs(x, extras)
        if route is None or self._routed is None or len(x) == 0:
            output = self._executor(inputs)
        else:
            router = Router(self.manifest, route, self._routed, partial(self._inputs, extras={}))
            output = router.each(inputs)
        expected = tuple(self.manifest.scale * size for size in x.shape[2:])
        if output.shape[2:] != expected:
            raise NmcompileError(
                f"{self.path}: the model gives {output.shape[2:]} pixels where the manifest "
                f"promises {expected}; compile the engine again"
            )
        return output

    def _inputs(self, x: Tensor, extras: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """All inputs of the network, for a batch of images."""
        inputs: dict[str, NDArray[Any]] = {self.manifest.input_name: x}
        for extra in self.manifest.extra_inputs:
            inputs[extra.name] = filled(extra, extras.get(extra.name, extra.value), x.shape)
        return inputs

    def _route(self, effort: Effort, by: str | None = None) -> Route | None:
        """What a caller asks for; None for an engine without routing, to which nothing may be."""
        routing = self.manifest.routing
        if routing is not None:
            return read_route(routing, self.manifest.scale, effort, by)
        if effort is not None or by is not None:
            raise NmcompileError(
                f"{self.path} is not input-adaptive: it has one level and takes no effort or "
                "routing; leave these out, or compile it with --route"
            )
        return None

    def plan(self, height: int, width: int, tile: int | None = None) -> TilePlan:
        """How `restore` would tile an image of this size; its `note` says what that costs."""
        return plan_tiles(self.manifest, height, width, tile)

    def restore(
        self,
        image: Picture,
        tile: int | None = None,
        extras: Mapping[str, float] | None = None,
        warn: Callable[[str], None] = _LOGGER.warning,
        progress: Callable[[int, int], None] | None = None,
        effort: Effort = None,
        route_by: str | None = None,
        told: Callable[[Routes], None] | None = None,
    ) -> Picture:
        """Restores one picture, whatever its size.

        A grey picture goes through a colour network as three equal channels whose mean is kept;
        a colour picture goes through a grey network channel by channel; alpha is kept (enlarged
        linearly). Memory stays bounded: see `plan`.

        Args:
            image: H x W or H x W x C with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
                alpha); uint8, uint16, or float32 with values 0..1.
            tile: largest height and width of a tile, in pixels; None tiles only what would need
                too much memory.
            extras: numbers that fill the network's further inputs, by name.
            warn: told when the result differs from the untiled one.
            progress: told (tiles done, tiles in all) after every tile.
            effort: of an input-adaptive engine, 0..1, `min` (0, the first level everywhere) or
                `max` (1, the last, as if it were alone); None takes the engine's own.
            route_by: `tile` or `image`; None takes the engine's own.
            told: given at the end what an input-adaptive engine chose.

        Returns:
            The picture, `scale` times as large, same type, same number of dimensions.

        Raises:
            NmcompileError: an image or value that the network does not take.
        """
        check_picture(image)
        check_names(self.manifest, extras or {})
        route = self._route(effort, route_by)
        plan = self.plan(image.shape[0], image.shape[1], tile)
        if plan.note:
            warn(plan.note)
        picture = image[:, :, None] if image.ndim == 2 else image
        height, width, channels = picture.shape
        scale = self.manifest.scale
        result = np.empty((height * scale, width * scale, channels), image.dtype)
        colours = 1 if channels < 3 else 3
        if channels > colours:
            result[..., colours] = enlarged(picture[..., colours], scale)
        groups = _channel_groups(colours, self.manifest.channels)
        routes = Routes(route.routing, height, width, len(groups)) if route else None
        for number, group in enumerate(groups):
            source, target = picture[..., group], result[..., group]
            network = self._network(source, extras or {}, route, routes)
            for done in Assembly(network, self.manifest, plan, source, target).steps():
                if progress is not None:
                    progress(number * plan.count + done, len(groups) * plan.count)
        if routes is not None and told is not None:
            told(routes)
        return result[:, :, 0] if image.ndim == 2 else result

    def _network(
        self,
        source: Picture,
        extras: Mapping[str, float],
        route: Route | None,
        routes: Routes | None,
    ) -> Network:
        """What restores a tile of a picture, given where it begins."""
        if self._routed is None or route is None:
            return lambda x, _: self.run(x, effort=None, **extras)
        inputs = partial(self._inputs, extras=extras)
        router = Router(self.manifest, route, self._routed, inputs, routes)
        value_range, channels = self.manifest.value_range, self.manifest.channels
        return router.network(lambda: to_tensor(source, value_range, channels))


def _channel_groups(colours: int, channels: int) -> list[slice]:
    """Which channels of a picture go through the network together."""
    if channels == 1:
        return [slice(channel, channel + 1) for channel in range(colours)]
    if colours == channels or colours == 1:
        return [slice(0, colours)]
    raise NmcompileError(f"the network takes {channels} channels, the image has {colours} colours")
