"""libnmk_cuda on this machine's GPU -> built, checked against float64, timed against PyTorch.

python benchmarks/gpu.py --all --out results.json     everything, within 8 minutes
python benchmarks/gpu.py --check                      correctness alone, as for compute-sanitizer

Needs this tree, PyTorch with CUDA and nvcc 12.5 or later; Triton for torch.compile. Peers: cuDNN
through PyTorch (channels last, fp16, benchmark mode), without bias or activation, which ours adds;
the same with both, fused; torch.compile with max-autotune.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu_build import BuildError, build, resources  # noqa: E402
from benchmarks.gpu_report import Gpu, ceilings, conv_work, row, table  # noqa: E402

if TYPE_CHECKING:
    import ctypes

PATTERNS = ("dense", "2:4", "64x1:4")
DENSITY = {"dense": 1.0, "2:4": 0.5, "64x1:4": 0.25}
HEIGHT, WIDTH = 720, 1280
LOW = (360, 640)  # the whole network's input
CHECKED = (61, 83)  # what is compared with float64
TOLERANCE = {"f16": 2e-3, "bf16": 1.2e-2}  # of the norm; issue of rounding, not of summing
SECONDS = 450.0  # after which nothing is compiled any more; our own kernels take seconds
COMPILE_SECONDS = 180.0  # for one of torch.compile's peers


def see_the_tree() -> None:
    """Makes nmcompile.runtime importable where nmcompile is not installed: from this tree."""
    import nmcompile

    if importlib.util.find_spec("nmcompile.runtime") is None:
        nmcompile.__path__.append(str(ROOT))


def missing() -> str | None:
    """What this machine lacks, in one line, or None."""
    if importlib.util.find_spec("torch") is None:
        return "found no PyTorch; install it with CUDA, as in: pip install torch"
    import torch

    if not torch.cuda.is_available():
        return "found no GPU that PyTorch can use; run this where there is an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"found a GPU of compute capability {major}.{minor}; 8.0 or later is needed"
    return None


def has_triton() -> bool:
    """Whether torch.compile can make kernels for a GPU."""
    return importlib.util.find_spec("triton") is not None


def own_target() -> str:
    """What nvcc calls the current GPU, with the features of its own where there are any."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}" + ("a" if major >= 9 else "")


def check(library: ctypes.CDLL) -> list[dict[str, Any]]:
    """The relative error of every kernel against float64, on fresh inputs of an odd size."""
    import torch

    from benchmarks import gpu_layers as layers
    from nmcompile.runtime.native.blob import Activation, ConvShape
    from nmcompile.runtime.native.cuda_conv import kernel_names

    found = []
    names = kernel_names(library)
    for name in (name for name in names if not name.startswith("block_")):
        half, kind, shape, step = name.split("_")
        stride, outputs = int(step[1]), int(shape.split("x")[0])
        dtype = torch.float16 if half == "f16" else torch.bfloat16
        pattern = {"dense": "dense", "sparse": "2:4", "gathered": "64x1:4"}[kind]
        with forced(name) as fits:
            conv = layers.Conv(
                library, layers.random_weight(pattern, outputs, 128),
                ConvShape((3, 3), (stride, stride), padding=(1, 1, 1, 1)), half=dtype,
                activation=Activation.RELU, name=name,
            )  # fmt: skip
        if not fits:
            continue
        (x,) = layers.images(1, 128, *CHECKED, dtype)
        y = conv(x, conv.output(x)).double()
        weight = conv.weight.to(dtype).to(y)
        expected = torch.nn.functional.conv2d(
            x.double(), weight, conv.bias.to(y), stride=stride, padding=1
        ).relu()
        error = float((y - expected).norm() / expected.norm())
        found.append({"kernel": name, "error": error, "right": error <= TOLERANCE[half]})
    return [*found, *_check_networks(library)]


def _check_networks(library: ctypes.CDLL) -> list[dict[str, Any]]:
    """EDSR by fused blocks and by single kernels, of every pattern."""
    import torch

    from benchmarks import gpu_layers as layers

    found = []
    for fused in (True, False):
        for pattern in PATTERNS:
            net = layers.Edsr(library, pattern, fused=fused)
            (x,) = layers.images(1, 3, *CHECKED, torch.float16)
            y, expected = net(x, net.buffers(x)).double(), layers.edsr_reference(net, x.double())
            error = float((y - expected).norm() / expected.norm())
            name = f"edsr {pattern}, {net.kernel}"
            found.append({"kernel": name, "error": error, "right": error <= 1e-2})
    return found


def measured_ceilings() -> Gpu:
    """A large copy's bytes (read and written) and a large product's operations, a second."""
    import torch

    from benchmarks.gpu_layers import measure

    source = torch.randn(1 << 29, device="cuda", dtype=torch.float16)
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    out = torch.empty_like(a)
    times = measure(
        {"copy": lambda _: target.copy_(source), "product": lambda _: torch.mm(a, b, out=out)}, 1, 9
    )
    copy, product = (sorted(times[name])[4] * 1e-3 for name in ("copy", "product"))
    return Gpu(
        torch.cuda.get_device_name(), 2.0 * 2 * source.numel() / copy, 2 * 8192.0**3 / product
    )


class Timer:
    """Rows timed one after the other; what does not fit the time is left out, and said."""

    def __init__(self, library: ctypes.CDLL, gpu: Gpu, seconds: float) -> None:
        """Begins to count."""
        self.library, self.gpu, self.end = library, gpu, time.monotonic() + seconds
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []

    def compiled(
        self, name: str, function: Callable[..., Any], x: Any
    ) -> Callable[..., Any] | None:
        """torch.compile's version, or None where there is no Triton or no time."""
        import torch

        if not has_triton():
            self.left_out.append(f"{name} by torch.compile: found no Triton")
            return None
        seconds = min(self.end - time.monotonic(), COMPILE_SECONDS)
        try:
            with limited(seconds):
                made = torch.compile(function, mode="max-autotune-no-cudagraphs")
                made(x)
                return made
        except (TimeoutError, torch._dynamo.exc.TorchDynamoException) as error:
            found = type(error).__name__
            self.left_out.append(f"{name} by torch.compile: {found} within {seconds:.0f} s")
        return None

    def add(self, shape: str, ours: dict[str, Any], peers: dict[str, Any], sets: int) -> None:
        """Times our variants (pattern -> call, kernel, work) and peers together: one row each."""
        from benchmarks.gpu_layers import measure

        calls = {pattern: found[0] for pattern, found in ours.items()} | peers
        times = measure(calls, sets, rounds=15)
        for name, (_, kernel, work) in ours.items():
            pattern = name.split(",")[0]
            own = {"ours": times[name], **{peer: times[peer] for peer in peers}}
            self.rows.append(row(shape, pattern, kernel, work, own, self.gpu))
            print(table(self.rows[-1:]).splitlines()[-1], flush=True)


def time_convs(timer: Timer, channels: int) -> None:
    """Convolutions of so many channels in and out, 3x3, at 1280x720."""
    import torch

    from benchmarks import gpu_layers as layers
    from nmcompile.runtime.native.blob import Activation

    sets = max(2, -(-300 // channels) if channels < 256 else 2)
    xs = layers.images(sets, channels, HEIGHT, WIDTH, torch.float16)
    ours = {}
    for pattern in PATTERNS:
        weight = layers.random_weight(pattern, channels, channels)
        work = conv_work(channels, channels, HEIGHT * WIDTH, DENSITY[pattern])
        for shape in ("", "64x16", "64x8"):  # the library's own choice, then the others
            with forced(shape) as fits:
                conv = layers.Conv(timer.library, weight, activation=Activation.RELU, name=pattern)
            if not fits:
                continue
            kernel = conv.conv.kernel()
            if kernel not in [known for _, known, _ in ours.values()]:
                y, name = conv.output(xs[0]), f"{pattern}, {shape}" if shape else pattern
                ours[name] = (lambda i, c=conv, y=y: c(xs[i], y), kernel, work)
    _add(timer, f"{channels}->{channels}", ours, layers.conv_peers(xs[0], channels), xs)


def time_blocks(timer: Timer) -> None:
    """Residual blocks of 64 channels at 1280x720, fused and as two kernels."""
    import torch

    from benchmarks import gpu_layers as layers

    xs = layers.images(4, 64, HEIGHT, WIDTH, torch.float16)
    middle, y = torch.empty_like(xs[0]), torch.empty_like(xs[0])
    ours = {}
    for pattern in PATTERNS:
        for fused in (True, False):
            block = layers.Block(timer.library, pattern, fused=fused)
            work = conv_work(64, 64, HEIGHT * WIDTH, DENSITY[pattern], convs=2)
            name = pattern if fused else f"{pattern}, apart"
            ours[name] = (lambda i, b=block: b(xs[i], middle, y), block.kernel, work)
    _add(timer, "block 64", ours, layers.block_peers(xs[0]), xs)


def time_edsr(timer: Timer) -> None:
    """The whole network, 640x360 in; ours with fused blocks and with single kernels."""
    import torch

    from benchmarks import gpu_layers as layers

    xs = layers.images(4, 3, *LOW, torch.float16)
    ours = {}
    for pattern in PATTERNS:
        trunk = conv_work(64, 64, LOW[0] * LOW[1], DENSITY[pattern], convs=2 * layers.BLOCKS + 5)
        for fused in (True, False):
            net = layers.Edsr(timer.library, pattern, fused=fused)
            buffers = net.buffers(xs[0])
            call = (lambda i, n=net, b=buffers: n(xs[i], b), net.kernel, trunk)
            ours[pattern if fused else f"{pattern}, apart"] = call
    peer = layers.TorchEdsr().to(layers.DEVICE, torch.float16, memory_format=torch.channels_last)
    _add(timer, "edsr x2", ours, {"cudnn": peer, "compile": peer}, xs)


def _add(timer: Timer, shape: str, ours: dict[str, Any], peers: dict[str, Any], xs: Any) -> None:
    made = timer.compiled(shape, peers.pop("compile"), xs[0])
    if made is not None:
        peers["compile"] = made
    calls = {name: (lambda i, f=function: f(xs[i])) for name, function in peers.items()}
    timer.add(shape, ours, calls, len(xs))


@contextmanager
def forced(kernel: str) -> Iterator[list[str]]:
    """Layers loaded inside use kernels of that name; gives a list, empty where none fits."""
    from nmcompile.errors import NmcompileError

    fits = [kernel]
    os.environ["NMK_CUDA_KERNEL"] = kernel
    try:
        yield fits
    except NmcompileError as error:
        if "shared memory" not in str(error):
            raise
        print(error)
        fits.clear()
    finally:
        del os.environ["NMK_CUDA_KERNEL"]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError

    if seconds <= 0:
        raise TimeoutError
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def facts() -> dict[str, Any]:
    """When, where and how: for a result that stands by itself."""
    import torch

    def said(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        except FileNotFoundError:
            return f"{command[0]} was not found"
        return done.stdout.strip()

    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "commit": said("git", "rev-parse", "HEAD"),
        "driver": said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Builds, checks and, if asked, times; every finished row is in the result."""
    import torch

    from nmcompile.runtime.native.cuda_conv import load_library

    started = time.monotonic()
    path, said = build(ROOT / "build" / "gpu", [own_target()])
    spilled = [found.kernel for found in resources(said) if found.spill_bytes]
    print(f"built in {time.monotonic() - started:.0f} s; kernels that spill: {spilled or 'none'}")
    torch.backends.cudnn.benchmark = True
    library = load_library(path)
    result: dict[str, Any] = {**facts(), "spilled": spilled, "checks": check(library)}
    wrong = [found for found in result["checks"] if not found["right"]]
    print(f"{len(result['checks'])} checks against float64, wrong: {wrong or 'none'}", flush=True)
    if not args.all:
        return result
    gpu = measured_ceilings()
    result["ceilings"] = vars(gpu)
    print(
        f"copy {gpu.bandwidth / 1e12:.2f} TB/s, product {gpu.rate / 1e12:.0f} TFLOP/s", flush=True
    )
    timer = Timer(library, gpu, args.seconds - (time.monotonic() - started))
    with torch.inference_mode():
        for step in (time_edsr, time_blocks, *(_convs(count) for count in (64, 128, 256))):
            step(timer)
            torch.cuda.empty_cache()
            result |= {"rows": timer.rows, "left_out": timer.left_out}
            _write(args.out, result)
    print(table(timer.rows))
    print("\n".join(timer.left_out))
    return result


def _convs(channels: int) -> Callable[[Timer], None]:
    return lambda timer: time_convs(timer, channels)


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Says what is missing, or runs; 1 if anything is missing, wrong or does not build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="build, check and time")
    parser.add_argument("--check", action="store_true", help="build and check alone")
    parser.add_argument("--ceilings", action="store_true", help="the least times by data sheets")
    parser.add_argument("--out", type=Path, help="where the results go, as JSON")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="what it may take")
    args = parser.parse_args(argv)
    if args.ceilings:
        print(ceilings())
        return 0
    lacking = missing() if args.all or args.check else "found nothing to do; give --all or --check"
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    see_the_tree()
    try:
        result = run(args)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    _write(args.out, result)
    return int(not all(found["right"] for found in result["checks"]))


if __name__ == "__main__":
    raise SystemExit(main())
