"""A graph of levels, before and after a head and routing nodes are put into it."""

import pytest
import torch

from nmcompile.passes.insert_routing import HEAD, SHARES, insert_routing
from nmcompile.routing.head import head_program, make_head
from tests.networks import Shared, image, operations, plain
from tests.routing.nests import nest

NETWORKS = {"plain": plain, "shared": Shared}
OFFSETS = (0.3, 0.0, -0.2)


def routed(folder, mode, offsets=OFFSETS, make=plain, sharpness=1.0):
    _, nested = nest(folder, make())
    head = make_head(3, nested.count, 1.0, seed=2)
    program = head_program(head, nested)
    return nested, head, insert_routing(nested, program, offsets, mode, sharpness)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_mixture_weighs_every_level_by_its_share(tmp_path, kind):
    nested, head, program = routed(tmp_path, "mixture", make=NETWORKS[kind], sharpness=3.0)
    x, seen = image(program), []
    program.module.get_submodule(SHARES).register_forward_hook(lambda *a: seen.append(a[2]))
    found = program(x)
    with torch.no_grad():
        shares = (3.0 * (head(x)[:, :-1] + torch.tensor(OFFSETS).reshape(1, -1, 1, 1))).softmax(1)
    expected = sum(shares[:, i : i + 1] * nested.at(i)(x) for i in range(nested.count))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[0], shares, rtol=1e-5, atol=1e-6)


def test_what_levels_share_is_computed_once(tmp_path):
    nested, _, program = routed(tmp_path, "mixture")
    before, after = operations(nested.program), operations(program)
    assert before.count("conv2d") == 4
    # Four of the head, one before the levels part, and three layers at each of three levels.
    assert after.count("conv2d") == 4 + 1 + 3 * 3
    assert after.count("le") == 2 * 3


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_argmax_runs_the_chosen_level(tmp_path, kind, level):
    offsets = [1e9 if at == level else 0.0 for at in range(3)]
    nested, _, program = routed(tmp_path, "argmax", offsets, NETWORKS[kind])
    x = image(program, batch=1)
    torch.testing.assert_close(program(x), nested.at(level)(x), rtol=1e-6, atol=1e-6)


def test_argmax_follows_the_scores(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 16, 24, generator=generator)
    head = make_head(3, 3, 1.0, seed=2)
    with torch.no_grad():
        scores = head(images).flatten(1)[:, :-1]
    nested, _, program = routed(tmp_path, "argmax", (-scores.mean(0)).tolist())
    chosen = (scores - scores.mean(0)).argmax(1).tolist()
    assert set(chosen) == {0, 1, 2}
    for x, level in zip(images.split(1), chosen, strict=True):
        torch.testing.assert_close(program(x), nested.at(level)(x), rtol=1e-5, atol=1e-5)


def test_argmax_exports_with_its_conditions(tmp_path):
    nested, _, program = routed(tmp_path, "argmax", (0.0, 1e9, 0.0))
    exported = torch.export.export(program.module, (image(program, batch=1),))
    x = image(program, batch=1) + 0.1
    torch.testing.assert_close(exported.module()(x), nested.at(1)(x), rtol=1e-5, atol=1e-6)
    assert "cond" in str(exported.graph)


def test_levels_and_head_have_gradients_through_one_copy_of_the_weights(tmp_path):
    nested, _, program = routed(tmp_path, "mixture")
    module = program.module.requires_grad_(True)
    module(image(program)).square().mean().backward()
    found = dict(module.named_parameters())
    assert sum(name.startswith(HEAD) for name in found) == 8
    assert sum(not name.startswith(HEAD) for name in found) == len(
        dict(nested.program.module.named_parameters())
    )
    for name in ("body.0.weight", HEAD + "last.weight", HEAD + "first.weight"):
        assert found[name].grad.abs().sum() > 0
