"""An engine folder: manifest.json and its parts, written whole or not at all, checked when read."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from nmcompile.errors import NmcompileError

ENGINE_VERSION = 1
MANIFEST = "manifest.json"
# A field's annotation -> the types its value may have.
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "float": (int, float),
    "int | None": (int, NoneType),
}


@dataclass(frozen=True)
class ExtraInput:
    """A second input of the network, such as a noise level.

    Attributes:
        name: its name in the graph.
        shape: its shape; 0 stands for the batch, "H" and "W" for the image's size.
        value: what fills it unless the caller says otherwise, in the network's own range.
    """

    name: str
    shape: tuple[int | str, ...]
    value: float


@dataclass(frozen=True)
class Routing:
    """How an input-adaptive engine picks a level of the network for a tile or a whole image.

    Attributes:
        by: `tile` or `image`.
        tile: height and width of a window in input pixels, overlap included; 0 where `by` is image.
        overlap: input pixels that neighbouring windows share and that are blended; 0 likewise.
        costs: MACs of each level over the dense network's, increasing, without the head's.
        times: of each level over the last one's on the target, increasing; where zeros gain no
            time, MACs. Levels are weighed by these.
        head_cost: MACs of the difficulty head on a window over the dense network's there.
        bias: at efforts evenly spaced over 0..1, what a score loses for each unit of its time.
        effort: what a run takes unless told otherwise, 0..1: 0 is the lowest level everywhere, 1
            the last, and between them the share of that span that calibration images take.
    """

    by: str
    tile: int
    overlap: int
    costs: tuple[float, ...]
    times: tuple[float, ...]
    head_cost: float
    bias: tuple[float, ...]
    effort: float


@dataclass(frozen=True)
class Built:
    """What a TensorRT engine was built with: it runs with nothing else.

    Attributes:
        version: TensorRT's, such as 10.16.
        gpu: the GPU's name.
        compute_capability: the GPU's, such as 9.0.
        profile: the least, usual and largest (N, H, W) of the image.
        plugins: whether it has layers of ours, which need our plugin library.
    """

    version: str
    gpu: str
    compute_capability: str
    profile: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
    plugins: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a runtime must know to run the engine on an image.

    Attributes:
        target: the backend it was compiled for.
        executor: what runs it (`onnxruntime`, `native`, `regions`, which are both in turn, or
            `tensorrt`).
        task: the restoration task, as given or found (`sr:4`, `denoise:25`, ...).
        input_name: name of the image input.
        channels: image channels in and out (1 or 3).
        scale: output size / input size.
        value_range: largest value of the network's range (1.0 or 255.0).
        multiple: height and width must be multiples of this (images are padded to it).
        minimum: smallest height and width.
        fixed_size: (H, W) if the network takes only one size, else None.
        halo: how far, in input pixels, an output pixel looks; None if it sees the whole image.
        halo_reason: the operation that sees the whole image, if any.
        bytes_per_pixel: memory the engine needs per input pixel (estimate, fp32 activations).
        extra_inputs: further inputs, in the network's order.
        routing: of an input-adaptive engine, else None.
        built: of a TensorRT engine, else None.
        parts: file name -> SHA-256 and size in bytes.
    """

    target: str
    executor: str
    task: str
    input_name: str
    channels: int
    scale: int
    value_range: float
    multiple: int
    minimum: int
    fixed_size: tuple[int, int] | None
    halo: int | None
    halo_reason: str
    bytes_per_pixel: int
    extra_inputs: tuple[ExtraInput, ...] = ()
    routing: Routing | None = None
    built: Built | None = None
    created_by: str = ""
    parts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    version: int = ENGINE_VERSION


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target` if the body succeeds, and vanishes if not.

    An engine that stands at `target` is replaced; anything else that stands there is an error.
    """
    target = Path(target)
    check_writable(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    try:
        yield folder
        folder.chmod(0o755)
        if target.exists():
            _swap(folder, target)
        else:
            folder.replace(target)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise NmcompileError(f"{target}: cannot write the engine ({error})") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _swap(folder: Path, target: Path) -> None:
    """Puts `folder` where the engine `target` stands; that one stays if this fails."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=folder.parent))
    old = aside / "engine"
    try:
        target.replace(old)
        folder.replace(target)
    except BaseException:
        if old.exists():
            old.replace(target)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def check_writable(target: Path) -> None:
    """Raises NmcompileError if an engine cannot be written at `target`."""
    parent = Path(target).absolute().parent
    if not parent.is_dir():
        raise NmcompileError(f"{target}: the folder {parent} does not exist; make it first")
    try:
        Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent)).rmdir()
    except OSError as error:
        raise NmcompileError(
            f"{target}: the folder {parent} is not writable ({error.strerror}); choose another -o"
        ) from None
    if target.exists() and not _is_engine(target):
        raise NmcompileError(
            f"{target} exists and is not an engine; choose another -o or remove it yourself"
        )


def _is_engine(folder: Path) -> bool:
    """Whether its manifest is an engine's: other programs' folders have a manifest.json too."""
    try:
        data = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"version", "executor", "parts"} <= set(data)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hashes every part in `folder` and writes the manifest beside them."""
    parts = {
        str(path.relative_to(folder)): {"sha256": _digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    sealed = dataclasses.replace(manifest, parts=parts)
    (folder / MANIFEST).write_text(json.dumps(dataclasses.asdict(sealed), indent=1) + "\n")
    return sealed


def read_manifest(folder: Path, check_parts: bool = True) -> Manifest:
    """Reads an engine's manifest and checks every part's hash.

    Raises:
        NmcompileError: not an engine, a newer version, a part missing or altered.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise NmcompileError(f"{folder} is not an engine: it has no {MANIFEST}")
    try:
        data = json.loads(path.read_text())
        version = data["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NmcompileError(f"{path} is damaged ({error}); compile the engine again") from None
    if version != ENGINE_VERSION:
        raise NmcompileError(
            f"{folder} is an engine of version {version}, this nmcompile reads version "
            f"{ENGINE_VERSION}; compile it again or use the nmcompile that made it "
            f"({data.get('created_by') or 'unknown'})"
        )
    manifest = _manifest(data, path)
    if check_parts:
        for name, part in manifest.parts.items():
            _check_part(folder, name, part)
    return manifest


def _manifest(data: dict[str, Any], path: Path) -> Manifest:
    try:
        extras = tuple(
            ExtraInput(item["name"], tuple(item["shape"]), float(item["value"]))
            for item in data.get("extra_inputs", ())
        )
        fixed = data["fixed_size"]
        size = (int(fixed[0]), int(fixed[1])) if fixed else None
        manifest = Manifest(
            **{
                **data,
                "extra_inputs": extras,
                "fixed_size": size,
                "routing": _routing(data.get("routing")),
                "built": _built(data.get("built")),
            }
        )
        _check_values(manifest)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise NmcompileError(f"{path} is damaged ({error}); compile the engine again") from None
    return manifest


def _routing(data: dict[str, Any] | None) -> Routing | None:
    """Reads a manifest's routing; ValueError for values that none has."""
    if data is None:
        return None
    lists = {name: tuple(float(x) for x in data[name]) for name in ("costs", "times", "bias")}
    routing = Routing(**{**data, **lists})
    count = len(routing.costs)
    rising = count > 1 and len(routing.times) == count
    for each in (routing.costs, routing.times):
        rising &= all(a < b for a, b in itertools.pairwise(each))
    fits = routing.by in ("tile", "image") and 0 <= routing.effort <= 1 and len(routing.bias) > 1
    if not (rising and fits and 0 <= 2 * routing.overlap <= routing.tile):
        raise ValueError(f"routing is {routing}")
    return routing


def _built(data: dict[str, Any] | None) -> Built | None:
    """Reads what an engine was built with; ValueError for values that none has."""
    if data is None:
        return None
    profile = tuple(tuple(int(size) for size in shape) for shape in data["profile"])
    built = Built(**{**data, "profile": profile})
    texts = (built.version, built.gpu, built.compute_capability)
    sized = len(profile) == 3 and all(len(shape) == 3 for shape in profile)
    rising = sized and all(1 <= a <= b <= c for a, b, c in zip(*profile, strict=True))
    if not (rising and all(isinstance(x, str) for x in texts) and isinstance(built.plugins, bool)):
        raise ValueError(f"built is {built}")
    return built


def _check_values(manifest: Manifest) -> None:
    """Raises ValueError for a value that no manifest has."""
    for field in dataclasses.fields(manifest):
        value, kind = getattr(manifest, field.name), _KINDS.get(str(field.type))
        if kind is not None and not isinstance(value, kind):
            raise ValueError(f"{field.name} is {value!r}")
    for name in ("channels", "scale", "multiple", "minimum", "value_range"):
        if getattr(manifest, name) < 1:
            raise ValueError(f"{name} is {getattr(manifest, name)}")
    for name, part in manifest.parts.items():
        if not {"sha256", "bytes"} <= set(part):
            raise ValueError(f"part {name} has no SHA-256 and size")


def _check_part(folder: Path, name: str, part: dict[str, Any]) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise NmcompileError(f"{folder}: part {name!r} lies outside the engine; do not use it")
    if not path.is_file():
        raise NmcompileError(f"{folder}: part {name} is missing; compile the engine again")
    if path.stat().st_size != part["bytes"] or _digest(path) != part["sha256"]:
        raise NmcompileError(
            f"{folder}: part {name} is not what was written (SHA-256 differs); "
            "copy the engine again or compile it again"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
