"""The data folder -> the pretrained networks and test sets that results are given on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nmcompile.data import Source
from nmcompile.errors import NmcompileError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Network:
    """A pretrained network and what it is judged on.

    Attributes:
        weights: file under weights/.
        arch: what builds it.
        task: the task it was trained for.
        value_range: 1.0 or 255.0.
        tests: names of test sets.
    """

    weights: str
    arch: str
    task: str
    value_range: float
    tests: tuple[str, ...]


_SR4 = ("Set5", "Set14", "BSD100")
NETWORKS = {
    "CARN-M x4": Network(
        "carn_m_x234.pt", "examples.models.carn:carn_m?scale=4", "sr:4", 1.0, _SR4
    ),
    "IMDN x4": Network("imdn_x4.pt", "examples.models.imdn:imdn", "sr:4", 1.0, _SR4),
    "RLFN x4": Network("rlfn_x4.pt", "examples.models.rlfn:rlfn?scale=4", "sr:4", 255.0, _SR4),
    "DnCNN s25": Network(
        "dncnn_gray_s25_bn.pt", "examples.models.dncnn:dncnn_bn", "denoise:25", 1.0, ("Set12-7",)
    ),
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


def test_set(name: str) -> Source:
    """A test set by its name: the super-resolution sets x4, or the 256x256 images of Set12."""
    root = data_root()
    if name == "Set12-7":
        return Source(tuple(sorted((root / "denoise/Set12").glob("0[1-7].png"))))
    return Source.pairs(root / "sr" / name / "LR_x4", root / "sr" / name / "HR")


def calibration_set() -> Source:
    """Training images: none of them is in a test set."""
    return Source.folder(data_root() / "train/BSDS500_train")
