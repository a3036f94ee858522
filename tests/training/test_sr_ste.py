"""SR-STE: dense gradients, decay of what is not kept, a falling N, masks that end fixed."""

import math
from types import SimpleNamespace

import torch

from nmcompile.pattern import Pattern
from nmcompile.plan import Layer
from nmcompile.training.sr_ste import SrStePolicy

QUARTER = Pattern(1, 2, 8)


def started():
    policy = SrStePolicy({"a": QUARTER}, decay=6.0)
    layer = Layer("a", "conv2d", (4, 8, 3, 3), 1, 1, 1, 1, "", 1)
    weight = torch.nn.Parameter(torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0)))
    masking = policy.masking(layer, weight)
    policy.begin(SimpleNamespace(raw={"a": weight}.__getitem__))
    return policy, masking, weight


def test_pruned_weights_get_the_gradient_of_the_masked_ones():
    policy, masking, weight = started()
    policy.after_step(0.5)
    out = masking(weight)
    assert QUARTER.allows((out != 0).detach().numpy())
    assert int(masking.mask().sum()) == weight.numel() // 4
    (out * 3).sum().backward()
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 3.0))


def test_n_falls_from_all_to_the_pattern_by_half_of_the_steps():
    policy, masking, weight = started()
    counts = []
    for step in range(60):
        masking(weight)
        counts.append(int(masking.mask().sum()) * 8 // weight.numel())
        policy.after_step((step + 1) / 100)
    assert counts[0] == 8
    assert counts[50:] == [2] * 10
    assert counts == sorted(counts, reverse=True)
    assert counts[25] == round(2 + 6 * 0.5**3)


def test_what_is_not_kept_decays_and_the_rest_does_not():
    policy, masking, weight = started()
    policy.after_step(0.5)
    masking(weight)
    kept, before = masking.mask().clone(), weight.detach().clone()
    policy.before_step(0.5)
    torch.testing.assert_close(weight.detach()[kept], before[kept])
    torch.testing.assert_close(
        weight.detach()[~kept], before[~kept] * math.exp(-6 * (0.5 + 1 / math.pi))
    )


def test_a_whole_run_leaves_what_the_decay_says_however_many_steps_it_has():
    for steps in (7, 100):
        policy, masking, weight = started()
        policy.after_step(0.5)
        masking(weight)
        dropped = ~masking.mask()
        before = weight.detach().clone()
        for step in range(steps):
            policy.before_step((step + 1) / steps)
        left = (weight.detach() / before)[dropped]
        torch.testing.assert_close(left, torch.full_like(left, math.exp(-6)))


def test_masks_stay_in_the_last_quarter():
    policy, masking, weight = started()
    for step in range(75):
        masking(weight)
        policy.after_step((step + 1) / 100)
    assert masking.frozen
    before = masking.mask().clone()
    with torch.no_grad():
        weight.copy_(weight.flip(1))
    masking(weight)
    assert torch.equal(masking.mask(), before)


def test_before_that_masks_follow_the_weights():
    policy, masking, weight = started()
    for step in range(60):
        masking(weight)
        policy.after_step((step + 1) / 100)
    assert not masking.frozen
    before = masking.mask().clone()
    with torch.no_grad():
        weight.copy_(weight.flip(1))
    masking(weight)
    assert torch.equal(masking.mask(), before.flip(1))


def test_patterns_are_those_that_the_masks_have():
    policy, _, _ = started()
    assert policy.patterns() == {"a": Pattern.parse("dense")}
    policy.after_step(0.25)
    assert policy.patterns() == {"a": Pattern(1, 3, 8)}
    policy.after_step(1.0)
    assert policy.patterns() == {"a": QUARTER}


def test_what_a_checkpoint_keeps_is_enough_to_go_on():
    policy, masking, weight = started()
    policy.after_step(0.5)
    masking(weight)
    policy.before_step(0.4)
    other, copy, same = started()
    other.restore(policy.state())
    copy.load_state_dict(masking.state_dict())
    with torch.no_grad():
        same.copy_(weight)
    for each in (policy, other):
        each.before_step(0.6)
    assert torch.equal(same, weight)


def test_dense_layers_are_left_alone():
    policy = SrStePolicy({"a": Pattern.parse("dense")})
    layer = Layer("a", "conv2d", (4, 8, 3, 3), 1, 1, 1, 1, "", 1)
    assert policy.masking(layer, torch.zeros(4, 8, 3, 3)) is None
    assert policy.patterns() == {}
    assert policy.penalty() == 0.0
