"""Networks with operations that libnmk lacks -> regions, engines of them, and what they say."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nmcompile
from nmcompile.backends import cpu, make_target
from nmcompile.backends.native import Allowed
from nmcompile.backends.region_parts import write_regions
from nmcompile.backends.region_times import gain_of_regions
from nmcompile.backends.regions import find_regions
from nmcompile.budget import Budget
from nmcompile.capture import capture
from nmcompile.cli import main
from nmcompile.compile import Settings
from nmcompile.engine import seal
from nmcompile.errors import NmcompileError
from nmcompile.pattern import Pattern
from nmcompile.runtime import load
from nmcompile.runtime.regions import REGIONS, RegionExecutor, read_regions
from nmcompile.tasks import Task
from tests.engines import PLAIN


class Net(nn.Module):
    """Three convolutions around a function."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.body, self.tail = (
            nn.Conv2d(*sizes, 3, padding=1) for sizes in ((3, 16), (16, 16), (16, 3))
        )
        self.function = function

    def forward(self, x):
        return x + self.tail(self.function(self, F.relu(self.head(x))))


def _between(net, x):
    return net.body(torch.sin(x))


def _beside(net, x):
    """What ONNX Runtime computes is needed before and after a native region."""
    wave = torch.sin(x)
    return net.body(wave) * torch.cos(wave) + torch.sin(net.body(x))


def _transposed(net, x):
    """A value that is no image passes between two regions of ONNX Runtime."""
    flat = x.flatten(2).transpose(1, 2).softmax(-1)
    mixed = net.body(x) + flat.mean(1)[:, :, None, None]
    return mixed * (flat.transpose(1, 2).unflatten(2, x.shape[2:]) + 1)


def _resized(net, x):
    """The size of one region's image is what another region resizes to."""
    coarse = torch.sin(F.max_pool2d(net.body(x), 3, 2))
    wide = F.interpolate(net.body(coarse), x.shape[2:], mode="bilinear", align_corners=True)
    return torch.cos(wide) + F.interpolate(coarse, x.shape[2:], mode="bicubic")


def _blocks(net, x):
    """Export writes the channels of an unshuffled image in symbols; two regions exchange it."""
    folded = F.pixel_unshuffle(net.body(x)[:, :4], 2)
    wave = torch.sin(folded).sum(1, keepdim=True).repeat(1, 3, 1, 1)
    return F.pixel_shuffle(net.body(net.head(wave) + folded), 2).repeat(1, 4, 1, 1)


def _constant(net, x):
    """One region's result depends on the type of its input alone."""
    shift = torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(4).view(1, 16, 1, 1)
    return torch.sin(net.body(x) - shift.type_as(x)) + torch.sin(shift).type_as(x)


FUNCTIONS = {f.__name__: f for f in (_between, _beside, _transposed, _resized, _blocks, _constant)}
SIZES = ((1, 9, 9), (2, 16, 23), (3, 40, 33))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_regions_compute_what_the_network_does(name, tmp_path):
    program = capture(Net(FUNCTIONS[name]).eval(), channels=3)
    write_regions(tmp_path, program, Allowed())
    executor = RegionExecutor(tmp_path, 2)
    step = program.interface.multiple
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height * step, width * step)
        found = executor({program.interface.input_name: x.numpy()})
        np.testing.assert_allclose(found, program(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_node_runs_once_after_what_it_reads(name):
    program = capture(Net(FUNCTIONS[name]).eval(), channels=3)
    regions = find_regions(program)
    known = {node for node in program.module.graph.nodes if node.op == "placeholder"}
    for region in regions:
        assert set(region.inputs) <= known
        assert not known & set(region.nodes)
        known |= set(region.outputs)
    assert "native" in {region.runner for region in regions}
    nodes = [node for region in regions for node in region.nodes]
    sizes = [n for n in program.module.graph.nodes if n.target is torch.ops.aten.sym_size.int]
    called = [n for n in program.module.graph.nodes if n.op == "call_function"]
    assert set(nodes) == set(called) - set(sizes)
    assert len(nodes) == len(set(nodes))


def test_native_nodes_without_a_convolution_join_their_neighbours():
    def gated(net, x):
        return torch.sin(torch.relu(torch.sin(x)) * 2) + net.body(x)

    regions = find_regions(capture(Net(gated).eval(), channels=3))
    outside = [region.operations() for region in regions if region.runner == "onnxruntime"]
    assert outside == [{"aten.sin": 2, "aten.mul": 1, "aten.relu": 1}]


def _settings():
    return Settings(
        task=Task("denoise", 25), budget=Budget.parse("macs=0.7"), value_range=1.0, size=(48, 64),
        patterns=(Pattern.parse("2:4"),), prune="magnitude", crops=4, threads=1,
    )  # fmt: skip


def test_an_engine_of_regions_names_what_is_not_native(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NMCOMPILE_CACHE", str(tmp_path / "cache"))
    engine = nmcompile.compile(Net(_between).eval(), tmp_path / "engine", _settings())
    assert engine.manifest.executor == "regions"
    assert {REGIONS, "region-0.nmk", "region-1.onnx", "region-2.nmk"} <= set(engine.manifest.parts)
    receipt = json.loads((tmp_path / "engine/receipt.json").read_text())
    assert receipt["note"] == ("ONNX Runtime runs 1 of 6 operations, in 1 of 3 regions: 1 aten.sin")
    assert receipt["regions"][1] == {
        "part": "region-1.onnx", "runner": "onnxruntime", "operations": {"aten.sin": 1},
    }  # fmt: skip
    rows = {row["name"]: row for row in receipt["layers"]}
    assert rows["body.weight"]["pattern"] == "2:4"
    assert rows["body.weight"]["status"] == "sparse kernel"
    assert main(["inspect", str(tmp_path / "engine")]) == 0
    shown = capsys.readouterr().out
    assert "region-1.onnx, run by onnxruntime: 1 aten.sin" in shown
    assert "run by regions" in shown


def test_layers_in_onnx_runtime_are_timed_there():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 3)

        def forward(self, x):
            return self.linear(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    target = make_target("cpu", 1).fitted(capture(Tokens().eval(), channels=3), (16, 16))
    assert target.executor == "regions"
    assert "2 aten.permute, 1 aten.linear" in target.note


@pytest.mark.parametrize(("gain", "executor"), [(0.8, "onnxruntime"), (0.99, "regions")])
def test_regions_that_take_longer_are_left_to_onnx_runtime(gain, executor, monkeypatch):
    monkeypatch.setattr(cpu, "gain_of_regions", lambda *_: gain)
    program = capture(Net(_between).eval(), channels=3)
    target = make_target("cpu", 1).fitted(program, (16, 16))
    assert target.executor == executor
    said = "no aten.sin (sin) and native regions around it would take 1.25 times as long, so ONNX"
    assert (said in target.note) == (executor == "onnxruntime")


@pytest.mark.real_times
def test_regions_are_timed_against_onnx_runtime():
    program = capture(Net(_between).eval(), channels=3)
    assert gain_of_regions(program, Allowed(), (16, 16), 1) > 0


def _written(tmp_path):
    write_regions(tmp_path, capture(Net(_between).eval(), channels=3), Allowed())
    manifest = dataclasses.replace(PLAIN, executor="regions", input_name="x")
    seal(tmp_path, manifest)
    return tmp_path / REGIONS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9}, "version 9, expected 1"),
        ({"output": "nowhere"}, "nothing gives nowhere"),
        ({"inputs": "x"}, "no list of names"),
        ({"inputs": []}, "which nothing gives"),
        ({"regions": [{"runner": "native"}]}, "operations"),
        ({"regions": None}, "TypeError"),
    ],
)
def test_damaged_plans_are_refused(change, said, tmp_path):
    path = _written(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(NmcompileError, match=f"damaged.*{said}.*compile the engine again"):
        load(tmp_path, 1, check_parts=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"part": "../region-0.nmk"}, "no file of the engine"),
        ({"part": "absent.nmk"}, "cannot be read"),
        ({"runner": "abacus"}, "expected native or onnxruntime"),
        ({"inputs": ["later"]}, "which nothing gives"),
    ],
)
def test_damaged_regions_are_refused(change, said, tmp_path):
    path = _written(tmp_path)
    data = json.loads(path.read_text())
    data["regions"][0].update(change)
    path.write_text(json.dumps(data))
    with pytest.raises(NmcompileError, match=said):
        load(tmp_path, 1, check_parts=False)


def test_an_altered_part_is_noticed(tmp_path):
    _written(tmp_path)
    part = tmp_path / "region-0.nmk"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(NmcompileError, match=r"region-0\.nmk is not what was written"):
        load(tmp_path, 1)


def test_plan_is_read_as_it_was_written(tmp_path):
    plan = read_regions(_written(tmp_path))
    assert json.loads(plan.to_json()) == json.loads((tmp_path / REGIONS).read_text())
