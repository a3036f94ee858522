"""An eager module or ExportedProgram -> a Program: functional ATen graph, dynamic N, H and W."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Interface, Program
from nmcompile.sizes import Shape, Sizes, find_sizes

_NOT_ARITHMETIC = {"_guards_fn"}
_EXTRA_SHAPES: tuple[tuple[int | str, ...], ...] = ((0, 1, 1, 1), (0, 1, "H", "W"), (0,), (0, 1))
_UNKNOWN = float("nan")  # settled by nmcompile.assumptions
_TOLERANCE = 1e-4


def capture(
    model: nn.Module | ExportedProgram,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    extras: Sequence[ExtraInput] | None = None,
    value_range: float = 1.0,
) -> Program:
    """Reads a network into a Program.

    Args:
        model: takes an image batch [N, C, H, W] (and perhaps further inputs), gives [N, C', sH, sW].
        channels: image channels; found by trial if None.
        size: (H, W) to trace at; found by trial if None.
        extras: further inputs in order; their shapes are found by trial if None.
        value_range: 1.0 or 255.0.

    Returns:
        A Program whose graph works at every size that the network itself allows.

    Raises:
        NmcompileError: the network cannot be exported, or is no image-to-image network.
    """
    with quiet():
        if isinstance(model, ExportedProgram):
            return _from_exported(model, extras, value_range)
        return _from_module(model.eval(), channels, size, extras, value_range)


def _from_module(
    model: nn.Module,
    channels: int | None,
    size: tuple[int, int] | None,
    extras: Sequence[ExtraInput] | None,
    value_range: float,
) -> Program:
    names = _input_names(model)
    tried = (channels,) if channels else (3, 1)
    faults: list[NmcompileError] = []
    for shapes in _extra_candidates(names[1:], extras):
        try:
            sizes = find_sizes(_shape_function(model, shapes), tried)
        except NmcompileError as error:
            faults.append(error)
            continue
        interface = _interface(names[0], sizes, shapes, value_range)
        return Program(_export(model, interface, size), interface)
    raise faults[0]


def _from_exported(
    exported: ExportedProgram, extras: Sequence[ExtraInput] | None, value_range: float
) -> Program:
    module = _clean(exported.run_decompositions({}).module())
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    shape = tuple(inputs[0].meta["val"].shape)
    if len(shape) != 4:
        raise NmcompileError(
            f"the archive's first input is {shape}; expected an image [N, C, H, W]"
        )
    found = tuple(extras or ()) or _archive_extras(exported, inputs, shape)
    height, width = shape[2:]
    if isinstance(height, int) or isinstance(width, int):
        fixed = (_hint(height), _hint(width))
        out = module(torch.zeros(1, int(shape[1]), *fixed), *_extra_tensors(found, *fixed)).shape
        sizes = Sizes(int(shape[1]), out[2] // fixed[0], 1, min(fixed))
        interface = _interface(inputs[0].name, sizes, found, value_range, fixed)
    else:
        sizes = find_sizes(_shape_function(module, found), (int(shape[1]),))
        interface = _interface(inputs[0].name, sizes, found, value_range)
    return Program(module, interface)


def _hint(size: Any) -> int:
    return int(size) if isinstance(size, int) else int(size.node.hint)


def _archive_extras(
    exported: ExportedProgram, inputs: list[fx.Node], image: Sequence[Any]
) -> tuple[ExtraInput, ...]:
    marks = {str(image[0]): 0, str(image[2]): "H", str(image[3]): "W"}
    examples = (exported.example_inputs or ((), {}))[0]
    extras = []
    for index, node in enumerate(inputs[1:], 1):
        shape = tuple(
            item if isinstance(item, int) else marks.get(str(item), 1)
            for item in node.meta["val"].shape
        )
        example = examples[index] if index < len(examples) else torch.tensor(_UNKNOWN)
        if not isinstance(example, Tensor):
            raise NmcompileError(f"input {node.name} of the archive is no tensor; expected tensors")
        shape = (0, *shape[1:]) if shape and shape[0] == example.shape[0] else shape
        extras.append(ExtraInput(node.name, shape, float(example.float().mean())))
    return tuple(extras)


def _input_names(model: nn.Module) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional and p.default is p.empty]
    if not names:
        raise NmcompileError(f"{type(model).__name__}.forward takes no input; expected an image")
    return names


def _extra_candidates(
    names: list[str], extras: Sequence[ExtraInput] | None
) -> Iterator[tuple[ExtraInput, ...]]:
    if extras is not None or not names:
        yield tuple(extras or ())
        return
    for shape in _EXTRA_SHAPES:
        yield tuple(ExtraInput(name, shape, _UNKNOWN) for name in names)


def _interface(
    name: str,
    sizes: Sizes,
    extras: Sequence[ExtraInput],
    value_range: float,
    fixed: tuple[int, int] | None = None,
) -> Interface:
    return Interface(
        name, sizes.channels, sizes.scale, value_range, sizes.multiple, sizes.minimum, fixed,
        tuple(extras),
    )  # fmt: skip


def _extra_tensors(
    extras: Sequence[ExtraInput], height: int, width: int, batch: int = 1
) -> tuple[Tensor, ...]:
    return Interface("", 1, 1, extra_inputs=tuple(extras)).extras(batch, height, width)


def _shape_function(model: nn.Module, extras: Sequence[ExtraInput]) -> Any:
    def shape_of(shape: Shape) -> Shape:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            out = model(torch.empty(shape), *_extra_tensors(extras, shape[2], shape[3], shape[0]))
        if not isinstance(out, Tensor):
            raise TypeError(f"the network returns {type(out).__name__}, expected one tensor")
        return tuple(out.shape)

    return shape_of


def _export(model: nn.Module, interface: Interface, size: tuple[int, int] | None) -> fx.GraphModule:
    """Exports with free N, H, W; where that fails or is wrong, in multiples; then at one size."""
    height, width = size or _trace_size(interface)
    step = interface.multiple
    free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    stepped = {0: Dim.AUTO, 2: step * Dim("h", max=1 << 14), 3: step * Dim("w", max=1 << 14)}
    faults = []
    for spec in (free, stepped if step > 1 else None):
        if spec is None:
            continue
        try:
            module = _export_once(model, interface, (height, width), spec)
            _check_sizes(model, module, interface)
            return module
        except Exception as error:
            faults.append((str(error).strip().splitlines() or [type(error).__name__])[0][:300])
    raise NmcompileError(
        f"torch.export cannot read {type(model).__name__} with free height and width: {faults[0]}; "
        "rewrite that part without Python branches on tensor sizes or values, or export it "
        "yourself at one size: torch.export.save(torch.export.export(model, (x,)), 'model.pt2')"
    )


def _trace_size(interface: Interface) -> tuple[int, int]:
    """Two different sizes, so that export does not take height and width for one dimension."""
    step = interface.multiple
    height = -(-max(interface.minimum + step, 40) // step) * step
    return height, height + step


def _export_once(
    model: nn.Module, interface: Interface, size: tuple[int, int], spec: dict[int, Any]
) -> fx.GraphModule:
    image = torch.rand(2, interface.channels, *size) * interface.value_range
    names = {0: spec[0], "H": spec[2], "W": spec[3]}
    extra_specs = [
        {axis: names[item] for axis, item in enumerate(extra.shape) if item in names}
        for extra in interface.extra_inputs
    ]
    exported = torch.export.export(
        model, interface.arguments(image), dynamic_shapes=(spec, *extra_specs), strict=False
    )
    return _clean(exported.run_decompositions({}).module())


def _clean(module: Any) -> fx.GraphModule:
    """Removes what checks sizes instead of computing; the runtime checks them with better words."""
    graph: fx.Graph = module.graph
    for node in reversed(list(graph.nodes)):
        checks = node.op == "call_module" and node.target in _NOT_ARITHMETIC
        asserts = "assert" in str(node.target) or "sym_constrain" in str(node.target)
        if (checks or asserts) and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    clean: fx.GraphModule = module
    return clean


def _check_sizes(model: nn.Module, module: fx.GraphModule, interface: Interface) -> None:
    generator = torch.Generator().manual_seed(0)
    base = _trace_size(interface)[0]
    least = interface.minimum
    for batch, height, width in (
        (1, least, least), (1, base, base), (3, base + interface.multiple, base),
    ):  # fmt: skip
        image = torch.rand(batch, interface.channels, height, width, generator=generator)
        arguments = interface.arguments(image * interface.value_range)
        with torch.no_grad():
            expected, found = model(*arguments), module(*arguments)
        error = float((expected - found).abs().max()) / interface.value_range
        if expected.shape != found.shape or not error <= _TOLERANCE:
            raise NmcompileError(f"the exported graph differs from the module by {error:.2g}")


@contextmanager
def quiet() -> Iterator[None]:
    """torch prints its own internals while sizes are tried; what matters is raised or noted."""
    loggers = [logging.getLogger(name) for name in ("torch._subclasses.fake_tensor", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
