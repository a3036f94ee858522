"""The sample network and scikit-image's photographs -> demo/: an engine, pictures, a report."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import skimage

from nmcompile.images import read_image, write_image
from nmcompile.tasks import Task

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
SAMPLE = "examples/sample/sample_sr_x2.safetensors"
ARCH = "examples.models.sample:sample_sr_x2"
CALIBRATION = ("astronaut", "chelsea", "motorcycle_left", "hubble_deep_field")
TEST = ("coffee", "rocket")


def main() -> int:
    """Runs the commands that a user would type, showing each."""
    started = time.perf_counter()
    shutil.rmtree(DEMO, ignore_errors=True)
    photographs(CALIBRATION, DEMO / "calibration")
    photographs(TEST, DEMO / "test")
    print("Photographs that come with scikit-image: 4 to calibrate on, 2 others to judge by.")
    engine, model = "demo/engine", [SAMPLE, "--arch", ARCH, "--task", "sr:2"]
    run("nmcompile", *model, "--data", "demo/calibration", "-o", engine)
    run("nmcompile", "eval", *model, "--range", "0..1", "--data", "demo/test")
    run("nmcompile", "eval", engine, "--data", "demo/test")
    shrink(DEMO / "test", DEMO / "small")
    run("nmcompile", "run", engine, "demo/small", "-o", "demo/restored")
    before_and_after()
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at:")
    for place, what in (
        ("demo/before-after.png", "input enlarged plainly, network's output, original"),
        ("demo/engine/report.html", "what was chosen for every layer, cost, quality, pictures"),
        ("demo/restored/", "the restored photographs"),
    ):
        print(f"  {place:26} {what}")
    return 0


def photographs(names: tuple[str, ...], folder: Path) -> None:
    """Copies photographs out of scikit-image as PNG."""
    folder.mkdir(parents=True)
    for name in names:
        (path,) = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
        write_image(folder / f"{name}.png", read_image(path))


def run(*words: str) -> None:
    """Runs one command of the project's own environment, as typed."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    program = Path(sys.executable).with_name(words[0])
    done = subprocess.run([str(program), *words[1:]], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def shrink(source: Path, target: Path) -> None:
    """Makes the low-resolution images that the network is for."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        small = Task.parse("sr:2").degrade(even(read_image(path)), 0)
        write_image(target / path.name, (small * 255).round().astype(np.uint8))


def even(image: np.ndarray) -> np.ndarray:
    """The image with an even height and width."""
    return image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]


def before_and_after() -> None:
    """Writes one picture: for each test image a window of the input, the output, the original."""
    rows = []
    for path in sorted((DEMO / "test").iterdir()):
        window = np.s_[120:280, 200:440]
        small = read_image(DEMO / "small" / path.name)
        plain = small.repeat(2, axis=0).repeat(2, axis=1)
        restored = read_image(DEMO / "restored" / path.name)
        clean = even(read_image(path))
        gap = np.full((160, 8, 3), 255, np.uint8)
        parts = [plain[window], gap, restored[window], gap, clean[window]]
        rows.append(np.concatenate(parts, axis=1))
    write_image(DEMO / "before-after.png", np.concatenate(rows))


if __name__ == "__main__":
    sys.exit(main())
