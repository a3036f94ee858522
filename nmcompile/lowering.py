"""A pruned Program and its dense original -> the parts of an engine folder, and its manifest."""

from __future__ import annotations

import io
from pathlib import Path

import torch

import nmcompile
from nmcompile.backends.cpu import allowed_kernels, most_isa
from nmcompile.backends.cuda import CudaTarget
from nmcompile.backends.custom_ops import CustomOpsTarget
from nmcompile.backends.native import Allowed, lower
from nmcompile.backends.onnx import (
    check_onnx,
    exchange_weights,
    export_onnx,
    export_program,
    write_onnx,
)
from nmcompile.backends.region_parts import write_regions
from nmcompile.backends.routed_onnx import check_routed, export_routed
from nmcompile.backends.tensorrt import TensorRtTarget, plugin_layers
from nmcompile.backends.tensorrt_build import DENSE_PLAN
from nmcompile.backends.tensorrt_receipt import check_strict, layer_facts
from nmcompile.capture.tracing import quiet
from nmcompile.context import Context, ConvSpec
from nmcompile.convs import weight_uses
from nmcompile.engine import Built, Manifest, Routing
from nmcompile.passes.measure_latency import conv_spec
from nmcompile.program import Program
from nmcompile.receptive_field import receptive_halo
from nmcompile.routing.facts import levels_json
from nmcompile.routing.making import Adaptive
from nmcompile.runtime.custom_ops import DENSE_MODEL, open_custom
from nmcompile.runtime.engine import Executor
from nmcompile.runtime.executor import MODEL, NATIVE, OrtExecutor
from nmcompile.runtime.routed import HEAD
from nmcompile.runtime.tensorrt import TensorRtExecutor
from nmcompile.shapes import peak_bytes, shapes_at

# What ONNX Runtime takes on top of the values alive at once (measured on the sample network).
_SLACK = 1.5


def write_parts(
    folder: Path, dense: Program, sparse: Program, ctx: Context, adaptive: Adaptive | None = None
) -> Built | None:
    """Writes what the target runs, model.onnx, and the dense original to compare with.

    Args:
        folder: of the engine.
        dense: the original.
        sparse: what was made of it; of an input-adaptive network the last level.
        ctx: the target.
        adaptive: its levels and its head.

    Returns:
        What a TensorRT engine was built with; None for other targets.

    Raises:
        NmcompileError: the target cannot run the network, or not as strictly as was asked.
    """
    built = None
    levels = adaptive.nested.places() if adaptive else None
    if ctx.target.executor == "native":
        (folder / NATIVE).write_bytes(lower(sparse, allowed_kernels(ctx.target), levels))
    elif ctx.target.executor == "regions":
        write_regions(folder, sparse, allowed_kernels(ctx.target))
    elif isinstance(ctx.target, CustomOpsTarget):
        ctx.target.write(folder, sparse)
    elif isinstance(ctx.target, TensorRtTarget):
        built = _write_tensorrt(folder, dense, sparse, ctx.target, ctx.reference_size)
    exported = export_program(dense)
    archive = io.BytesIO()  # on a full disk torch's own writer ends the process
    with quiet():
        torch.export.save(exported, archive)
    (folder / "dense.pt2").write_bytes(archive.getbuffer())
    write_onnx(exported, dense.interface, folder / "dense.onnx")
    check_onnx(dense, folder / "dense.onnx")
    if adaptive:
        _write_adaptive(folder, adaptive, ctx)
    elif isinstance(ctx.target, CustomOpsTarget):
        if isinstance(ctx.target, CudaTarget):
            ctx.target.write_dense(folder, dense)
    elif not exchange_weights(folder / "dense.onnx", dense, sparse, folder / MODEL):
        export_onnx(sparse, folder / MODEL)
    return built


def settle_kernels(program: Program, ctx: Context) -> Program:
    """The program, its plan naming the kernel of each layer where the target weighs several."""
    if not isinstance(ctx.target, CustomOpsTarget):
        return program
    return ctx.target.settled(program, _calls(program, ctx.reference_size))


def _calls(program: Program, size: tuple[int, int]) -> dict[str, list[ConvSpec]]:
    """Weight name -> what the speed of each of its uses depends on."""
    shapes = shapes_at(program, size)
    return {
        name: [conv_spec(program, node, shapes) for node in nodes]
        for name, nodes in weight_uses(program.module).items()
    }


def open_dense(folder: Path, manifest: Manifest, threads: int) -> Executor:
    """What runs the dense original that an engine is compared with, where the engine runs."""
    if manifest.executor == "tensorrt":
        return TensorRtExecutor(folder / DENSE_PLAN, manifest)
    if manifest.executor == CudaTarget.executor:
        return open_custom(folder, threads, DENSE_MODEL)
    return OrtExecutor(folder / "dense.onnx", threads)


def _write_tensorrt(
    folder: Path, dense: Program, sparse: Program, target: TensorRtTarget, size: tuple[int, int]
) -> Built:
    """Writes both engines; with --strict, NmcompileError if a pruned layer runs dense."""
    plugins = plugin_layers(target, sparse, _calls(sparse, size))
    built = target.write(folder, dense, sparse, plugins, size)
    if target.strict:
        check_strict(layer_facts(sparse, folder))
    return built


def _write_adaptive(folder: Path, adaptive: Adaptive, ctx: Context) -> None:
    """Writes the head, the plans' patterns, and one ONNX file with all levels and the head."""
    if ctx.target.executor == "native":
        # In fp32: it takes a hundredth of the time, and its scores decide.
        (folder / HEAD).write_bytes(lower(adaptive.head, Allowed(most_isa(ctx.target.name))))
    (folder / "levels.json").write_text(levels_json(adaptive))
    export_routed(adaptive.nested, adaptive.head, adaptive.offsets, folder / MODEL)
    check_routed(adaptive.nested, adaptive.head, adaptive.offsets, folder / MODEL)


def make_manifest(
    program: Program,
    ctx: Context,
    routing: Routing | None = None,
    built: Built | None = None,
) -> Manifest:
    """What the runtime must know of the network."""
    interface = program.interface
    halo, reason = receptive_halo(program)
    height, width = ctx.reference_size
    peak = peak_bytes(program, shapes_at(program, ctx.reference_size))
    return Manifest(
        target=ctx.target.name,
        executor=ctx.target.executor,
        task=str(ctx.task),
        input_name=interface.input_name,
        channels=interface.channels,
        scale=interface.scale,
        value_range=interface.value_range,
        multiple=interface.multiple,
        minimum=interface.minimum,
        fixed_size=interface.fixed_size,
        halo=halo,
        halo_reason=reason,
        bytes_per_pixel=int(_SLACK * peak / (height * width)),
        extra_inputs=interface.extra_inputs,
        routing=routing,
        built=built,
        created_by=f"nmcompile {nmcompile.__version__}",
    )
