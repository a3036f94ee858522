"""The data folder -> the pretrained networks and test sets that results are given on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmcompile.capture import capture
from nmcompile.data import Source
from nmcompile.errors import NmcompileError
from nmcompile.evaluate import evaluate
from nmcompile.loading import Model, load_model
from nmcompile.program import Program
from nmcompile.tasks import Task

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Network:
    """A pretrained network.

    Attributes:
        weights: file under weights/.
        arch: what builds it, under examples.models.
        value_range: 1.0 or 255.0.
    """

    weights: str
    arch: str
    value_range: float = 1.0

    def model(self) -> Model:
        """The network as it was published."""
        return load_model(data_root() / "weights" / self.weights, f"examples.models.{self.arch}")

    def program(self) -> Program:
        """The network, captured."""
        return capture(self.model(), value_range=self.value_range)


# Named as in the data folder's measured.json.
NETWORKS = {
    "carn_m_x234@x2": Network("carn_m_x234.pt", "carn:carn_m?scale=2"),
    "carn_m_x234@x3": Network("carn_m_x234.pt", "carn:carn_m?scale=3"),
    "carn_m_x234@x4": Network("carn_m_x234.pt", "carn:carn_m?scale=4"),
    "imdn_x4": Network("imdn_x4.pt", "imdn:imdn"),
    "rlfn_x2": Network("rlfn_x2.pt", "rlfn:rlfn?scale=2", 255.0),
    "rlfn_x4": Network("rlfn_x4.pt", "rlfn:rlfn?scale=4", 255.0),
    "edsr_f32b5_x2": Network("edsr_f32b5_x2.pt", "edsr:edsr?features=32", 255.0),
    "edsr_f64b5_x2": Network("edsr_f64b5_x2.pt", "edsr:edsr?features=64", 255.0),
    "dncnn_gray_s25_bn": Network("dncnn_gray_s25_bn.pt", "dncnn:dncnn_bn"),
    "dncnn_gray_s25_merged": Network("dncnn_gray_s25_merged.pt", "dncnn:dncnn"),
    "cdncnn_color_s25": Network("cdncnn_color_s25.pt", "dncnn:dncnn?channels=3,depth=20"),
    "dncnn3_gray_multitask": Network("dncnn3_gray_multitask.pt", "dncnn:dncnn?depth=20"),
    "dmphn_1_2_4_gopro": Network("dmphn_1_2_4_gopro.pt", "dmphn:dmphn"),
}


def data_root() -> Path:
    """$NMCOMPILE_DATA, or shared/data beside the project."""
    root = Path(os.environ.get("NMCOMPILE_DATA", ROOT.parent / "shared" / "data"))
    if not root.is_dir():
        raise NmcompileError(
            f"{root} does not exist: set NMCOMPILE_DATA to a folder with weights/, train/, sr/ and "
            "denoise/ (the test sets and pretrained weights may not be redistributed)"
        )
    return root


def calibration_set() -> Source:
    """Training images: none of them is in a test set."""
    return Source.folder(data_root() / "train/BSDS500_train")


def evaluation_set(name: str) -> tuple[str, Source]:
    """Task and images of a test set by its name in measured.json, such as `Set5 x4`."""
    root = data_root()
    first, _, second = name.removesuffix(" (Y)").partition(" ")
    if second.startswith("x"):
        folder = root / "sr" / first
        return f"sr:{second[1:]}", Source.pairs(folder / f"LR_{second}", folder / "HR")
    if second.startswith("jpeg-q"):
        return f"jpeg:{second[6:]}", Source.folder(root / "deblock" / first)
    if first == "GoPro-2":
        return "deblur", Source.pairs(root / "deblur/blur", root / "deblur/sharp")
    if first == "CBSD68":
        ids = (root / "denoise/cbsd68_ids.txt").read_text().split()
        return "denoise:25", Source(tuple(root / f"sr/BSD100/HR/{i}.jpg" for i in ids))
    if first == "Set12-7":  # the images of 256 x 256
        return "denoise:25", Source(tuple(sorted((root / "denoise/Set12").glob("0[1-7].png"))))
    return "denoise:25", Source.folder(root / "denoise" / first)


def psnr_on(program: Program, sets: Sequence[str]) -> dict[str, float]:
    """PSNR of a program on test sets by name, dB."""
    found = {}
    for name in sets:
        text, source = evaluation_set(name)
        interface, task = program.interface, Task.parse(text)
        samples = source.samples(task, interface.channels, interface.scale)
        found[name] = evaluate(program, samples, task).psnr
    return found
