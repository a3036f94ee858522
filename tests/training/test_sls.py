"""SLS: the chain of gates, its gradients, costs and budget, against the paper's equations."""

from types import SimpleNamespace

import pytest
import torch

from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.training.sls import PENALTY, GatedMask, Gates, Search, SlsPolicy

FAMILY = Pattern(1, 1, 4)


def a_layer(name, shape=(4, 8, 3, 3)):
    return Layer(name, "conv2d", shape, 1, 1, 1, 1, "", 1)


def a_policy(limit=50.0, epochs=10, speed=1.0):
    search = Search(FAMILY, limit, 20.0, epochs)
    costs = {"a": [10.0, 20.0, 30.0, 40.0], "b": [5.0, 30.0, 35.0, 40.0]}
    return SlsPolicy(search, costs, speed)


def started(policy, *names):
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(4, 8, 3, 3, generator=generator) for name in names}
    made = {name: (w, policy.masking(a_layer(name), w)) for name, w in weights.items()}
    policy.begin(SimpleNamespace(raw=weights.__getitem__))
    return made


def move(masking, *k):
    with torch.no_grad():
        masking.gates.travelled.copy_((1 - torch.tensor(k)) / masking.gates.speed)


def test_the_chain_is_the_running_product_of_clamped_scalars():
    gates = Gates(5, speed=2.0)
    with torch.no_grad():
        gates.travelled.copy_(
            torch.tensor([0.1, -0.3, 0.25, 0.6])
        )  # k: 0.8, 1 (1.6), 0.5, 0 (-0.2)
    torch.testing.assert_close(gates.chain(), torch.tensor([1.0, 0.8, 0.8, 0.4, 0.0]))
    torch.testing.assert_close(gates(), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))


def test_gates_stay_where_a_checkpoint_left_them_whatever_the_rate_is_now():
    before, after = Gates(4, speed=2.0), Gates(4, speed=8.0)
    with torch.no_grad():
        before.travelled.copy_(torch.tensor([0.05, 0.1, 0.2]))
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(after.chain(), before.chain(), rtol=0, atol=0)


def test_backwards_a_gate_is_its_own_p():
    gates = Gates(4, speed=1.0)
    with torch.no_grad():
        gates.travelled.copy_(torch.tensor([0.1, 0.2, 0.9]))
    gates().sum().backward()
    # d(1 + k1 + k1 k2 + k1 k2 k3) / dk, and k = 1 - travelled.
    k1, k2, k3 = 0.9, 0.8, 0.1
    expected = -torch.tensor([1 + k2 + k2 * k3, k1 + k1 * k3, k1 * k2])
    torch.testing.assert_close(gates.travelled.grad, expected)


def test_a_mask_follows_the_gates_and_pruned_weights_get_no_gradient():
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    masking = GatedMask(weight, a_layer("a"), FAMILY, speed=1.0)
    assert masking.n == 4
    move(masking, 0.9, 0.5, 1.0)
    assert masking.n == 2
    out = masking(weight)
    assert Pattern(1, 2, 4).allows((out != 0).numpy())
    torch.testing.assert_close(out, weight * masking.mask())
    out.sum().backward()
    torch.testing.assert_close(weight.grad, masking.mask().float())
    # A gate's gradient sums weight * gradient over the weights of its rank.
    by_rank = torch.stack([(weight * (masking.levels == i)).sum() for i in range(4)])
    p1, p2 = 0.9, 0.5
    expected = -(by_rank[1] + p2 * by_rank[2] + p2 * 1.0 * by_rank[3])
    torch.testing.assert_close(masking.gates.travelled.grad[0], expected.detach())
    assert p1 * p2 < 0.5  # the third gate is closed, and is trained all the same


def test_the_cost_is_that_of_the_n_chosen_and_has_a_gradient_for_each_gate():
    policy = a_policy()
    parts = started(policy, "a", "b")
    assert policy.cost == 100
    move(parts["b"][1], 0.9, 0.9, 0.5)
    assert policy.cost == pytest.approx(20 + 40 + 35)
    penalty = policy.penalty()
    assert penalty.item() == pytest.approx(0.95 * PENALTY)
    penalty.backward()
    # b costs 5, 30, 35, 40: the first gate, which the others hang on, weighs most.
    k = torch.tensor([0.9, 0.9, 0.5], requires_grad=True)
    (5 + 25 * k[0] + 5 * k[0] * k[1] + 5 * k[0] * k[1] * k[2]).backward()
    expected = -k.grad * PENALTY / 100
    torch.testing.assert_close(parts["b"][1].gates.travelled.grad, expected)


def test_the_budget_met_freezes_n_and_ends_the_penalty_but_not_the_ranking():
    policy = a_policy(limit=70.0)
    parts = started(policy, "a", "b")
    policy.after_step(0.01)
    assert not policy.ready()
    move(parts["a"][1], 0.9, 0.4, 1.0)  # 20
    move(parts["b"][1], 0.9, 0.3, 1.0)  # 30
    policy.after_step(0.02)
    assert policy.ready()
    assert policy.penalty() == 0.0
    assert policy.patterns() == {"a": Pattern(1, 2, 4), "b": Pattern(1, 2, 4)}
    move(parts["a"][1], 1.0, 1.0, 1.0)
    assert parts["a"][1].n == 2
    weight, masking = parts["a"]
    before = masking.mask()
    weight.copy_(weight.flip(1))
    policy.after_step(0.09)
    torch.testing.assert_close(masking.mask(), before)
    policy.after_step(0.1)
    torch.testing.assert_close(masking.mask(), before.flip(1))


def test_a_cost_that_stalls_raises_the_pressure():
    policy = a_policy()
    started(policy, "a", "b")
    before = policy.penalty().item()
    for progress in (0.05, 0.1, 0.15, 0.2, 0.25):
        policy.after_step(progress)
    assert policy.penalty().item() == pytest.approx(1.2 * before)


def test_a_search_that_has_not_met_its_budget_halfway_closes_the_gates_of_least_p():
    policy = a_policy(limit=60.0)
    parts = started(policy, "a", "b")
    move(parts["a"][1], 0.99, 0.98, 0.97)
    move(parts["b"][1], 0.95, 0.9, 0.9)
    policy.after_step(0.49)
    assert not policy.ready()
    policy.after_step(0.5)
    assert policy.ready()
    assert policy.forced
    # p of a: .99 .97 .94, of b: .95 .86 .77. From 100: b's .77 (5), .86 (5), a's .94 (10) and then
    # b's .95 (25) leave 55.
    assert policy.patterns() == {"a": Pattern(1, 3, 4), "b": Pattern(1, 1, 4)}
    assert policy.cost == 55


def test_gates_that_are_all_open_close_where_they_save_most():
    policy = a_policy(limit=72.0)
    started(policy, "a", "b")
    policy.after_step(0.5)
    # All p are 1: two gates of a save 10 each, its third 10 more; b's save 5, 5 and 25.
    assert policy.patterns() == {"a": Pattern(1, 1, 4), "b": DENSE}
    assert policy.cost == 70


def test_a_gate_never_leaves_the_reach_of_its_gradient():
    policy = a_policy(speed=2.0)
    _, masking = started(policy, "a")["a"]
    move(masking, 1.2, 0.5, -0.3)
    policy.after_step(0.01)
    k = 1 - 2.0 * masking.gates.travelled.detach()
    torch.testing.assert_close(k, torch.tensor([1.0, 0.5, 0.0]))
    masking.gates.chain().sum().backward()
    assert (masking.gates.travelled.grad[:2] != 0).all()


def test_a_layer_that_stays_whole_is_dense():
    policy = a_policy(limit=100.0)
    started(policy, "a", "b")
    policy.after_step(0.01)
    assert policy.patterns() == {"a": DENSE, "b": DENSE}


def test_what_a_checkpoint_keeps_is_enough_to_go_on():
    policy, other = a_policy(), a_policy()
    started(policy, "a", "b")
    copies = started(other, "a", "b")
    for step in range(40):
        policy.after_step(step / 100)
    other.restore(policy.state())
    assert other.penalty().item() == policy.penalty().item()
    assert other.state() == policy.state()
    for name, masking in policy._maskings.items():
        copies[name][1].load_state_dict(masking.state_dict())
    assert other.patterns() == policy.patterns()
