"""Networks of every kind of the field -> Programs that compute the same at every allowed size."""

import contextlib
import io
import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from nmcompile import capture
from nmcompile.engine import ExtraInput
from nmcompile.errors import NmcompileError
from nmcompile.program import Program
from tests.architectures import ZOO, build, captured
from tests.zoo_convolutions import Residual, conv

# Enough of them to meet every way in which an archive may differ; each takes a second or so.
ARCHIVED = ("rcan", "srresnet", "rrdbnet_x2", "ffdnet", "drunet", "convnext", "in_place", "cbam")
FREE = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}


def _images(program: Program, *sizes: tuple[int, int, int]):
    """Image batches whose sides are those multiples of what the network needs, from its least."""
    interface = program.interface
    for batch, rows, columns in sizes:
        sides = (interface.minimum + interface.multiple * n for n in (rows, columns))
        yield torch.rand(batch, interface.channels, *sides) * interface.value_range


def _assert_same(program: Program, network: nn.Module, images) -> None:
    for image in images:
        with torch.no_grad():
            expected = network(*program.interface.arguments(image))
        assert expected.shape[2:] == tuple(program.interface.scale * n for n in image.shape[2:])
        torch.testing.assert_close(program(image), expected, atol=1e-5, rtol=1e-5)


def _stored(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("name", ZOO)
def test_module(name):
    program, entry = captured(name), ZOO[name]
    found = program.interface
    assert (found.scale, found.channels) == (entry.scale, entry.channels)
    assert (found.multiple, found.minimum) == (entry.multiple, entry.minimum)
    assert tuple(extra.shape for extra in found.extra_inputs) == entry.extras
    assert found.fixed_size is None
    _assert_same(program, build(name), _images(program, (1, 0, 0), (2, 3, 22), (3, 17, 8)))


@pytest.mark.parametrize("name", ZOO)
def test_graph_is_functional_and_plain(name):
    for node in captured(name).module.graph.nodes:
        target = node.target
        assert node.op in {"placeholder", "get_attr", "call_function", "output"}
        assert not isinstance(target, torch._ops.HigherOrderOperator)
        if isinstance(target, torch._ops.OpOverload):
            assert not target._schema.is_mutable
            assert "assert" not in str(target)


@pytest.mark.parametrize("name", ARCHIVED)
def test_dynamic_archive(name):
    module, network = captured(name), build(name)
    interface = module.interface
    step = interface.multiple
    image = torch.rand(2, interface.channels, 15 * step, 17 * step) * interface.value_range
    axes = {0: 0, "H": 2, "W": 3}
    extras = [
        {axis: Dim.AUTO for axis, item in enumerate(extra.shape) if item in axes}
        for extra in interface.extra_inputs
    ]
    exported = torch.export.export(
        network, interface.arguments(image), dynamic_shapes=(FREE, *extras), strict=False
    )
    program = capture(_stored(exported), value_range=interface.value_range)
    found = program.interface
    assert (found.scale, found.channels) == (interface.scale, interface.channels)
    assert (found.multiple, found.fixed_size) == (step, None)
    assert [e.shape for e in found.extra_inputs] == [e.shape for e in interface.extra_inputs]
    _assert_same(program, network, _images(program, (1, 0, 0), (2, 3, 22), (3, 17, 8)))


@pytest.mark.parametrize("name", ["rcan", "drunet", "nafnet", "in_place", "non_local"])
def test_static_archive(name):
    network = build(name)
    extras = [
        torch.full([{"H": 24, "W": 32}.get(n, n) or 1 for n in shape], 0.1)
        for shape in ZOO[name].extras
    ]
    exported = torch.export.export(network, (torch.rand(1, ZOO[name].channels, 24, 32), *extras))
    program = capture(_stored(exported))
    found = program.interface
    assert (found.fixed_size, found.scale, found.multiple) == ((24, 32), ZOO[name].scale, 1)
    assert [extra.value for extra in found.extra_inputs] == pytest.approx([0.1] * len(extras))
    _assert_same(program, network, [torch.rand(n, 3, 24, 32) for n in (1, 3)])


def test_archive_for_one_batch_only():
    class Mixed(nn.Module):
        def forward(self, x):
            return x + x.flatten()[:2].sum() * x.reshape(6, 1, 16, 16).mean()

    exported = torch.export.export(Mixed(), (torch.rand(2, 3, 16, 16),))
    with pytest.raises(NmcompileError, match=r"exported for batches of 2 .* dynamic_shapes=\("):
        capture(exported)


def test_archive_keeps_its_own_limits():
    dims = {2: 4 * Dim("h", min=3, max=64), 3: 4 * Dim("w", min=3, max=64)}
    exported = torch.export.export(
        build("vdsr"), (torch.rand(1, 3, 24, 32),), dynamic_shapes=(dims,), strict=False
    )
    found = capture(exported).interface
    assert (found.multiple, found.minimum) == (4, 12)


def test_archive_in_training_mode():
    network = nn.Sequential(conv(3, 8), nn.Dropout(), conv(8, 3)).train()
    exported = torch.export.export(network, (torch.rand(1, 3, 16, 16),))
    with pytest.raises(NmcompileError, match=r"training mode .*; call model\.eval\(\)"):
        capture(exported)


def test_archive_of_four_channels():
    exported = torch.export.export(conv(4, 4), (torch.rand(1, 4, 16, 16),))
    with pytest.raises(NmcompileError, match=r"takes images of 4 channels"):
        capture(exported)


def test_a_network_for_one_size_only():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.place = conv(3, 3), nn.Parameter(torch.rand(1, 3, 64, 64))

        def forward(self, x):
            return self.layer(x + self.place)

    network = Placed()
    program = capture(network)
    assert program.interface.fixed_size == (64, 64)
    _assert_same(program, network, [torch.rand(n, 3, 64, 64) for n in (1, 4)])


def test_size_that_python_branches_on_is_captured_where_it_holds():
    class Padding(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 8, 8, stride=8), nn.ConvTranspose2d(8, 3, 8, stride=8)

        def forward(self, x):
            height, width = x.shape[2:]
            below, right = int(-height % 8), int(-width % 8)
            if below or right:
                x = F.pad(x, (0, right, 0, below), mode="reflect")
            return self.up(self.down(x))[..., :height, :width]

    program = capture(Padding())
    assert (program.interface.multiple, program.interface.minimum) == (8, 8)


def test_two_further_inputs_of_different_shapes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = conv(4, 3)

        def forward(self, image, gain, noise_map):
            if gain.dim() != 1:
                raise ValueError("gain")
            return self.layer(torch.cat((image, noise_map), 1)) * gain[:, None, None, None]

    network = Two()
    program = capture(network)
    assert [(e.name, e.shape) for e in program.interface.extra_inputs] == [
        ("gain", (0,)), ("noise_map", (0, 1, "H", "W")),
    ]  # fmt: skip
    _assert_same(program, network, _images(program, (1, 4, 6), (2, 9, 8)))


def test_an_argument_with_a_default_can_be_made_an_input():
    class Optional(nn.Module):
        def forward(self, x, level=None):
            return x if level is None else x - level

    assert capture(Optional()).interface.extra_inputs == ()
    level = ExtraInput("level", (0, 1, 1, 1), 0.25)
    program = capture(Optional(), extras=(level,))
    image = torch.rand(2, 3, 8, 9)
    assert program.interface.extra_inputs == (level,)
    torch.testing.assert_close(program(image), image - 0.25)


def test_one_size_will_do_if_it_is_given():
    network = _Rows()
    program = capture(network, size=(12, 20))
    assert program.interface.fixed_size == (12, 20)
    _assert_same(program, network, [torch.rand(2, 3, 12, 20)])


# torch's compiler imports its own deprecated class.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_what_wraps_a_network_is_taken_off():
    network = conv(3, 3)
    for wrapped in (nn.DataParallel(network), torch.compile(network)):
        _assert_same(capture(wrapped), network, [torch.rand(2, 3, 9, 8)])


@pytest.mark.parametrize("name", ["no_grad", "counter"])
def test_side_effects_are_left_out(name):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = conv(3, 3)
            self.register_buffer("runs", torch.zeros(1))

        def forward(self, x):
            if name == "counter":
                self.runs += 1
                return self.layer(x)
            with torch.no_grad():
                mean = x.mean(1, keepdim=True)
            return self.layer(x - mean) + mean

    network = Odd()
    _assert_same(capture(network), network, [torch.rand(2, 3, 9, 8)])


def test_given_size_must_fit():
    with pytest.raises(NmcompileError, match=r"30x32, the network takes multiples of 4 from 4 on"):
        capture(build("unet"), size=(30, 32))


class _Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.mean() > 0.5 else x


class _Several(nn.Module):
    def forward(self, x):
        return x, x


class _Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class _Rows(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, :, row] * 2 for row in range(x.shape[2])], 2)


class _Kernel(nn.Module):
    def forward(self, x, kernel):
        return F.conv2d(x, kernel.view(3, 3, 5, 5), padding=2)


REFUSED = {
    "classifier": (
        nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
        r"no image-to-image network: input \(1, 3, 64, 64\) gives \(1, 10\)",
    ),
    "shrinks": (nn.MaxPool2d(2), r"no image-to-image network: .* no whole multiple of its size"),
    "colour in, grey out": (conv(3, 1), r"gives \(1, 1, 64, 64\), expected \[N, 3, H, W\]"),
    "four channels": (Residual(conv(4, 4)), r"3 channels: .*to have 4 channels"),
    "tuple": (_Several(), r"returns a tuple, expected one image; wrap it"),
    "branch": (_Branch(), r"takes pixel values into Python .*torch\.where"),
    "random": (_Noisy(), r"draws random numbers \(aten\.randn_like"),
    "rows in Python": (_Rows(), r"counts over the size \(range, int, if\) ties it to 41x43"),
    "half precision": (conv(3, 3).half(), r"weight weight is torch\.float16; call model\.float"),
    "unknown input": (_Kernel(), r"forward takes x, kernel, and no usual shape of kernel goes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    network, message = REFUSED[case]
    with pytest.raises(NmcompileError, match=message) as caught:
        capture(network)
    assert "\n" not in str(caught.value)


def test_refused_channels():
    with pytest.raises(NmcompileError, match=r"4 image channels; .*further input"):
        capture(conv(4, 4), channels=4)


def test_capture_is_silent():
    code = (
        "from tests.architectures import build\nfrom nmcompile import capture\n"
        "from pathlib import Path\nimport tempfile\n"
        "from nmcompile.backends.onnx import export_onnx\n"
        "folder = Path(tempfile.mkdtemp())\n"
        "for name in ('drunet', 'in_place'):\n"
        "    export_onnx(capture(build(name)), folder / f'{name}.onnx')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_log_levels_are_restored():
    before = logging.getLogger("torch.onnx").level
    with contextlib.suppress(NmcompileError):
        capture(_Branch())
    assert logging.getLogger("torch.onnx").level == before
