"""Layers and patterns -> the faster of TensorRT's own tactic and our plugin, timed on this GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from nmcompile.backends.nmconv_fuse import find_convs, fuse
from nmcompile.backends.nmconv_pack import CUDA_PATTERNS, TAKES
from nmcompile.backends.tensorrt_build import (
    DENSE_PLAN,
    Engine,
    Profile,
    build_engine,
    built_facts,
    default_profile,
)
from nmcompile.backends.tensorrt_log import node_names
from nmcompile.backends.tensorrt_onnx import half_model, one_layer
from nmcompile.context import ConvSpec
from nmcompile.engine import Built
from nmcompile.errors import NmcompileError
from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.program import Interface, Program
from nmcompile.runtime.cuda import open_device
from nmcompile.runtime.native import cuda_pack
from nmcompile.runtime.native.blob import Activation, ConvShape
from nmcompile.runtime.native.trt_plugin import plugin_library
from nmcompile.runtime.tensorrt import PLAN
from nmcompile.runtime.tensorrt_module import find_tensorrt, major_of

TACTIC, PLUGIN = "tensorrt", "nmconv"
_CHANNELS = 8  # an image's vectors of channels, as the plugin reads and writes them


class TensorRtTarget:
    """TensorRT 10 or 11 on an NVIDIA GPU, in fp16, strongly typed.

    Attributes:
        profile: the images that engines take; None for default_profile.
        strict: whether a pruned layer that runs dense is an error.
        plugins: whether the plugin library is there; `note` says why not.
    """

    executor = "tensorrt"
    precision = "fp16"
    threads: int | None = None

    def __init__(
        self, name: str = "tensorrt", profile: Profile | None = None, strict: bool = False
    ) -> None:
        """Looks for TensorRT, a GPU and the plugin library.

        Raises:
            NmcompileError: there is no TensorRT or no GPU.
        """
        self.name, self.profile, self.strict = name, profile, strict
        module, self.gpu = find_tensorrt(), open_device().gpu
        self.version = str(module.__version__)
        self.plugins, self.note, self._fingerprint = True, "", ""
        try:
            library = plugin_library(major_of(module))
            self._fingerprint = hashlib.sha256(library.read_bytes()).hexdigest()[:16]
        except NmcompileError as error:
            self.plugins, self.note = False, f"only TensorRT's own tactics are weighed: {error}"
        self._times: dict[tuple[ConvSpec, str, str], float] = {}

    def fitted(self, program: Program, size: tuple[int, int]) -> TensorRtTarget:
        """This target: TensorRT runs whatever ONNX can express in fp16, or says what it cannot.

        Raises:
            NmcompileError: an operation would not run in fp16, or `profile` does not fit.
        """
        half_model(program, ())
        self.profile_of(program.interface, size)
        return self

    def profile_of(self, interface: Interface, size: tuple[int, int]) -> Profile:
        """The images that an engine takes; NmcompileError if the network does not."""
        profile = self.profile or default_profile(interface, size)
        profile.check(interface)
        return profile

    def kernel(self, layer: Layer, pattern: Pattern) -> str:
        """The pattern is part of the name: zeros gain time in sparse tactics and in our plugin."""
        return f"fp16.{_form(layer.op, pattern)}"

    def key(self) -> tuple[str, ...]:
        """TensorRT, GPU, and which build of our plugin may run a layer besides TensorRT."""
        return (self.version, str(self.gpu), self._fingerprint)

    def latency_ms(self, spec: ConvSpec, kernel: str) -> float:
        """Median time of the layer in an engine of its own, as the faster of both runs it."""
        return self._fastest(spec, kernel)[0]

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Those of sparse tensor cores, and those that only our plugin gains by."""
        return CUDA_PATTERNS

    def runs_as_plugin(self, layer: Layer, calls: Collection[ConvSpec]) -> bool:
        """Whether our plugin is the faster one in every place where the layer's weight is used."""
        kernel = self.kernel(layer, layer.pattern)
        return all(self._fastest(spec, kernel)[1] == PLUGIN for spec in calls)

    def write(
        self,
        folder: Path,
        dense: Program,
        sparse: Program,
        plugins: Collection[str],
        size: tuple[int, int],
    ) -> Built:
        """Writes engine.plan and dense.plan, and beside each what TensorRT said of it.

        Args:
            folder: of the engine.
            dense: the original.
            sparse: what was made of it.
            plugins: the layers that become NMConv nodes.
            size: the reference size.

        Raises:
            NmcompileError: TensorRT cannot build one of them.
        """
        profile = self.profile_of(sparse.interface, size)
        shapes = profile.shapes(sparse.interface)
        for program, name, taken in ((sparse, PLAN, plugins), (dense, DENSE_PLAN, ())):
            model = half_model(program, taken).SerializeToString()
            engine = build_engine(model, shapes, name, bool(taken))
            engine.write(folder / name)
        return built_facts(profile, bool(plugins))

    def _fastest(self, spec: ConvSpec, kernel: str) -> tuple[float, str]:
        form = kernel.split(".", 1)[1]
        ways = [TACTIC]
        if self.plugins and plugin_obstacle(spec, _pattern_of(form)) is None:
            ways.append(PLUGIN)
        return min((self._timed(spec, form, way), way) for way in ways)

    def _timed(self, spec: ConvSpec, form: str, way: str) -> float:
        key = (spec, form, way)
        if key not in self._times:
            model = one_layer(spec, _pattern_of(form), way == PLUGIN).SerializeToString()
            shapes = {"x": (spec.input_shape,) * 3}
            engine = build_engine(model, shapes, f"a layer of {spec.shape}", way == PLUGIN)
            self._times[key] = layer_ms(engine)
        return self._times[key]


def plugin_layers(
    target: TensorRtTarget, program: Program, calls: Mapping[str, Collection[ConvSpec]]
) -> list[str]:
    """The pruned layers that are to be our plugin, as it is the faster one and can be written.

    Args:
        target: what times them.
        program: the pruned network.
        calls: layer -> the calls that apply its weight, at the reference size.
    """
    if not target.plugins:
        return []
    able = _writable(program)
    pruned = [layer for layer in program.the_plan.layers if not layer.pattern.is_dense]
    found = [layer for layer in pruned if layer.name in able]
    return [layer.name for layer in found if target.runs_as_plugin(layer, calls[layer.name])]


def _writable(program: Program) -> set[str]:
    """Layers that can be NMConv nodes and give vectors of channels, a shuffle after them or not."""
    found, _ = find_convs(program, TAKES["cuda"])
    fuse(found, TAKES["cuda"])
    ragged = {item.layer for item in found if item.shape[0] // item.shuffle**2 % _CHANNELS}
    return {item.layer for item in found} - ragged


def plugin_obstacle(spec: ConvSpec, pattern: Pattern) -> str | None:
    """Why a call cannot be our plugin's, or None if it can."""
    if spec.op != "conv2d" or pattern.is_dense:
        return f"{spec.op}, {pattern}; our plugin is for pruned convolutions"
    outputs, inputs = spec.shape[0], spec.shape[1] * spec.groups
    if outputs % _CHANNELS or inputs % _CHANNELS:
        return f"{inputs} and {outputs} channels; our plugin takes multiples of {_CHANNELS}"
    kernel = (spec.shape[2], spec.shape[3])
    shape = ConvShape(kernel, spec.stride, spec.dilation, spec.padding, spec.groups)
    return cuda_pack.obstacle(shape, Activation.NONE, inputs, outputs)


def layer_ms(engine: Engine) -> float:
    """The time of the layer under test, without the casts and reformats around it."""
    named = [ms for name, ms in engine.profile.items() if "layer" in node_names(name)]
    return sum(named) if named else sum(engine.profile.values())


def _form(op: str, pattern: Pattern) -> str:
    return "dense" if pattern.is_dense or op == "conv_transpose2d" else f"nm-{pattern}"


def _pattern_of(form: str) -> Pattern:
    return DENSE if form == "dense" else Pattern.parse(form.removeprefix("nm-"))
