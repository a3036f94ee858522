"""A plugin's library -> a plugin that is made and asked as TensorRT would, without TensorRT.

harness.cpp has TensorRT's side of the calls; here is its ONNX parser's: fields of a node.
"""

import ctypes
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.native.cuda.device import ROOT, compile_emulated, link

HERE = Path(__file__).parent
SOURCES = sorted((ROOT / "runtime" / "native" / "trt").glob("*.cpp"))
BUILD, RUNTIME = 0, 1  # TensorRTPhase
FLOAT, HALF, INT32, BF16 = 0, 1, 3, 7  # DataType
TYPES = range(12)
LINEAR, HWC8 = 0, 2  # TensorFormat
FORMATS = range(13)
FIELD_INT32, FIELD_CHAR, FIELD_FLOAT32 = 5, 6, 1  # PluginFieldType


def include_dirs() -> list[Path]:
    """Folders with TensorRT's headers, one a major version: the variable TENSORRT_INCLUDE_DIR."""
    return [Path(name) for name in os.environ.get("TENSORRT_INCLUDE_DIR", "").split(":") if name]


@dataclass(frozen=True)
class Libraries:
    """What is built for one version of TensorRT; `nvinfer` has its name and its registry alone."""

    plugin: Path
    registering: Path
    nvinfer: Path
    harness: Path


def build_harness(include: Path, folder: Path) -> Path:
    """TensorRT's side of the calls."""
    flags = ("-isystem", str(include))
    objects = compile_emulated([HERE / "harness.cpp"], folder, *flags)
    return link(folder / "libharness.so", objects, "-ldl")


def build_emulated_plugin(include: Path, kernels: Path, folder: Path) -> Libraries:
    """The plugin itself, with kernels that were compiled for the emulated GPU."""
    flags = ("-isystem", str(include), '-DNMK_VERSION="0.0.1"', "-Wno-deprecated-declarations")
    objects = compile_emulated([*SOURCES, HERE / "registry.cpp"], folder, *flags)
    made = {path.name.partition(".")[0]: path for path in objects}
    registry, register = made.pop("registry"), made.pop("register")
    plugin = link(folder / "libnmk_trt.so", [*sorted(kernels.glob("*.o")), *made.values()])
    name = f"libnvinfer.so.{major_of(plugin)}"
    return Libraries(
        plugin,
        link(folder / "libnmk_trt_static.so", [register, plugin], f"-Wl,-rpath,{folder}", "-ldl"),
        link(folder / name, [registry], f"-Wl,-soname,{name}"),
        build_harness(include, folder),
    )


def major_of(plugin: Path) -> int:
    """The major version of TensorRT that it was built for."""
    return int(ctypes.CDLL(str(plugin)).nmk_trt_tensorrt_major())


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("data", ctypes.c_char_p),
        ("type", ctypes.c_int32), ("length", ctypes.c_int32),
    )  # fmt: skip


class _RawField(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32), ("length", ctypes.c_int32),
    )  # fmt: skip


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32), ("format", ctypes.c_int32), ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * 8),
    )  # fmt: skip


@dataclass(frozen=True)
class Field:
    """nvinfer1::PluginField: `length` counts entries of the type."""

    name: str
    data: bytes
    type: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """nvinfer1::PluginTensorDesc; sizes that are open are -1."""

    type: int
    format: int
    sizes: tuple[int, ...]


def node(packed: bytes, **attributes: Any) -> onnx.NodeProto:
    """A node as the writer makes it, read back from its bytes; attributes of None are left out."""
    padded = np.frombuffer(packed + bytes(-len(packed) % 4), np.int32)
    values = {
        "weights": numpy_helper.from_array(padded), "bytes": len(packed), "format": "cuda",
        "residual": 0, "routed": 0, "layout": "NCHW", "name": "body.0", "pattern": "2:4",
        **attributes,
    }  # fmt: skip
    inputs = ["x"] + ["residual"] * bool(values["residual"]) + ["level"] * bool(values["routed"])
    made = helper.make_node("NMConv", inputs, ["y"], name="node_7", domain="nmcompile")
    made.attribute.extend(
        helper.make_attribute(key, value) for key, value in values.items() if value is not None
    )
    return onnx.NodeProto.FromString(made.SerializeToString())


def parsed(node: onnx.NodeProto, names: Sequence[str]) -> list[Field]:
    """Fields as TensorRT's parser makes them of a node: those of `names` alone, in their order.

    Whole numbers are narrowed to 32 bits, texts end with a zero that is counted, tensors are
    handed on as they are.
    """
    found = {attribute.name: attribute for attribute in node.attribute}
    kinds = onnx.AttributeProto
    fields = []
    for name in (name for name in names if name in found):
        attribute = found[name]
        if attribute.type == kinds.INT:
            data = np.int64(attribute.i).astype(np.int32).tobytes()
            fields.append(Field(name, data, FIELD_INT32, 1))
        elif attribute.type == kinds.FLOAT:
            fields.append(Field(name, np.float32(attribute.f).tobytes(), FIELD_FLOAT32, 1))
        elif attribute.type == kinds.STRING:
            fields.append(Field(name, attribute.s + b"\0", FIELD_CHAR, len(attribute.s) + 1))
        else:
            values = numpy_helper.to_array(attribute.t)
            assert values.dtype == np.int32
            fields.append(Field(name, values.tobytes(), FIELD_INT32, values.size))
    return fields


class Plugin:
    """One nvinfer1::IPluginV3, deleted with this object."""

    def __init__(self, calls: ctypes.CDLL, address: int) -> None:
        self._calls, self._address = calls, address
        weakref.finalize(self, calls.harness_free, address)

    def _made(self, address: int | None) -> "Plugin | None":
        return Plugin(self._calls, address) if address else None

    def clone(self) -> "Plugin | None":
        """IPluginV3::clone."""
        return self._made(self._calls.harness_clone(self._address))

    def attach(self) -> "Plugin | None":
        """IPluginV3OneRuntime::attachToContext."""
        return self._made(self._calls.harness_attach(self._address))

    def serialised(self) -> list[Field]:
        """What an engine would keep of it, copied."""
        sizes, fields, field = {FIELD_INT32: 4, FIELD_CHAR: 1}, [], _RawField()
        while self._calls.harness_serialised(self._address, len(fields), ctypes.byref(field)):
            data = ctypes.string_at(field.data, field.length * sizes[field.type])
            fields.append(Field(field.name.decode(), data, field.type, field.length))
        return fields

    def describe(self) -> tuple[str, str, str]:
        """Name, version and namespace; the timing cache's key; the inspector's text."""
        identity, timed, shown = (
            self._calls.harness_describe(self._address, what).decode() for what in range(3)
        )
        return identity, timed, shown

    def output_type(self, types: Sequence[int]) -> int | None:
        """The output's DataType; None if it refuses."""
        found = ctypes.c_int(-1)
        given = (ctypes.c_int * len(types))(*types)
        failed = self._calls.harness_output_type(
            self._address, given, len(types), ctypes.byref(found)
        )
        return None if failed else found.value

    def output_shape(
        self, tensors: Sequence[Tensor], sizes: Sequence[int]
    ) -> tuple[str, tuple[int, ...]] | None:
        """Its expressions as text, with a, b, ... for open sizes, and their values at `sizes`."""
        found = (ctypes.c_int64 * 8)()
        text = self._calls.harness_output_shape(
            self._address, _tensors(tensors), len(tensors), (ctypes.c_int64 * 8)(*sizes), found
        )
        return (text.decode(), tuple(found[: text.count(b",") + 1])) if text else None

    def supports(self, place: int, tensors: Sequence[Tensor]) -> bool:
        """supportsFormatCombination; the last tensor is the output."""
        given = _tensors(tensors)
        return bool(self._calls.harness_supports(self._address, place, given, len(tensors) - 1))

    def configure(self, tensors: Sequence[Tensor]) -> bool:
        """configurePlugin: whether it agreed."""
        given = _tensors(tensors)
        return self._calls.harness_configure(self._address, given, len(tensors) - 1) == 0

    def shape_change(self, tensors: Sequence[Tensor]) -> bool:
        """onShapeChange: whether it agreed."""
        given = _tensors(tensors)
        return self._calls.harness_shape_change(self._address, given, len(tensors) - 1) == 0

    def enqueue(self, tensors: Sequence[Tensor], addresses: Sequence[int]) -> bool:
        """Queues it on the default stream: whether it was."""
        given = (ctypes.c_void_p * len(addresses))(*addresses)
        inputs = len(tensors) - 1
        return (
            self._calls.harness_enqueue(self._address, _tensors(tensors), inputs, given, None) == 0
        )

    def extras(self) -> int:
        """Bytes of workspace, and tactics besides the default one."""
        return int(self._calls.harness_extras(self._address))


class Harness:
    """TensorRT, as far as a plugin sees it."""

    def __init__(self, harness: Path, plugin: Path) -> None:
        self._calls = calls = ctypes.CDLL(str(harness))
        for name in ("open", "log", "creator", "describe", "output_shape"):
            getattr(calls, f"harness_{name}").restype = ctypes.c_char_p
        for name in ("create", "clone", "attach"):
            getattr(calls, f"harness_{name}").restype = ctypes.c_void_p
        for name in ("serialised", "supports"):
            getattr(calls, f"harness_{name}").restype = ctypes.c_bool
        pointer, number = ctypes.c_void_p, ctypes.c_int
        for name in ("free", "clone", "attach", "extras"):
            getattr(calls, f"harness_{name}").argtypes = [pointer]
        for name in ("configure", "shape_change"):
            getattr(calls, f"harness_{name}").argtypes = [pointer, pointer, number]
        calls.harness_describe.argtypes = [pointer, number]
        calls.harness_serialised.argtypes = [pointer, number, pointer]
        calls.harness_output_type.argtypes = [pointer, pointer, number, pointer]
        calls.harness_output_shape.argtypes = [pointer, pointer, number, pointer, pointer]
        calls.harness_supports.argtypes = [pointer, number, pointer, number]
        calls.harness_enqueue.argtypes = [pointer, pointer, number, pointer, pointer]
        problem = calls.harness_open(str(plugin).encode()).decode()
        assert not problem, problem
        self.identity, self.fields = self._creator()

    def _creator(self) -> tuple[str, dict[str, int]]:
        words = self._calls.harness_creator().decode().split(" ")
        return " ".join(words[:3]), {
            name: int(kind) for name, kind in zip(words[3::2], words[4::2], strict=True)
        }

    def log(self) -> list[str]:
        """The lines since the last call; 1 before them is an error."""
        text: str = self._calls.harness_log().decode()
        return text.splitlines()

    def create(self, fields: Sequence[Field], phase: int = BUILD) -> Plugin | None:
        """IPluginCreatorV3One::createPlugin for a node called node_7."""
        given = (_Field * len(fields))(
            *(_Field(field.name.encode(), field.data, field.type, field.length) for field in fields)
        )
        address = self._calls.harness_create(b"node_7", given, len(fields), phase)
        return Plugin(self._calls, address) if address else None

    def plugin(self, node: onnx.NodeProto) -> Plugin:
        """What the parser makes of a node."""
        made = self.create(parsed(node, [*self.fields]))
        assert made is not None, self.log()
        return made


def _tensors(tensors: Sequence[Tensor]) -> Any:
    made = (_Tensor * len(tensors))()
    for place, tensor in zip(made, tensors, strict=True):
        place.type, place.format, place.rank = tensor.type, tensor.format, len(tensor.sizes)
        place.sizes[: len(tensor.sizes)] = tensor.sizes
    return made
