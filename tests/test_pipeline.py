"""Passes that keep or break what they declare -> what the runner makes of them."""

import dataclasses

import pytest
import torch
from torch import nn

from nmcompile.convs import get_tensor, set_tensor
from nmcompile.errors import NmcompileError
from nmcompile.pipeline import Pass, compiler_pass, run_passes
from nmcompile.plan import Plan
from nmcompile.program import Program
from nmcompile.progress import Reporter
from tests.networks import captured, context, plain, plan

WEIGHT = "head.weight"


@pytest.fixture(scope="module")
def program():
    return captured(plain())


@pytest.fixture
def ctx(tmp_path):
    return context(tmp_path / "cache")


@compiler_pass(needs=set(), gives={"seen"}, changes="nothing")
def look(program, ctx):
    """Does nothing."""
    return program


@compiler_pass(needs={"seen"}, gives={"planned"}, changes="nothing")
def make_plan(program, ctx):
    """Gives a plan."""
    return program.with_plan(plan())


def scaling(factor, changes):
    """A pass that multiplies the head's weight."""

    @compiler_pass(needs=set(), gives={"scaled"}, changes=changes)
    def scale_head(program, ctx):
        module = program.clone_module()
        set_tensor(module, WEIGHT, get_tensor(module, WEIGHT) * factor)
        return program.with_module(module)

    return scale_head


def failing(error):
    @compiler_pass(needs=set(), gives=set(), changes="graph")
    def fail(program, ctx):
        raise error

    return fail


def test_a_pass_is_named_by_its_function_and_keeps_what_it_declares():
    assert isinstance(make_plan, Pass)
    assert (make_plan.name, make_plan.changes) == ("make_plan", "nothing")
    assert (make_plan.needs, make_plan.gives) == ({"seen"}, {"planned"})


def test_facts_add_up_and_the_program_comes_through(program, ctx):
    found = run_passes(program, ctx, [look, make_plan])
    assert found.facts == {"seen", "planned"}
    assert isinstance(found.plan, Plan)
    assert found.module is program.module
    assert program.facts == frozenset()


def test_a_pass_runs_alone_with_the_same_checks(program, ctx):
    assert look(program, ctx).facts == {"seen"}
    with pytest.raises(RuntimeError, match="make_plan needs seen"):
        make_plan(program, ctx)


def test_a_missing_need_names_what_ran_and_what_holds(program, ctx):
    with pytest.raises(RuntimeError) as caught:
        run_passes(program, ctx, [make_plan])
    assert str(caught.value) == (
        "pass make_plan needs seen, which no pass before it gave (ran: none; holds: nothing)"
    )

    @compiler_pass(needs={"seen", "apples", "pears"}, gives=set(), changes="nothing")
    def bake(program, ctx):
        return program

    with pytest.raises(RuntimeError) as caught:
        run_passes(program, ctx, [look, make_plan, bake])
    assert str(caught.value) == (
        "pass bake needs apples, pears, which no pass before it gave "
        "(ran: look, make_plan; holds: planned, seen)"
    )


def test_a_graph_pass_that_moves_the_output_is_found_out(program, ctx):
    with pytest.raises(RuntimeError, match="scale_head declares changes='graph' but moved"):
        run_passes(program, ctx, [scaling(1.01, "graph")])


def test_rounding_is_no_broken_promise(program, ctx):
    found = run_passes(program, ctx, [scaling(1 + 1e-6, "graph")])
    assert found.facts == {"scaled"}


def test_a_pass_may_change_values_if_it_says_so(program, ctx):
    found = run_passes(program, dataclasses.replace(ctx, check=True), [scaling(2, "values")])
    expected = 2 * get_tensor(program.module, WEIGHT)
    assert torch.equal(get_tensor(found.module, WEIGHT), expected)


def test_a_pass_that_declares_nothing_is_compared_only_when_asked(program, ctx):
    deceiver = scaling(1.01, "nothing")
    assert run_passes(program, ctx, [deceiver]).facts == {"scaled"}
    with pytest.raises(RuntimeError, match="scale_head declares changes='nothing' but moved"):
        run_passes(program, dataclasses.replace(ctx, check=True), [deceiver])


def test_an_output_that_is_not_finite_is_a_broken_promise(program, ctx):
    with pytest.raises(RuntimeError, match="moved the output by nan"):
        run_passes(program, ctx, [scaling(float("nan"), "graph")])


def test_the_reference_is_taken_before_a_pass_that_works_in_place(program, ctx):
    @compiler_pass(needs=set(), gives=set(), changes="graph")
    def scale_in_place(program, ctx):
        set_tensor(program.module, WEIGHT, get_tensor(program.module, WEIGHT) * 2)
        return program

    copied = program.with_module(program.clone_module())
    with pytest.raises(RuntimeError, match="scale_in_place declares"):
        run_passes(copied, ctx, [scale_in_place])


def test_an_output_of_another_shape_is_a_broken_promise(program, ctx):
    @compiler_pass(needs=set(), gives=set(), changes="graph")
    def swap(program, ctx):
        return Program(captured(nn.Upsample(scale_factor=2)).module, program.interface)

    with pytest.raises(RuntimeError, match=r"shape \(1, 3, 40, 41\) into \(1, 3, 80, 82\)"):
        run_passes(program, ctx, [swap])


def test_a_graph_that_no_longer_runs_is_the_pass_s_failure(program, ctx):
    @compiler_pass(needs=set(), gives=set(), changes="graph")
    def break_weight(program, ctx):
        module = program.clone_module()
        set_tensor(module, WEIGHT, torch.zeros(8, 5, 3, 3))
        return program.with_module(module)

    with pytest.raises(RuntimeError, match=r"pass break_weight failed \(after look\)"):
        run_passes(program, ctx, [look, break_weight])


def test_a_failure_names_the_passes_before_and_keeps_its_cause(program, ctx):
    error = KeyError("weight")
    with pytest.raises(RuntimeError) as caught:
        run_passes(program, ctx, [look, make_plan, failing(error)])
    assert str(caught.value) == "pass fail failed (after look, make_plan): 'weight'"
    assert caught.value.__cause__ is error
    with pytest.raises(RuntimeError, match="after no other pass"):
        run_passes(program, ctx, [failing(error)])


def test_what_the_user_can_mend_passes_unchanged(program, ctx):
    error = NmcompileError("give larger images")
    with pytest.raises(NmcompileError) as caught:
        run_passes(program, ctx, [look, failing(error)])
    assert caught.value is error


def test_graph_and_plan_are_dumped_after_every_pass(program, ctx, tmp_path):
    folder = tmp_path / "deep" / "dump"
    run_passes(program, dataclasses.replace(ctx, dump_folder=folder), [look, make_plan])
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00-look.fx.txt", "01-make_plan.fx.txt", "01-make_plan.plan.json"]
    assert "torch.ops.aten.conv2d" in (folder / "00-look.fx.txt").read_text()
    assert Plan.load(folder / "01-make_plan.plan.json") == plan()


def test_a_folder_that_cannot_be_dumped_to_is_said(program, ctx, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NmcompileError, match="cannot dump there"):
        run_passes(program, dataclasses.replace(ctx, dump_folder=tmp_path / "file"), [look])


def test_details_name_every_pass(program, ctx, capsys):
    talkative = dataclasses.replace(ctx, reporter=Reporter(verbose=True))
    run_passes(program, talkative, [look, make_plan])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["look", "make_plan"]
