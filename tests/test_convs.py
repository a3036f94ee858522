"""Unfolded columns times the canonical weight give exactly what the operator gives."""

import pytest
import torch
from torch import nn

from nmcompile.capture import capture
from nmcompile.convs import columns, from_canonical, get_tensor, read_conv, to_canonical

LAYERS = [
    nn.Conv2d(8, 12, 3, padding=1),
    nn.Conv2d(8, 12, (3, 5), stride=2, padding=(1, 2), groups=4),
    nn.Conv2d(8, 8, 3, dilation=2, padding=2, groups=2, bias=False),
    nn.Conv2d(8, 8, 4, padding="same"),
    nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1),
    nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, output_padding=1, groups=2),
    nn.ConvTranspose2d(8, 4, 3, dilation=2),
]


class _Around(nn.Module):
    """Three channels in and out, so that the layer under test can be captured as a network."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.head, self.layer = nn.Conv2d(3, 8, 1), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(self.head(x)).mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_columns_and_canonical_weight(layer: nn.Module) -> None:
    torch.manual_seed(0)
    program = capture(_Around(layer))
    (node,) = (
        n
        for n in program.module.graph.nodes
        if (conv := read_conv(n)) and str(conv.weight.target) == "layer.weight"
    )
    conv = read_conv(node)
    assert conv is not None
    weight = get_tensor(program.module, "layer.weight")
    canonical = to_canonical(weight, conv.op, conv.groups)
    assert torch.equal(from_canonical(canonical, conv.op, conv.groups), weight)

    x = torch.randn(2, 8, 13, 11)
    unfolded = columns(x, conv, tuple(canonical.shape[2:]))
    rows = canonical.reshape(conv.groups, -1, unfolded.shape[2])
    expected = layer(x)
    bias = 0 if layer.bias is None else layer.bias[None, :, None, None]
    result = torch.einsum("gok,ngkp->ngop", rows, unfolded).reshape(expected.shape) + bias
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
