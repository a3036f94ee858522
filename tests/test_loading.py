"""Model files, sound and damaged, honest and hostile -> a network or one helpful line."""

import contextlib
import io
import json
import os
import pickle
import sys
import types
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from nmcompile.errors import NmcompileError
from nmcompile.loading import load_model, make_architecture

ARCH = "small_archs:network"
SOURCE = """
import torch
from torch import nn
NAME = "no function"
class Pickled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
    def forward(self, x):
        return self.conv(x)
def network(width=4, norm=False, name="a", scale=1.0):
    middle = [nn.BatchNorm2d(width)] if norm else []
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *middle, nn.Conv2d(width, 3, 1))
def weights():
    return {"a": torch.zeros(1)}
def broken():
    raise ValueError("no such width")
"""


@pytest.fixture(autouse=True)
def archs(tmp_path, monkeypatch):
    """A module of architectures in the current folder, which is where a user has them."""
    (tmp_path / "small_archs.py").write_text(SOURCE)
    (tmp_path / "bad_archs.py").write_text("import no_such_library_at_all\n")
    (tmp_path / "typo_archs.py").write_text("def network(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("small_archs", "bad_archs", "typo_archs"):
        sys.modules.pop(name, None)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return make_architecture(ARCH)


def saved(tmp_path, content, name="model.pt", **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def refused(path, arch=ARCH, trust=False):
    with pytest.raises(NmcompileError) as caught:
        load_model(path, arch, trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(found, expected):
    x = torch.rand(1, 3, 8, 8)
    assert isinstance(found, nn.Module)
    assert not found.training
    assert torch.equal(found(x), expected.eval()(x))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["model.pt", "model.pth", "weights"])
def test_a_state_dict_needs_its_architecture(tmp_path, network, name, legacy):
    options = {"_use_new_zipfile_serialization": not legacy}
    path = saved(tmp_path, network.state_dict(), name, **options)
    assert_same(load_model(path, ARCH), network)
    said = refused(path, None)
    assert "holds 4 weight tensors but not the network itself" in said
    assert "--arch package.module:factory" in said
    assert "torch.export.save" in said


def test_safetensors(tmp_path, network):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    assert_same(load_model(path, ARCH), network)
    assert "not the network itself" in refused(path, None)
    path.write_bytes(path.read_bytes()[:-9])
    assert "not a safetensors file" in refused(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params_ema": state, "params": {}},
        lambda state: {"params": state},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"net": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["params_ema", "params", "checkpoint", "nested", "data parallel", "both"],
)
def test_usual_wrappers_are_taken_off(tmp_path, network, wrap):
    assert_same(load_model(saved(tmp_path, wrap(network.state_dict())), ARCH), network)


def test_half_precision_becomes_single(tmp_path, network):
    half = {name: value.half() for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.float() for name, value in half.items()})
    assert_same(load_model(saved(tmp_path, half), ARCH), network)


def test_batch_norms_of_old_files_lack_a_counter_that_is_not_needed(tmp_path):
    arch = f"{ARCH}?norm=true"
    network = make_architecture(arch)
    state = network.state_dict()
    del state["1.num_batches_tracked"]
    assert_same(load_model(saved(tmp_path, state), arch), network)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("1.bias"), "weight 1.bias is missing in the file"),
        (lambda s: s.update({"2.bias": torch.ones(1)}), "weight 2.bias is not in the architecture"),
        (
            lambda s: s.update({"1.weight": torch.ones(3, 5, 1, 1)}),
            "weight 1.weight is (3, 5, 1, 1), the architecture has (3, 4, 1, 1)",
        ),
    ],
    ids=["missing", "extra", "shape"],
)
def test_a_state_dict_that_does_not_fit_names_the_weight(tmp_path, network, change, said):
    state = dict(network.state_dict())
    change(state)
    path = saved(tmp_path, state)
    assert refused(path) == f"{path} does not fit --arch {ARCH}: {said}"


def test_of_many_faults_the_first_is_named_and_the_rest_counted(tmp_path, network):
    path = saved(tmp_path, network.state_dict())
    assert "the architecture has (5, 3, 3, 3) (and 2 more such faults)" in refused(
        path, f"{ARCH}?width=5"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_counted(tmp_path, network, value):
    network[1].weight.data[0, :2] = value
    path = saved(tmp_path, network.state_dict())
    assert "weight 1.weight has 2 values that are NaN or infinite" in refused(path)
    archive = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 8, 8),)), archive)
    assert "weight 1.weight has 2 values" in refused(archive, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(1)], "holds list; expected a state dict"),
        ({}, "holds dict; expected a state dict"),
        ({"a": torch.ones(1), "note": "hello"}, "entry 'note' is no tensor"),
        (torch.ones(3), "holds Tensor"),
    ],
)
def test_what_is_no_state_dict_is_said(tmp_path, content, said):
    assert said in refused(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.pt", b"", "the file is empty"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "is an ONNX file; expected .pt2"),
        ("model.pt", b"\x89PNG\r\n\x1a\n", "is not a file that PyTorch wrote"),
        ("model.pt", b"hello", "is not a file that PyTorch wrote"),
        ("model.pt", b"\x80\x02garbage here", "is damaged, or no file that torch.save wrote"),
        ("model.pt", pickle.dumps({"a": 1}), "is damaged, or no file that torch.save wrote"),
        ("model.safetensors", b"garbage", "not a safetensors file"),
    ],
)
def test_a_foreign_file_is_said(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name)


def test_a_missing_file_is_said(tmp_path):
    assert "no such file" in refused(tmp_path / "model.pt")


def test_a_foreign_archive_is_said(tmp_path):
    script = ["data.pkl", "constants.pkl", "code/__torch__.py", "version"]
    for names, said in (["readme.txt"], "not one that PyTorch wrote"), (script, "is TorchScript"):
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
            for name in names:
                archive.writestr(f"model/{name}", "")
        assert said in refused(tmp_path / "model.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_said(tmp_path, network, legacy):
    options = {"_use_new_zipfile_serialization": not legacy}
    path = saved(tmp_path, network.state_dict(), **options)
    whole = path.read_bytes()
    for kept in (20, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:kept])
        assert str(path) in refused(path)


def test_a_flipped_bit_of_a_weight_is_found(tmp_path, network):
    raw = network[0].weight.detach().numpy().tobytes()
    archive = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(network, (torch.rand(1, 3, 8, 8),)), archive)
    for path in (saved(tmp_path, network.state_dict()), archive):
        content = bytearray(path.read_bytes())
        content[content.find(raw) + 5] ^= 8
        path.write_bytes(content)
        assert "is damaged (Bad CRC-32" in refused(path)


def test_a_file_written_without_checksums_is_read(tmp_path, network):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, network.state_dict())
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(load_model(path, ARCH), network)


class Hostile:  # unpickling it makes a folder
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_object_is_refused_and_runs_nothing(tmp_path, legacy):
    options = {"_use_new_zipfile_serialization": not legacy}
    path = saved(tmp_path, {"a": torch.ones(1), "b": Hostile(tmp_path / "ran")}, **options)
    said = refused(path)
    assert "opening it runs code from the file" in said
    assert "--trust-pickle" in said
    assert not (tmp_path / "ran").exists()
    refused(path, trust=True)  # it holds no network either
    assert (tmp_path / "ran").exists()


def test_a_pickled_module_is_opened_when_it_is_trusted(tmp_path):
    module = make_architecture("small_archs:Pickled").train()
    path = saved(tmp_path, module)
    assert "--trust-pickle" in refused(path, None)
    del sys.modules["small_archs"]
    assert_same(load_model(path, trust_pickle=True), module)


class Adding(nn.Module):  # has a constant of its own, and sizes that are products
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("level", torch.ones(3), persistent=False)

    def forward(self, x):
        flat = (self.conv(x) + self.level[:, None, None]).flatten(2)
        return flat.reshape(x.shape)


@pytest.fixture
def archive(tmp_path):
    shapes = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    program = torch.export.export(Adding(), (torch.rand(2, 3, 8, 10),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def test_an_archive_is_opened(archive):
    assert isinstance(load_model(archive), ExportedProgram)


def tampered(path, edit, **more):
    """The archive with its members changed by edit(name, content), and further ones."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(members)).split("/")[0]
    members = {name: edit(name, content) for name, content in members.items()}
    members |= {f"{top}/{name}": content for name, content in more.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def stored(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def hostile_inputs(name, content, mark):
    return stored(((Hostile(mark),), {})) if "sample_inputs" in name else content


def hostile_weight(name, content, mark):
    if name.endswith("weights_config.json"):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')
    return stored(Hostile(mark)) if name.endswith("weight_0") else content


def hostile_constant(name, content, mark):
    if not name.endswith("constants_config.json"):
        return content
    config = json.loads(content)
    entry = next(iter(config["config"].values()))
    evil = {**entry, "path_name": "opaque_obj_0", "use_pickle": True}
    return json.dumps({"config": {**config["config"], "evil": evil}})


def hostile_size(name, content, mark):
    code = f"__import__('os').mkdir('{mark}') or Symbol".encode()
    return content.replace(b'"expr_str": "Symbol', b'"expr_str": "' + code)


@pytest.mark.parametrize("edit", [hostile_inputs, hostile_weight, hostile_constant, hostile_size])
def test_an_archive_that_would_run_code_is_refused_and_runs_nothing(tmp_path, archive, edit):
    mark = tmp_path / "ran"
    more = {"data/constants/opaque_obj_0": pickle.dumps(Hostile(mark))}
    members = more if edit is hostile_constant else {}
    tampered(archive, lambda name, content: edit(name, content, mark), **members)
    assert "opening it runs code from the file" in refused(archive)
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with contextlib.suppress(NmcompileError):
        load_model(archive, trust_pickle=True)
    assert mark.exists()


def test_guards_of_an_archive_are_code_that_is_not_run(tmp_path, archive):
    def edit(name, content):
        if not name.endswith("model.json"):
            return content
        guards = [f"__import__('os').mkdir('{tmp_path / 'ran'}') or True"]
        return json.dumps({**json.loads(content), "guards_code": guards})

    tampered(archive, edit)
    found = load_model(archive)
    assert found.module()(torch.rand(1, 3, 12, 14)).shape == (1, 3, 12, 14)
    assert not (tmp_path / "ran").exists()
    torch.export.load(archive).module()(torch.rand(1, 3, 12, 14))
    assert (tmp_path / "ran").exists()


def test_a_damaged_archive_is_said(archive):
    tampered(archive, lambda name, content: b"{" if name.endswith("model.json") else content)
    assert "is damaged" in refused(archive)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("small_archs", "expected package.module:factory"),
        (":network", "expected package.module:factory"),
        ("no_such_module:network", "cannot import it (ModuleNotFoundError: No module named 'no_s"),
        ("bad_archs:network", "No module named 'no_such_library_at_all'"),
        ("typo_archs:network", "cannot import it (SyntaxError"),
        (".relative:network", "cannot import it (TypeError"),
        ("small_archs:nothing", "has no attribute 'nothing'"),
        ("small_archs:NAME", "is a str; expected a function"),
        ("small_archs:network?depth=3", "it takes width, norm, name, scale"),
        ("small_archs:network?width", "'width' is not key=value"),
        ("small_archs:weights", "returned dict; expected a torch.nn.Module"),
        ("small_archs:broken", "it fails (ValueError: no such width); it takes no arguments"),
        ("builtins:dict?a=1", "returned dict"),
    ],
)
def test_a_wrong_architecture_is_said(arch, said):
    with pytest.raises(NmcompileError) as caught:
        make_architecture(arch)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--arch ")
    assert "\n" not in str(caught.value)


def test_an_architecture_gets_its_options_as_what_they_look_like(monkeypatch):
    seen = {}
    module = types.SimpleNamespace(told=lambda **k: seen.update(k) or nn.Identity())
    monkeypatch.setitem(sys.modules, "small_archs", module)
    network = make_architecture("small_archs:told?a=6,b=0.5,c=relu, d = true,e=False,f=none,g=-3")
    assert seen == {"a": 6, "b": 0.5, "c": "relu", "d": True, "e": False, "f": None, "g": -3}
    assert type(seen["d"]) is bool
    assert not network.training
