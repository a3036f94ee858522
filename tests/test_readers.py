"""Small networks -> who reads each channel of their convolutions."""

import torch
from torch import nn

from nmcompile.capture import capture
from nmcompile.convs import read_conv
from nmcompile.readers import channel_readers
from tests.networks import conv


class Network(nn.Module):
    """Named convolutions of 3 channels in and out, and how they are joined."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.joined = forward

    def forward(self, x):
        return self.joined(self, x)


def readers(forward, **layers):
    """Layer -> for each channel the layers that read it, `*` for whatever else does."""
    module = capture(Network(forward, **layers)).module

    def name(node):
        return "*" if node is None else str(read_conv(node).weight.target).removesuffix(".weight")

    return {
        name(node): ["".join(sorted(map(name, own))) for own in channels]
        for node, channels in channel_readers(module).items()
    }


def test_activations_keep_channels_apart():
    def forward(net, x):
        return net.c(net.act(torch.relu(net.b(nn.functional.leaky_relu(net.a(x), 0.1)))))

    found = readers(forward, a=conv(3, 4), b=conv(4, 5), act=nn.PReLU(5), c=conv(5, 3))
    assert found == {"a": ["b"] * 4, "b": ["c"] * 5, "c": ["*"] * 3}


def test_parts_of_a_split_and_of_a_concatenation():
    def forward(net, x):
        kept, rest = torch.split(net.a(x), (2, 3), dim=1)
        return net.c(torch.cat((rest, net.b(rest), kept, kept), 1)) + kept[:, :1]

    found = readers(forward, a=conv(3, 5), b=conv(3, 4), c=conv(11, 3))
    assert found == {"a": ["*c", "*c", "bc", "bc", "bc"], "b": ["c"] * 4, "c": ["*"] * 3}


def test_an_unused_part_has_no_reader():
    def forward(net, x):
        return net.b(torch.split(net.a(x), (2, 3), dim=1)[1])

    found = readers(forward, a=conv(3, 5), b=conv(3, 3))
    assert found["a"] == ["", "", "b", "b", "b"]


def test_whatever_mixes_or_sums_needs_every_channel():
    def forward(net, x):
        y = net.c(net.a(x)) + net.b(x)
        return net.d(y * y.mean((2, 3), keepdim=True)) + x

    found = readers(forward, a=conv(3, 4), b=conv(3, 4), c=conv(4, 4, groups=2), d=conv(4, 3))
    assert found == {"a": ["*"] * 4, "b": ["*"] * 4, "c": ["*"] * 4, "d": ["*"] * 3}


def test_a_layer_with_several_readers():
    def forward(net, x):
        y = net.a(x)
        return net.b(y) + net.c(torch.sigmoid(y))

    found = readers(forward, a=conv(3, 2), b=conv(2, 3), c=conv(2, 3))
    assert found["a"] == ["bc", "bc"]


def test_a_concatenation_along_rows_joins_no_channels():
    def forward(net, x):
        return net.c(torch.cat((net.b(x), x), 2))[:, :, ::2]

    found = readers(forward, b=conv(3, 3), c=conv(3, 3))
    assert found["b"] == ["*"] * 3
