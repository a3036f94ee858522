"""A pruned Program and its dense original -> the parts of an engine folder, and its manifest."""

from __future__ import annotations

import io
from pathlib import Path

import torch

import nmcompile
from nmcompile.backends.cpu import allowed_kernels
from nmcompile.backends.native import lower
from nmcompile.backends.onnx import (
    check_onnx,
    exchange_weights,
    export_onnx,
    export_program,
    write_onnx,
)
from nmcompile.backends.region_parts import write_regions
from nmcompile.capture.tracing import quiet
from nmcompile.context import Context
from nmcompile.engine import Manifest
from nmcompile.program import Program
from nmcompile.receptive_field import receptive_halo
from nmcompile.runtime.executor import MODEL, NATIVE
from nmcompile.shapes import peak_bytes, shapes_at

# What ONNX Runtime takes on top of the values alive at once (measured on the sample network).
_SLACK = 1.5


def write_parts(folder: Path, dense: Program, sparse: Program, ctx: Context) -> None:
    """Writes what the target runs, model.onnx, and the dense original to compare with."""
    if ctx.target.executor == "native":
        (folder / NATIVE).write_bytes(lower(sparse, allowed_kernels(ctx.target)))
    elif ctx.target.executor == "regions":
        write_regions(folder, sparse, allowed_kernels(ctx.target))
    exported = export_program(dense)
    archive = io.BytesIO()  # on a full disk torch's own writer ends the process
    with quiet():
        torch.export.save(exported, archive)
    (folder / "dense.pt2").write_bytes(archive.getbuffer())
    write_onnx(exported, dense.interface, folder / "dense.onnx")
    check_onnx(dense, folder / "dense.onnx")
    if not exchange_weights(folder / "dense.onnx", dense, sparse, folder / MODEL):
        export_onnx(sparse, folder / MODEL)


def make_manifest(program: Program, ctx: Context) -> Manifest:
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
        created_by=f"nmcompile {nmcompile.__version__}",
    )
