"""Small networks -> who reads each channel of their convolutions."""

import pytest
import torch
from torch import nn

from nmcompile.capture import capture
from nmcompile.convs import get_tensor, read_conv, set_tensor
from nmcompile.passes import analyze_cost
from nmcompile.pipeline import run_passes
from nmcompile.readers import channel_readers, counted, live_channels, repeats, through
from tests.networks import Around, cleaned, context, conv


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
        return str(read_conv(node).weight.target).removesuffix(".weight")

    def reader(one):
        return "*" if one is None else f"{name(one[0])}{one[1]}"

    return {
        name(node): ["".join(sorted(map(reader, own))) for own in channels]
        for node, channels in channel_readers(module).items()
    }


def test_activations_keep_channels_apart():
    def forward(net, x):
        return net.c(net.act(torch.relu(net.b(nn.functional.leaky_relu(net.a(x), 0.1)))))

    found = readers(forward, a=conv(3, 4), b=conv(4, 5), act=nn.PReLU(5), c=conv(5, 3))
    assert found == {
        "a": ["b0", "b1", "b2", "b3"],
        "b": ["c0", "c1", "c2", "c3", "c4"],
        "c": ["*"] * 3,
    }


def test_parts_of_a_split_and_of_a_concatenation():
    def forward(net, x):
        kept, rest = torch.split(net.a(x), (2, 3), dim=1)
        return net.c(torch.cat((rest, net.b(rest), kept, kept), 1)) + kept[:, :1]

    found = readers(forward, a=conv(3, 5), b=conv(3, 4), c=conv(11, 3))
    assert found == {
        "a": ["*c7c9", "*c10c8", "b0c0", "b1c1", "b2c2"],
        "b": ["c3", "c4", "c5", "c6"],
        "c": ["*"] * 3,
    }


def test_an_unused_part_has_no_reader():
    def forward(net, x):
        return net.b(torch.split(net.a(x), (2, 3), dim=1)[1])

    found = readers(forward, a=conv(3, 5), b=conv(3, 3))
    assert found["a"] == ["", "", "b0", "b1", "b2"]


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
    assert found["a"] == ["b0c0", "b1c1"]


def test_a_concatenation_along_rows_joins_no_channels():
    def forward(net, x):
        return net.c(torch.cat((net.b(x), x), 2))[:, :, ::2]

    found = readers(forward, b=conv(3, 3), c=conv(3, 3))
    assert found["b"] == ["*"] * 3


def test_what_nobody_reads_is_not_counted(tmp_path):
    """Through a chain: what falls away at its end takes what made it along."""
    ctx = context(tmp_path)
    program = cleaned(Around(conv(8, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 8)), ctx)
    program = run_passes(program, ctx, [analyze_cost])
    before = {layer.name: layer.macs for layer in program.the_plan.layers}
    last, middle = (get_tensor(program.module, f"body.{n}.weight").clone() for n in (4, 2))
    last[:, 2:], middle[0, 3], middle[1, 3:5] = 0, 0, 0
    set_tensor(program.module, "body.4.weight", last)
    set_tensor(program.module, "body.2.weight", middle)
    plan = counted(program)
    pixels = ctx.reference_size[0] * ctx.reference_size[1] * 9
    left = {layer.name: layer.chosen.macs for layer in plan.layers}
    assert left == {
        "head.weight": before["head.weight"],
        "body.0.weight": 7 * 8 * pixels,  # neither of the two reads channel 3
        "body.2.weight": (7 + 6) * pixels,
        "body.4.weight": before["body.4.weight"],  # as its plan has it
        "tail.weight": before["tail.weight"],
    }
    assert plan.macs < program.the_plan.macs


def attended(net, x):
    """A residual branch with a gate, between a head and a tail."""
    x = net.head(x)
    y = net.b(torch.relu(net.a(x)))
    return net.tail(net.c(y * torch.sigmoid(net.gate(y.mean((2, 3), keepdim=True)))) + x)


LAYERS = {"head": conv(3, 4), "a": conv(4, 4), "b": conv(4, 4), "gate": conv(4, 4, 1),
          "c": conv(4, 4, 1), "tail": conv(4, 3)}  # fmt: skip


def test_what_all_that_a_layer_gives_passes_through():
    found = through(capture(Network(attended, **LAYERS)).module)
    short = {a.split(".")[0]: {b.split(".")[0] for b in own} for a, own in found.items()}
    assert short == {
        "head": {"tail"},
        "a": {"b", "c", "tail"},
        "b": {"c", "tail"},
        "gate": {"c", "tail"},
        "c": {"tail"},
        "tail": set(),
    }


def gathered(net, x):
    """Two residual branches after each other; all three results are gathered, one of them last."""
    x = net.head(x)
    y = x + net.b(torch.relu(net.a(x)))
    z = net.c(y) + y
    return net.tail(torch.cat((x, z, y), 1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ("c.weight", "b.weight")),
        ({"tail": conv(12, 3)}, ()),  # beyond the image's ends there is no bias
        ({"a": conv(4, 4, groups=2), "b": conv(4, 4, groups=2)}, ("c.weight", "b.weight")),
    ],
)
def test_what_is_given_twice_where_a_branch_is_skipped(changed, expected):
    layers = LAYERS | {"tail": conv(12, 3, 1)} | changed
    del layers["gate"]
    found = repeats(capture(Network(gathered, **layers)).module)
    assert found == ({"tail.weight": expected} if expected else {})


def test_a_branch_whose_result_is_read_by_others_is_not_given_twice():
    def forward(net, x):
        x = net.head(x)
        y = net.b(x)
        return net.tail(torch.cat((x, x + y, y), 1))

    layers = {"head": conv(3, 4), "b": conv(4, 4), "tail": conv(12, 3, 1)}
    assert repeats(capture(Network(forward, **layers)).module) == {}


def test_what_serves_a_skipped_layer_alone_is_not_counted(tmp_path):
    program = run_passes(cleaned(Network(attended, **LAYERS), context(tmp_path)),
                         context(tmp_path), [analyze_cost])  # fmt: skip
    set_tensor(program.module, "c.weight", torch.zeros(4, 4, 1, 1))
    live = {str(read_conv(n).weight.target): x for n, x in live_channels(program.module).items()}
    assert live["c.weight"].outputs.all()
    assert not live["c.weight"].inputs.any()
    for name in ("a", "b", "gate"):
        assert not live[f"{name}.weight"].outputs.any()
        assert not live[f"{name}.weight"].inputs.any()
    assert live["head.weight"].outputs.all()
    left = {x.name: x.chosen.macs for x in counted(program).layers}
    assert [left[f"{name}.weight"] for name in ("a", "b", "gate")] == [0, 0, 0]
    assert left["head.weight"] == program.the_plan.layer("head.weight").macs
