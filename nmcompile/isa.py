"""The most modern instruction set that a benchmark may use -> every runtime held to it.

| --isa | our kernels (NMK_ISA) | OpenVINO, torch's oneDNN | torch's own loops |
| --- | --- | --- | --- |
| portable | portable | AVX, the least that OpenVINO still makes convolutions for | default |
| avx2 | avx2 | AVX2 | avx2 |
| avx512 | avx512 | AVX512_CORE, in fp32 | avx512 |
| avx512_bf16 | avx512_bf16 | AVX512_CORE_BF16 | avx512 |
| avx512_fp16 | avx512_fp16 | AVX512_CORE_FP16: all of AVX-512, and no AMX | avx512 |
| amx | amx | AVX512_CORE_AMX | avx512 |

ONNX Runtime's kernels (MLAS) have no such switch and use all that the processor has. OpenVINO's
convolutions obey; a few of its own loops over elements do not.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from nmcompile.errors import NmcompileError
from nmcompile.runtime import native


@dataclass(frozen=True)
class Cap:
    """One instruction set as each runtime calls it.

    Attributes:
        needed: features of the processor, as nmcompile.runtime.native.cpu_features names them.
        onednn: ONEDNN_MAX_CPU_ISA.
        aten: ATEN_CPU_CAPABILITY.
    """

    needed: frozenset[str]
    onednn: str
    aten: str


_AVX2 = frozenset(("AVX2", "FMA"))
_AVX512 = _AVX2 | {"AVX512F", "AVX512BW", "AVX512VL"}
_BF16 = _AVX512 | {"AVX512_BF16"}
_FP16 = _BF16 | {"AVX512_FP16"}
CAPS = {
    "portable": Cap(frozenset(), "AVX", "default"),
    "avx2": Cap(_AVX2, "AVX2", "avx2"),
    "avx512": Cap(_AVX512, "AVX512_CORE", "avx512"),
    "avx512_bf16": Cap(_BF16, "AVX512_CORE_BF16", "avx512"),
    "avx512_fp16": Cap(_FP16, "AVX512_CORE_FP16", "avx512"),
    "amx": Cap(_FP16 | {"AMX_TILE", "AMX_BF16"}, "AVX512_CORE_AMX", "avx512"),
}
_WITHOUT_BF16 = ("AVX", "AVX2", "AVX512_CORE")
# Read once, when one of these packages is loaded.
_LOADED_ONCE = ("openvino", "torch")
UNCAPPED = "ONNX Runtime has no switch for the instruction set and used all that the processor has"


def openvino_precision() -> str:
    """The precision to ask of OpenVINO where it is left its choice; "" if it may choose.

    It takes bf16 wherever the processor has it, also below a cap that forbids those instructions,
    and then finds no kernel. Held to less, a processor is one without bf16.
    """
    return "f32" if os.environ.get("ONEDNN_MAX_CPU_ISA") in _WITHOUT_BF16 else ""


def cap_isa(name: str) -> None:
    """Holds libnmk, OpenVINO and torch in this process to an instruction set.

    Raises:
        NmcompileError: there is none of that name, the processor lacks it, or a runtime that reads
            it only once is loaded already.
    """
    if name not in CAPS:
        raise NmcompileError(f"--isa {name}: expected one of {', '.join(CAPS)}")
    cap, features = CAPS[name], set(native.cpu_features())
    missing = sorted(cap.needed - features)
    if missing:
        able = [other for other, its in CAPS.items() if its.needed <= features]
        raise NmcompileError(
            f"--isa {name}: this processor ({native.cpu_name()}) lacks {', '.join(missing)}; "
            f"give one of {', '.join(able)}"
        )
    wanted = {"ONEDNN_MAX_CPU_ISA": cap.onednn, "ATEN_CPU_CAPABILITY": cap.aten}
    late = [package for package in _LOADED_ONCE if package in sys.modules]
    if late and any(os.environ.get(key) != value for key, value in wanted.items()):
        raise NmcompileError(
            f"--isa {name}: {' and '.join(late)} read the instruction set when they were loaded, "
            "which they are already; run `nmcompile bench` in a process of its own"
        )
    os.environ.update(wanted, NMK_ISA=name)
