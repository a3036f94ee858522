"""Layers and patterns -> the faster of cuDNN and our operator, both in ONNX Runtime on this GPU."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from nmcompile.backends.custom_ops import CustomOpsTarget
from nmcompile.backends.nmconv import OPERATOR
from nmcompile.backends.nmconv_onnx import obstacles, write_nmconv
from nmcompile.backends.nmconv_pack import CUDA_PATTERNS
from nmcompile.backends.onnx import median_ms
from nmcompile.context import ConvSpec
from nmcompile.pattern import Pattern
from nmcompile.program import Program
from nmcompile.runtime.cuda import open_device
from nmcompile.runtime.custom_ops import (
    ABI_VERSION,
    DENSE_MODEL,
    CustomOps,
    check_capability,
    custom_ops_library,
)
from nmcompile.runtime.executor import CUDA_PROVIDER, check_provider
from nmcompile.runtime.native.cuda_pack import Half


class CudaTarget(CustomOpsTarget):
    """onnxruntime-gpu in fp16: dense layers by cuDNN, others by nmcompile::NMConv where it gains.

    Attributes:
        gpu: what layers are timed on.
    """

    executor = "onnxruntime-cuda"
    precision = "fp16"
    format = "cuda"
    half = Half.FP16
    layout = "NHWC"
    provider = CUDA_PROVIDER

    def __init__(self, name: str = "cuda", outside: Collection[str] = ()) -> None:
        """Looks for a GPU, ONNX Runtime's CUDA provider and our library.

        Raises:
            NmcompileError: one of them is missing.
        """
        self.gpu = open_device().gpu
        check_capability(self.gpu)
        check_provider(onnxruntime, self.provider)
        self._begin(name, None, outside, custom_ops_library(cuda=True))

    def fitted(self, program: Program, size: tuple[int, int]) -> CudaTarget:
        """This target, knowing which of the network's layers our operator cannot run."""
        return CudaTarget(self.name, frozenset(obstacles(program, self.format)))

    def key(self) -> tuple[str, ...]:
        """GPU, versions and kernels."""
        return (*super().key(), self.provider, str(self.gpu))

    def default_patterns(self) -> tuple[Pattern, ...]:
        """Those of sparse tensor cores, and those whose channels are gathered."""
        return CUDA_PATTERNS

    def needs(self, nodes: dict[str, str]) -> CustomOps:
        """What an engine with those nodes needs."""
        gpu = self.gpu
        return CustomOps(ABI_VERSION, self.provider, nodes, gpu.name, gpu.compute_capability)

    def write_dense(self, folder: Path, dense: Program) -> None:
        """Writes the original in halves, all by cuDNN, to compare with."""
        write_nmconv(dense, folder / DENSE_MODEL, format=self.format, half=self.half, layers=())

    def time_ms(self, model: onnx.ModelProto, spec: ConvSpec) -> float:
        """Median time of a model x -> y, both of them on the GPU."""
        session = self.opened(model).session
        x = np.random.default_rng(0).standard_normal(spec.input_shape).astype(np.float16)
        if model.graph.node[0].op_type == OPERATOR:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x, "cuda", 0))
        binding.bind_output("y", "cuda")

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return median_ms(run)
