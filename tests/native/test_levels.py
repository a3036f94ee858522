"""Programs of several levels -> at each the same bits as the weights that it keeps give alone?"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nmcompile.backends.native import lower
from nmcompile.capture import capture
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.runtime.native.blob import (
    ConvShape,
    Family,
    Kind,
    Operation,
    Precision,
    Value,
    conv_data,
    family_of,
    level_data,
    pack,
)
from nmcompile.runtime.native.program import NativeProgram
from tests.native.build import THREE, ladder, levelled, noise
from tests.native.networks import random_network
from tests.networks import plan

LADDERS = (
    "8x4:16k 8x8:16k dense", "8x1:16k 8x2:16k 8x4:16k 8x8:16k", "1:8 1:4 2:4", "1:32 1:16 1:8 1:4",
    "1:8 1:8 1:4", "1:8c 2:8c 4:8c dense", "skip 2:4c dense", "3x2:8k 3x4:8k dense",
    "64x1:8 64x1:4 64x2:4", "1:8",
)  # fmt: skip
WINDOWS = (
    (THREE, 64, 64),
    (THREE, 20, 52),
    (ConvShape((3, 3), padding=(1, 1, 1, 1), groups=2), 64, 32),
    (ConvShape((1, 1)), 48, 33),
    (ConvShape((5, 3), (2, 1), (1, 2), (2, 2, 2, 1), groups=2), 32, 18),
)
LEVELS, HEADER_LEVELS = 36 + 4, 48  # places in a header: of the number of levels, and its end


def _program(weight, bias, shape, family, precision=Precision.FP32, least=None, count=1):
    sparse, inputs = family is not Family.DENSE, weight.shape[1] * shape.groups
    data = conv_data(weight, bias, sparse)
    if least is not None:
        data = (*data, level_data(weight, least, count))
    step = Operation(
        Kind.CONV2D, (0,), 1, shape.params(family=family, precision=precision), data=data
    )
    values = [Value(0, 0, inputs), Value(1, 0, len(weight))]
    return NativeProgram(pack([inputs, len(weight)], values, [step], 1, [1], levels=count))


def _check(text, shape, inputs, outputs, size, precision=Precision.FP32, threads=1):
    patterns = [*map(Pattern.parse, text.split())]
    weight, least = ladder(patterns, (outputs, inputs // shape.groups, *shape.kernel))
    bias, x, top = noise(outputs), noise(2, inputs, *size), len(patterns) - 1
    family = family_of(patterns[-1].v, patterns[-1].is_dense)
    program = _program(weight, bias, shape, family, precision, least, len(patterns))
    assert program.levels == len(patterns)
    for level in reversed(range(len(patterns))):
        masked = np.where(least <= level, weight, 0)
        below = Family.SHARED if ((masked != 0) == (masked[:1] != 0)).all() else Family.SPARSE
        alone = below if family is Family.DENSE and level < top else family
        (expected,) = _program(masked, bias, shape, alone, precision).run([x], threads)
        (found,) = program.run([x], threads, level)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(program.run([x], threads)[0], program.run([x], threads, top)[0])


@pytest.mark.parametrize("text", LADDERS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_every_level_is_what_it_keeps(isa, text, window):
    shape, inputs, outputs = window
    _check(text, shape, inputs, outputs, (9, 37), threads=2)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("text", LADDERS)
def test_rounded(isa, text, precision):
    for shape in (THREE, ConvShape((1, 1))):
        _check(text, shape, 48, 40, (5, 21), precision)


@pytest.mark.parametrize("size", [(1, 1), (2, 15), (7, 16), (3, 33), (33, 97)], ids=str)
def test_sizes_and_threads(isa, size):
    for threads in (1, 2, 3):
        _check(LADDERS[1], THREE, 32, 40, size, threads=threads)
        _check(LADDERS[3], THREE, 32, 40, size, threads=threads)


@pytest.mark.parametrize("whole", [True, False])
def test_what_comes_at_a_higher_level_is_not_touched_below(isa, whole):
    """Not even transformed: a NaN in its input channel stays away."""
    weight = noise(16, 64, 3, 3)
    least = np.full(weight.shape, 255, np.uint8)
    for channel, level in ((3, 2), (9, 1), (17, 0), (30, 0)):
        least[:, channel] = level
        if not whole:
            least[:, channel, 1:] = 255
    weight[least == 255] = 0
    program = _program(weight, None, THREE, Family.SPARSE, least=least, count=3)
    for channel, level in ((3, 2), (9, 1), (17, 0), (40, 3)):
        x = noise(1, 64, 8, 20)
        x[0, channel, 4, 9] = np.nan
        found = [np.isnan(program.run([x], level=at)[0]).any() for at in range(3)]
        assert found == [at >= level for at in range(3)]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    net, count = random_network(seed), 4
    random, convs = np.random.default_rng(seed), [*net.operations]
    whole = NativeProgram(net.packed(apart=False))
    least = {}
    for index, step in enumerate(convs):
        if step.kind is not Kind.CONV2D:
            continue
        stored = step.data[0].reshape(-1, 1, 1, 1)  # those that are kept, if it is sparse
        least[index] = random.integers(0, count, stored.shape).astype(np.uint8)
        packed = level_data(stored, least[index], count)
        net.operations[index] = replace(step, data=(*step.data[:3], None, packed))
    program, alone = NativeProgram(net.packed(apart=False, levels=count)), []
    for level in range(count):
        for index, own in least.items():
            data = convs[index].data
            masked = data[0] * (own <= level).reshape(data[0].shape)
            net.operations[index] = replace(convs[index], data=(masked, *data[1:]))
        alone.append(NativeProgram(net.packed(apart=False)))
    for size in ((7, 16), (64, 33), (40, 90)):
        x = noise(1, 4, *size)
        try:
            expected = [one.run([x]) for one in alone]
        except NmcompileError:
            continue
        for threads in (1, 3):
            for level in (3, 0, 2, 1):
                for a, b in zip(program.run([x], threads, level), expected[level], strict=True):
                    np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max() + 1e-7)
            for a, b in zip(program.run([x], threads), whole.run([x]), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("level", [-1, 3, 2**31 - 1])
def test_no_such_level(level):
    program = NativeProgram(levelled(), "engine")
    with pytest.raises(
        NmcompileError, match=f"engine: there is no level {level}; give one from 0 to 2"
    ):
        program.run([noise(1, 16, 5, 5)], level=level)
    with pytest.raises(NmcompileError, match="there is no level"):
        program.profile([noise(1, 16, 5, 5)], level=level)


def test_damaged_levels():
    packed = levelled()
    for place, word in ((LEVELS, 0), (LEVELS, 9), (LEVELS, 2**32 - 1), (LEVELS + 4, 1)):
        damaged = bytearray(packed)
        damaged[place : place + 4] = word.to_bytes(4, "little")
        with pytest.raises(NmcompileError, match="damaged program: number of levels"):
            NativeProgram(bytes(damaged))
    for count in (1, 2, 4):  # fewer or more bits than that would take
        damaged = bytearray(packed)
        damaged[LEVELS] = count
        with pytest.raises(NmcompileError, match="damaged program: size of levels"):
            NativeProgram(bytes(damaged))


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("2:8c 4:8c dense", 64 + 32),  # a channel: of all 64, and of the 32 that the second keeps
        ("skip 4:8c dense", 64 + 32),
        ("8x2:8k 8x4:8k dense", 40 * (64 + 32)),  # a kernel
        ("64x2:8 64x4:8 dense", 9 * (64 + 32)),  # a position of all kernels of a channel
        ("2:8 4:8 dense", 9 * 40 * (64 + 32)),
    ],
)
def test_weights_of_one_level_share_a_bit(text, bits):
    weight, least = ladder([*map(Pattern.parse, text.split())], (40, 64, 3, 3))
    assert len(level_data(weight, least, 3)) == 1 + bits // 8


@pytest.mark.parametrize("form", [4, 127, 255])
def test_an_unknown_form_of_levels(form):
    weight, least = ladder([*map(Pattern.parse, ("4:8c", "dense"))], (8, 8, 3, 3))
    levels = level_data(weight, least, 2)
    levels[0] = form
    step = Operation(
        Kind.CONV2D, (0,), 1, THREE.params(), data=(*conv_data(weight, None, False), levels)
    )
    with pytest.raises(NmcompileError, match="damaged program: form of levels"):
        NativeProgram(pack([8, 8], [Value(0, 0, 8), Value(1, 0, 8)], [step], 1, [1], levels=2))


class _Net(nn.Module):
    """A denoiser's head, body and tail, and an enlarging layer, as the field has them."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        layers = [nn.Conv2d(64, 64, 3, padding=1), nn.PReLU(64), nn.Conv2d(64, 64, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.Conv2d(64, 64, 1))
        self.up = nn.ConvTranspose2d(64, 16, 4, stride=2, padding=1)

    def forward(self, x):
        y = self.head(x)
        return self.tail(self.up(y + self.body(y)))


def _ladders(text):
    """The network, its weights pruned, and the levels of every layer between head and tail."""
    torch.manual_seed(0)
    network, levels = _Net().eval(), {}
    for name, weight in network.named_parameters():
        if weight.dim() != 4 or name in ("head.weight", "tail.weight"):
            continue
        swapped = name == "up.weight"
        sizes = weight.transpose(0, 1).shape if swapped else weight.shape
        _, least = ladder([*map(Pattern.parse, text.split())], tuple(sizes))
        kept = torch.from_numpy(least != 255)
        with torch.no_grad():
            weight *= kept.transpose(0, 1) if swapped else kept
        levels[name] = least
    return network, levels


@pytest.mark.parametrize("text", LADDERS[:4])
def test_a_network_is_lowered_with_levels(text):
    network, levels = _ladders(text)
    program = NativeProgram(lower(capture(network, channels=3), levels=levels))
    x = torch.randn(1, 3, 18, 40)
    assert program.levels == len(text.split())
    for level in reversed(range(program.levels)):
        with torch.no_grad():
            for name, least in levels.items():
                kept = torch.from_numpy(least <= level)
                weight = network.get_parameter(name)
                weight *= kept.transpose(0, 1) if name == "up.weight" else kept
            expected = network(x).numpy()
        (found,) = program.run([x.numpy()], 2, level)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("text", [text for text in LADDERS if len(text.split()) == 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_three_levels_take_little_more_than_the_largest(text, sparse):
    network, levels = _ladders(text)
    program = capture(network, channels=3)
    pattern = Pattern.parse(text.split()[-1])
    if sparse:
        layers = [
            Layer(name, "", tuple(least.shape), 1, 1, 1, 1, "", 1, pattern=pattern)
            for name, least in levels.items()
        ]
        program = program.with_plan(plan(*layers))
    assert len(lower(program, levels=levels)) <= 1.05 * len(lower(program))


def test_a_network_without_levels_has_one():
    network, _ = _ladders("1:8")
    program = NativeProgram(lower(capture(network, channels=3)))
    x = noise(1, 3, 6, 8)
    assert program.levels == 1
    np.testing.assert_array_equal(program.run([x])[0], program.run([x], level=0)[0])


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({"foot.weight": np.zeros((3, 64, 3, 3), np.uint8)}, "foot.weight, which the network"),
        ({"head.weight": np.zeros((64, 3, 3), np.uint8)}, "give each weight one"),
        ({"head.weight": np.full((64, 3, 3, 3), 8, np.uint8)}, "at most 8 levels"),
        ({"head.weight": np.zeros((64, 3, 3, 3))}, "float64 up to 0, expected uint8"),
        ({"head.weight": np.full((64, 3, 3, 3), 255, np.uint8)}, "prune it, or give it a level"),
    ],
)
def test_levels_that_do_not_fit(levels, said):
    program = capture(_Net().eval(), channels=3)
    with pytest.raises(NmcompileError, match=said):
        lower(program, levels=levels)


def test_full_width_is_four_positions_of_every_lane(isa):
    """What the kernels of each family take as whole: a width costs as much as its next multiple."""
    program = _program(noise(8, 8, 3, 3), None, THREE, Family.DENSE)
    assert program.isa == isa
    assert program.full_width == {"portable": 16, "avx2": 32}.get(isa, 64)
