"""A walk through a graph gives the values that running it whole gives, wherever it stands."""

import pytest
import torch
from torch import nn

from nmcompile.convs import get_tensor, set_tensor, weight_uses
from nmcompile.engine import ExtraInput
from nmcompile.program import Program
from nmcompile.walking import Walk
from tests.networks import Shared, bare_interface, captured, every_value, image, plain


@pytest.fixture(scope="module")
def program():
    return captured(plain())


def convolutions(program):
    return [node for nodes in weight_uses(program.module).values() for node in nodes]


def test_the_values_on_the_way_are_the_network_s(program):
    x = image(program)
    expected, walk = every_value(program, x), Walk(program, x)
    for node in convolutions(program):
        walk.advance(node)
        source = node.args[0]
        assert torch.equal(walk.value(source), expected[source])
        assert torch.equal(walk.finish(), program(x))


def test_a_walk_can_be_finished_before_its_first_step(program):
    x = image(program)
    walk = Walk(program, x)
    assert torch.equal(walk.finish(), program(x))
    assert torch.equal(walk.finish(), program(x))


def test_finishing_sees_weights_as_they_are_now(program):
    program = program.with_module(program.clone_module())
    x = image(program)
    second = convolutions(program)[1]
    name = str(second.args[1].target)
    walk = Walk(program, x)
    walk.advance(second)
    before, weight = program(x), get_tensor(program.module, name)
    set_tensor(program.module, name, weight * 2)
    changed = walk.finish()
    assert torch.equal(changed, program(x))
    assert not torch.equal(changed, before)
    set_tensor(program.module, name, weight)
    assert torch.equal(walk.finish(), before)


def test_looking_ahead_shows_the_inputs_of_every_use_and_does_not_move(program):
    program = captured(Shared())
    x = image(program)
    expected, walk = every_value(program, x), Walk(program, x)
    nodes = weight_uses(program.module)["again.weight"]
    assert len(nodes) == 3
    walk.advance(nodes[0])
    for _ in range(2):
        seen = walk.ahead(nodes)
        assert list(seen) == nodes
        for node in nodes:
            assert torch.equal(seen[node][node.args[0]], expected[node.args[0]])
    assert torch.equal(walk.finish(), program(x))


def test_looking_ahead_is_possible_from_the_start(program):
    x = image(program)
    last = convolutions(program)[-1]
    seen = Walk(program, x).ahead([last])
    assert torch.equal(seen[last][last.args[0]], every_value(program, x)[last.args[0]])


def test_values_that_nothing_needs_any_more_are_let_go(program):
    walk = Walk(program, image(program))
    first, *_, last = convolutions(program)
    walk.advance(last)
    with pytest.raises(KeyError):
        walk.value(first)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image, sigma):
        return self.conv(image) * sigma


def test_further_inputs_are_filled(program):
    extra = ExtraInput("sigma", (0, 1, 1, 1), 0.5)
    noisy = Program(captured(Noisy()).module, bare_interface(extra_inputs=(extra,)))
    x = image(noisy)
    walk = Walk(noisy, x)
    walk.advance(convolutions(noisy)[0])
    assert torch.equal(walk.finish(), noisy(x))
    assert torch.equal(walk.finish(), noisy.module(x, torch.full((2, 1, 1, 1), 0.5)))
