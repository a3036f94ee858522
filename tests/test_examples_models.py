"""Published weights + reference inputs -> proof that our networks compute the same outputs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from examples.models.carn import carn_m
from examples.models.dmphn import dmphn
from examples.models.dncnn import cdncnn, dncnn, dncnn_bn
from examples.models.edsr import edsr
from examples.models.imdn import imdn
from examples.models.rlfn import rlfn
from examples.models.sample import sample_sr_x2

TOLERANCE = 1e-5  # of the range: reference inputs and outputs are stored in 0..1 for every network

Factory = Callable[[], nn.Module]

# Reference file -> (network, range it works in). The weights are the name up to the "@".
NETWORKS: dict[str, tuple[Factory, float]] = {
    "carn_m_x234@x2": (partial(carn_m, 2), 1.0),
    "carn_m_x234@x3": (partial(carn_m, 3), 1.0),
    "carn_m_x234@x4": (partial(carn_m, 4), 1.0),
    "imdn_x4": (imdn, 1.0),
    "rlfn_x2": (partial(rlfn, 2), 255.0),
    "rlfn_x4": (partial(rlfn, 4), 255.0),
    "edsr_f64b5_x2": (edsr, 255.0),
    "edsr_f32b5_x2": (partial(edsr, 32), 255.0),
    "dncnn_gray_s25_bn": (dncnn_bn, 1.0),
    "dncnn_gray_s25_merged": (dncnn, 1.0),
    "cdncnn_color_s25": (cdncnn, 1.0),
    "dncnn3_gray_multitask": (partial(dncnn, 1, 20), 1.0),
    "dmphn_1_2_4_gopro": (dmphn, 1.0),
}
GREY = {"dncnn_gray_s25_bn", "dncnn_gray_s25_merged", "dncnn3_gray_multitask"}


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    content: dict[str, Tensor] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("name", NETWORKS)
def test_output_equals_the_stored_reference(name: str, data_dir: Path) -> None:
    factory, value_range = NETWORKS[name]
    network = factory().eval()
    network.load_state_dict(_load(data_dir / "weights" / f"{name.split('@')[0]}.pt"), strict=True)
    reference = _load(data_dir / "reference_io" / f"{name}.pt")
    with torch.no_grad():
        output = network(reference["input"] * value_range) / value_range
    assert output.shape == reference["output"].shape
    assert (output - reference["output"]).abs().max().item() < TOLERANCE


def test_every_reference_file_is_covered(data_dir: Path) -> None:
    stored = {path.stem for path in (data_dir / "reference_io").glob("*.pt")}
    assert stored == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_export_keeps_batch_and_size_dynamic(name: str) -> None:
    factory, value_range = NETWORKS[name]
    network = factory().eval()
    channels = 1 if name in GREY else 3
    # Not 1 image, and multiples of 8: export would take those sizes for constants or refuse them.
    example = torch.rand(2, channels, 32, 48) * value_range
    dynamic = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    exported = export(network, (example,), dynamic_shapes=(dynamic,)).module()
    image = torch.rand(1, channels, 24, 40) * value_range
    with torch.no_grad():
        assert torch.equal(exported(image), network(image))


def test_carn_names_the_scales_it_has() -> None:
    with pytest.raises(ValueError, match=r"x5.*use scale 2, 3 or 4"):
        carn_m(5)


def test_untrained_sample_network_doubles_the_image() -> None:
    network = sample_sr_x2()
    nn.init.zeros_(network.tail.weight)
    assert network.tail.bias is not None
    nn.init.zeros_(network.tail.bias)
    image = torch.rand(1, 3, 5, 7)
    with torch.no_grad():
        output = network(image)
    expected = image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(output, expected)
