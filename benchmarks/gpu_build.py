"""The CUDA sources -> libnmk_cuda.so by nvcc alone, and what each kernel takes of a multiprocessor.

python -m benchmarks.gpu_build --report     every target, as README's table
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "runtime" / "native"
TARGETS = ("80", "89", "90a")
OLDEST_NVCC = (12, 5)
_FLAGS = ("-std=c++17", "-O3", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-fvisibility=hidden",
          "-DNMK_BUILDING")  # fmt: skip
_KINDS = ("dense", "sparse", "gathered")


class BuildError(Exception):
    """What is missing or went wrong, in one line."""


@dataclass(frozen=True)
class Resources:
    """What ptxas says of one kernel for one target; bytes of spills count stores and loads."""

    kernel: str
    target: str
    registers: int
    stack_bytes: int
    spill_bytes: int


def nvcc() -> str:
    """Where nvcc is.

    Raises:
        BuildError: it is missing or too old.
    """
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    path = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if path is None:
        raise BuildError(f"found no nvcc on PATH or in {home}/bin; put it there, or set CUDA_HOME")
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < OLDEST_NVCC:
        raise BuildError(f"found nvcc {version[0]}.{version[1]} at {path}; 12.5 or later is needed")
    return path


def build(folder: Path, targets: Sequence[str], jobs: int | None = None) -> tuple[Path, str]:
    """Compiles the library for some targets; one made of the same sources is kept.

    Args:
        folder: where it goes.
        targets: compute capabilities, as in 90a.
        jobs: how many compilers run at once; None for one a core.

    Returns:
        The library, and what ptxas said.

    Raises:
        BuildError: no nvcc, or sources that do not compile.
    """
    compiler = nvcc()
    sources = [*sorted((NATIVE / "cuda").glob("*.cu")), *sorted((NATIVE / "cuda").glob("*.cpp"))]
    digest = _digest(compiler, targets)
    library = folder / f"libnmk_cuda-{digest}.so"
    log = library.with_suffix(".log")
    if library.is_file() and log.is_file():
        return library, log.read_text()
    folder.mkdir(parents=True, exist_ok=True)
    code = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    flags = [*_FLAGS, *code, f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'cuda'}"]
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        ThreadPoolExecutor(jobs or cores()) as pool,
    ):
        objects = [Path(name) / f"{source.name}.o" for source in sources]
        commands = [
            [compiler, *flags, "-c", str(source), "-o", str(made)]
            for source, made in zip(sources, objects, strict=True)
        ]
        said = "".join(pool.map(_run, commands))
        made = Path(name) / library.name
        _run([compiler, "-shared", *code, *map(str, objects), "-o", str(made)])
        made.rename(library)
    log.write_text(said)
    return library, said


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def resources(said: str) -> Iterator[Resources]:
    """What ptxas said (-Xptxas -v) -> one record for each kernel and target."""
    pieces = re.split(r"Compiling entry function '", said)[1:]
    for piece in pieces:
        mangled, target = re.match(r"(\S+)' for 'sm_(\w+)'", piece).groups()  # type: ignore[union-attr]
        stack, stores, loads = (
            int(found[1]) if (found := re.search(rf"(\d+) bytes {what}", piece)) else 0
            for what in ("stack frame", "spill stores", "spill loads")
        )
        registers = re.search(r"Used (\d+) registers", piece)
        if registers:
            yield Resources(kernel_name(mangled), target, int(registers[1]), stack, stores + loads)


def kernel_name(mangled: str) -> str:
    """A kernel's symbol -> its name in libnmk_cuda: the parameters of its Shape, in order."""
    found = re.search(
        r"(conv|block)_kernel.*?(Half|Brain).*?KindE(\d)E"
        r"Li(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E", mangled,
    )  # fmt: skip
    if not found:
        return mangled
    operation, half, kind, tiles, warps, rows, stride = found.groups()
    name = f"{'f16' if half == 'Half' else 'bf16'}_{_KINDS[int(kind)]}"
    shape = f"{16 * int(tiles)}x{int(warps) * int(rows)}"
    return f"block_{name}_{shape}" if operation == "block" else f"{name}_{shape}_s{stride}"


def table(records: Sequence[Resources], shared: dict[str, int]) -> str:
    """README's table: a kernel a row; registers for each target, `!` where anything spills."""
    targets = list(dict.fromkeys(record.target for record in records))
    lines = [
        f"| kernel | shared memory | {' | '.join(f'sm_{target}' for target in targets)} |",
        "| --- | --- |" + " --- |" * len(targets),
    ]
    for kernel in dict.fromkeys(record.kernel for record in records):
        of_kernel = {record.target: record for record in records if record.kernel == kernel}
        cells = [
            f"{found.registers}{'!' * bool(found.spill_bytes or found.stack_bytes)}"
            for found in (of_kernel[target] for target in targets)
        ]
        lines.append(f"| {kernel} | {shared[kernel]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _digest(compiler: str, targets: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{compiler} {targets} {_FLAGS}".encode())
    files = [*(NATIVE / "cuda").iterdir(), NATIVE / "include" / "nmk_cuda.h"]
    for path in sorted(path for path in files if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise BuildError(f"{Path(command[0]).name} failed: {(lines or ['no message'])[0]}")
    return done.stdout + done.stderr


def main() -> int:
    """Builds for every target and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true", required=True)
    parser.add_argument("--jobs", type=int)
    args = parser.parse_args()
    from nmcompile.runtime.native.cuda_conv import kernel_shared_bytes, load_library

    try:
        library, said = build(ROOT / "build" / "gpu", TARGETS, args.jobs)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    records = sorted(resources(said), key=lambda record: (record.kernel, record.target))
    print(table(records, kernel_shared_bytes(load_library(library))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
