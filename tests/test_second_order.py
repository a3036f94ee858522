"""Second-order pruning against slow plain float64 references, and against magnitude."""

import copy
import functools
import itertools

import pytest
import torch
from torch import nn

from nmcompile.convs import Conv, from_canonical, read_conv, to_canonical
from nmcompile.pattern import Pattern
from nmcompile.second_order import (
    Hessian,
    aimed,
    prune_magnitude,
    prune_second_order,
)
from tests.networks import Around, PerPixel, captured, conv

EVERY_POSITION = 1 << 20


def call_of(program, name) -> Conv:
    for node in program.module.graph.nodes:
        found = read_conv(node)
        if found is not None and found.weight.target == name:
            return found
    raise KeyError(name)


def hessian_of(call, weight, x, positions=EVERY_POSITION):
    hessian = Hessian(call, tuple(weight.shape), positions)
    hessian.add(x)
    return hessian


def inputs(channels=8, batch=2, size=12, seed=0):
    """Inputs whose channels are alike, as those of a trained network are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator)
    return torch.einsum(
        "oc,nchw->nohw", mixing, torch.randn(batch, channels, size, size, generator=generator)
    )


LAYERS = {
    "plain": lambda: conv(8, 8),
    "1x1": lambda: conv(8, 6, 1),
    "5x5": lambda: conv(8, 8, 5),
    "ragged": lambda: conv(6, 8),
    "grouped": lambda: conv(8, 12, groups=2),
    "strided": lambda: nn.Conv2d(8, 8, (3, 5), stride=2, padding=(1, 2)),
    "dilated": lambda: conv(8, 8, dilation=2, padding=2),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
    "transposed grouped": lambda: nn.ConvTranspose2d(8, 12, 3, groups=2, padding=1),
}


@functools.cache
def built(kind):
    layer = LAYERS[kind]()
    mix = [conv(8, 6, 1)] if kind == "ragged" else []
    enlarge = [nn.Upsample(scale_factor=2)] if kind == "strided" else []
    program = captured(Around(*mix, layer, *enlarge, outputs=layer.out_channels))
    call = call_of(program, f"body.{len(mix)}.weight")
    return call, layer, to_canonical(layer.weight.detach(), call.op, call.groups)


def reference_hessian(layer, weight, x, groups):
    """X Xᵀ from the definition: what each single weight contributes to the layer's output."""
    outputs, per_group, height, width = weight.shape
    contributions = []
    for place in torch.cartesian_prod(
        torch.arange(height), torch.arange(width), torch.arange(per_group)
    ):
        y, x_, c = (int(p) for p in place)
        probe = torch.zeros_like(weight)
        probe[:: outputs // groups, c, y, x_] = 1  # in the first output channel of each group
        contributions.append(applied(layer, probe, x)[:, :: outputs // groups])
    stacked = torch.stack(contributions).double()  # [k, N, groups, H, W]
    return torch.einsum("knghw,lnghw->gkl", stacked, stacked)


def applied(layer, canonical, x):
    """The layer's output without bias, with that canonical weight."""
    if isinstance(layer, nn.ConvTranspose2d):
        outputs, per_group, height, width = canonical.shape
        split = canonical.reshape(layer.groups, outputs // layer.groups, per_group, height, width)
        weight = split.transpose(1, 2).reshape(layer.weight.shape)
        return nn.functional.conv_transpose2d(
            x, weight, None, layer.stride, layer.padding, layer.output_padding, layer.groups
        )
    return nn.functional.conv2d(
        x, canonical, None, layer.stride, layer.padding, layer.dilation, layer.groups
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_the_hessian_is_the_sum_over_outputs_of_what_weights_contribute(kind):
    call, layer, weight = built(kind)
    x = inputs(layer.in_channels, size=7)
    expected = reference_hessian(layer, weight, x, call.groups)
    found = hessian_of(call, weight, x).matrix
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-2)


def test_the_hessian_of_a_linear_layer_is_that_of_its_rows():
    program = captured(PerPixel())
    call = call_of(program, "mix.weight")
    x = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    found = hessian_of(call, torch.zeros(8, 8, 1, 1), x).matrix
    torch.testing.assert_close(found[0], torch.einsum("npc,npd->cd", x, x))


def test_batches_add_up():
    call, _, weight = built("plain")
    x = inputs()
    parts = Hessian(call, tuple(weight.shape), EVERY_POSITION)
    for image in x.split(1):
        parts.add(image)
    torch.testing.assert_close(parts.matrix, hessian_of(call, weight, x).matrix)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_weight_is_aimed_at_what_it_gave_on_the_original_inputs(kind):
    """Against the least squares of the outputs themselves, in float64, damped alike."""
    call, layer, weight = built(kind)
    channels = weight.shape[1] * call.groups
    original, x = inputs(channels), inputs(channels) + 0.3 * inputs(channels, seed=1)
    hessian = Hessian(call, tuple(weight.shape), EVERY_POSITION)
    hessian.add(x, original=original)
    found = aimed(weight, hessian)
    layer = copy.deepcopy(layer).double()
    wanted = layer(original.double()).detach()

    def away(canonical):
        layer.weight.data = from_canonical(canonical.double(), call.op, call.groups)
        with torch.no_grad():
            return float((layer(x.double()) - wanted).square().sum())

    best = away(found)
    assert best < 0.9 * away(weight)
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):  # damping pulls towards the weight itself, and nowhere else
        other = found + 0.01 * found.std() * torch.randn(found.shape, generator=generator)
        damping = 0.01 * float(hessian.matrix.diagonal(dim1=1, dim2=2).mean())
        pulled = [damping * float((w - weight).square().sum()) for w in (found, other)]
        assert best + pulled[0] < away(other) + pulled[1]


def test_without_original_inputs_a_weight_stays():
    call, _, weight = built("plain")
    assert aimed(weight, hessian_of(call, weight, inputs())) is weight


def test_the_same_positions_are_drawn_of_both_inputs():
    call, _, weight = built("plain")
    x = inputs(size=64)
    drawn = Hessian(call, tuple(weight.shape), 2000)
    drawn.add(x, original=2 * x)
    torch.testing.assert_close(drawn.shift, drawn.matrix)


def test_drawn_positions_stand_for_all_of_them():
    call, _, weight = built("1x1")
    x = inputs(size=64)
    every = hessian_of(call, weight, x).matrix
    drawn = hessian_of(call, weight, x, positions=2000).matrix
    assert not torch.equal(drawn, every)
    scaled = drawn * (2 * 64 * 64 / 2000)
    assert (scaled - every).norm() < 0.1 * every.norm()


def test_uses_of_one_weight_with_other_strides_are_unfolded_as_they_are_used():
    x = inputs()
    (call, layer, weight), (other, dilated, _) = built("plain"), built("dilated")
    mixed = Hessian(call, tuple(weight.shape), EVERY_POSITION)
    mixed.add(x)
    mixed.add(x, other)
    expected = sum(reference_hessian(one, weight, x, 1) for one in (layer, dilated))
    torch.testing.assert_close(mixed.matrix.double(), expected, rtol=1e-4, atol=1e-2)


def reference(weight, matrix, pattern):
    """One group of rows [out, k], columns (kh, kw, in): one column at a time, in float64."""
    rows, k = weight.shape[0], matrix.shape[0]
    W = weight.permute(0, 2, 3, 1).reshape(rows, k).double().clone()
    U = torch.linalg.cholesky(torch.linalg.inv(damped(matrix)), upper=True)
    channels = weight.shape[1]
    for base in range(0, k, channels):
        for start, size, kept in pattern.group_sizes(channels):
            columns = torch.arange(base + start, base + start + size)
            score = W[:, columns] ** 2 / U.diagonal()[columns] ** 2
            keep = torch.zeros_like(score)
            for first in range(0, rows, pattern.v):
                block = slice(first, min(first + pattern.v, rows))
                keep[block, score[block].sum(0).topk(kept).indices] = 1
            for place, j in enumerate(columns.tolist()):
                error = W[:, j] * (1 - keep[:, place]) / U[j, j]
                W[:, j + 1 :] -= error[:, None] * U[j, j + 1 :]
                W[:, j] *= keep[:, place]
    return W.reshape(rows, weight.shape[2], weight.shape[3], channels).permute(0, 3, 1, 2)


def damped(matrix):
    """What pruning takes for H, in float64."""
    return matrix.double() + torch.eye(len(matrix)) * 0.01 * matrix.double().diagonal().mean()


def settled(rows, H, free, gone):
    """The rows once `gone` columns are 0 and the `free` ones made up for it: least dW H dWᵀ."""
    after = rows.clone()
    after[:, gone] = 0
    change = (after - rows)[:, gone] @ H[gone][:, free]
    after[:, free] -= torch.linalg.solve(H[free][:, free], change.T).T
    return after


def reference_of_whole(weight, matrix, pattern):
    """One group of rows; every kernel's loss is measured by leaving it out, in float64."""
    outputs, channels, *kernel = weight.shape
    at = torch.arange(matrix.shape[0]).reshape(-1, channels)  # [position, in] -> column
    H = damped(matrix)
    W = weight.permute(0, 2, 3, 1).reshape(outputs, -1).double().clone()
    for start, size, kept in pattern.group_sizes(channels):
        for first in range(0, outputs, pattern.v):
            rows = W[first : first + pattern.v].clone()
            left = list(range(start, start + size))
            for _ in range(size - kept):
                tried = {}
                for channel in left:
                    others = [c for c in (*left, *range(start + size, channels)) if c != channel]
                    free = at[:, others].flatten()
                    after = settled(rows, H, free, at[:, channel])
                    change = after - rows
                    tried[channel] = float(((change @ H) * change).sum()), after
                least = min(tried, key=lambda channel: tried[channel][0])
                left.remove(least)
                rows = tried[least][1]
            W[first : first + pattern.v] = rows
    return W.reshape(outputs, *kernel, channels).permute(0, 3, 1, 2)


FEW_INPUTS = {"ragged", "grouped", "transposed grouped"}  # too few for 4:8
CASES = [(kind, text) for kind in LAYERS for text in ("2:4", "1:4", "4x2:4", "3x1:4")]
CASES += [(kind, "4:8") for kind in LAYERS if kind not in FEW_INPUTS]
WHOLE_CASES = [
    (kind, text)
    for kind, text in itertools.product(LAYERS, ("4x2:4k", "3x1:4k", "2:4k"))
    if kind != "1x1"
]


def agree(kind, text, plainly, rtol, atol):
    """Whether a layer is pruned as a plain reference does it, group by group."""
    call, layer, weight = built(kind)
    pattern = Pattern.parse(text)
    hessian = hessian_of(call, weight, inputs(layer.in_channels))
    found = prune_second_order(weight, hessian, pattern)
    parts = zip(weight.chunk(call.groups), hessian.matrix, strict=True)
    expected = torch.cat([plainly(part, matrix, pattern) for part, matrix in parts])
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_pruning_is_what_the_plain_reference_does(kind, text):
    agree(kind, text, reference, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("kind", "text"), WHOLE_CASES)
def test_whole_kernels_go_in_the_order_of_what_each_would_cost(kind, text):
    agree(kind, text, reference_of_whole, rtol=1e-3, atol=1e-5)


def test_one_kernel_of_all_is_the_one_that_brute_force_leaves_out():
    call, _, weight = built("plain")
    hessian = hessian_of(call, weight, inputs())
    H, columns = damped(hessian.matrix[0]), torch.arange(72).reshape(9, 8)
    rows = weight.permute(0, 2, 3, 1).reshape(8, -1).double()
    tried = []
    for gone in range(8):
        free = columns[:, [c for c in range(8) if c != gone]].flatten()
        after = settled(rows, H, free, columns[:, gone])
        tried.append((float((((after - rows) @ H) * (after - rows)).sum()), gone, after))
    _, least, after = min(tried, key=lambda entry: entry[0])
    found = prune_second_order(weight, hessian, Pattern.parse("8x7:8k"))
    assert (found == 0).all(0).all((1, 2)).nonzero().flatten().tolist() == [least]
    flat = found.permute(0, 2, 3, 1).reshape(8, -1).double()
    torch.testing.assert_close(flat, after, rtol=1e-3, atol=1e-5)


def test_more_columns_than_are_updated_at_once_make_no_difference():
    call, _, weight = built("5x5")  # 200 columns, 128 at once
    hessian = hessian_of(call, weight, inputs(size=20))
    pattern = Pattern.parse("2:4")
    found = prune_second_order(weight, hessian, pattern)
    expected = reference(weight, hessian.matrix[0], pattern)
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-4)


def error(weight, pruned, matrix):
    """tr(dW H dWᵀ): the squared error that pruning adds to the layer's outputs."""
    groups = matrix.shape[0]
    rows = (pruned - weight).permute(0, 2, 3, 1).reshape(groups, weight.shape[0] // groups, -1)
    return float(torch.einsum("goi,gij,goj->", rows, matrix, rows))


@pytest.mark.parametrize(("kind", "text"), CASES + WHOLE_CASES)
def test_the_pattern_is_kept_exactly_and_the_error_is_less_than_by_magnitude(kind, text):
    call, layer, weight = built(kind)
    pattern = Pattern.parse(text)
    before = weight.clone()
    hessian = hessian_of(call, weight, inputs(layer.in_channels))
    second = prune_second_order(weight, hessian, pattern)
    magnitude = prune_magnitude(weight, call.groups, pattern)
    assert torch.equal(weight, before)
    kept = pattern.kept(weight.shape[1])
    for pruned in (second, magnitude):
        assert pattern.allows((pruned != 0).numpy(), call.groups)
        assert ((pruned != 0).sum(1) == kept).all()
        if pattern.whole:
            assert ((pruned != 0) == (pruned != 0)[:, :, :1, :1]).all()
    assert error(weight, second, hessian.matrix) < 0.9 * error(weight, magnitude, hessian.matrix)


def test_magnitude_keeps_the_largest():
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0, 5.0, -6.0]]).reshape(1, 6, 1, 1)
    found = prune_magnitude(weight, 1, Pattern.parse("2:4")).flatten()
    assert found.tolist() == [0, -4, 0, 3, 0, -6]  # of the last two, one


def test_shared_choices_go_by_the_sum_of_squares():
    weight = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 1.0, 2.0, 0.0]]).reshape(2, 4, 1, 1)
    found = prune_magnitude(weight, 1, Pattern.parse("2x1:4")).reshape(2, 4)
    assert found.tolist() == [[3, 0, 0, 0], [0, 0, 0, 0]]
    apart = prune_magnitude(weight, 1, Pattern.parse("1:4")).reshape(2, 4)
    assert apart.tolist() == [[3, 0, 0, 0], [0, 0, 2, 0]]


def test_whole_kernels_go_by_the_sum_of_their_squares():
    weight = torch.tensor(
        [[[3.0, 0.0], [2.0, 2.0], [0.5, 3.1]], [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]]
    )
    found = prune_magnitude(weight[:, :, None], 1, Pattern.parse("1:3k"))[:, :, 0]
    assert found.any(2).tolist() == [[False, False, True], [False, False, True]]
    shared = prune_magnitude(weight[:, :2, None], 1, Pattern.parse("2x1:2k"))[:, :, 0]
    assert shared.tolist() == [[[3, 0], [0, 0]], [[1, 1], [0, 0]]]


def test_inputs_that_are_always_zero_do_no_harm():
    call, _, weight = built("plain")
    hessian = hessian_of(call, weight, torch.zeros(1, 8, 6, 6))
    found = prune_second_order(weight, hessian, Pattern.parse("2:4"))
    expected = prune_magnitude(weight, 1, Pattern.parse("2:4"))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected)
