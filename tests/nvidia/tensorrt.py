"""A module `tensorrt` that runs networks in ONNX Runtime, and checks how it is called.

It has the names of TensorRT's Python API that nmcompile uses and no others. An engine is the ONNX
model it was built from; "device" addresses are this process's own (driver.c).
"""

import ctypes
import enum
import json
import math
import struct
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.test_pack import unpacked

MAGIC = b"fake engine "
CACHE = b"fake timings "


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class IProfiler:
    pass


Flags = enum.IntEnum("Flags", {"STRONGLY_TYPED": 1})
BuilderFlag = enum.Enum("BuilderFlag", "SPARSE_WEIGHTS TF32")
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "DETAILED LAYER_NAMES_ONLY")
LayerInformationFormat = enum.Enum("LayerInformationFormat", "JSON ONELINE")
TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")


class Fake:
    """The module and what a test may ask of it.

    Attributes:
        module: goes to sys.modules.
        slow: names of layers for which the dense tactic is the faster one.
        plugin: whether NMConv is registered.
        caches: the timing caches that builds began with.
    """

    def __init__(self, version: str) -> None:
        self.module = ModuleType("tensorrt")
        self.module.__spec__ = ModuleSpec("tensorrt", None)  # torch looks for it
        self.version = version
        self.slow: set[str] = set()
        self.major = int(version.partition(".")[0])
        self.plugin = False
        self.caches: list[bytes] = []
        self.loaded: list[str] = []
        fake = self
        names: dict[str, Any] = {
            "__version__": version,
            "ILogger": ILogger,
            "IProfiler": IProfiler,
            "BuilderFlag": BuilderFlag,
            "NetworkDefinitionCreationFlag": Flags,
            "ProfilingVerbosity": ProfilingVerbosity,
            "LayerInformationFormat": LayerInformationFormat,
            "TensorIOMode": TensorIOMode,
            "Builder": lambda logger: Builder(fake, logger),
            "OnnxParser": lambda network, logger: OnnxParser(fake, network, logger),
            "Runtime": lambda logger: Runtime(fake, logger),
            "get_plugin_registry": lambda: Registry(fake),
        }
        vars(self.module).update(names)


class Registry:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake

    def get_creator(self, kind: str, version: str, plugin_namespace: str = "") -> object | None:
        known = (kind, version, plugin_namespace) == ("NMConv", "1", "nmcompile")
        return object() if known and self._fake.plugin else None

    def load_library(self, path: str) -> object:
        self._fake.loaded.append(path)
        self._fake.plugin = True
        return object()


class Builder:
    def __init__(self, fake: Fake, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._fake, self._logger = fake, logger

    def create_network(self, flags: int = 0) -> dict[str, Any]:
        assert flags == (1 << Flags.STRONGLY_TYPED if self._fake.major == 10 else 0)
        return {}

    def create_builder_config(self) -> "Config":
        return Config(self._fake)

    def create_optimization_profile(self) -> "Profile":
        return Profile()

    def build_serialized_network(self, network: dict[str, Any], config: "Config") -> bytes | None:
        assert config.flags == {BuilderFlag.SPARSE_WEIGHTS}
        assert config.profiling_verbosity == ProfilingVerbosity.DETAILED
        (profile,) = config.profiles
        model = network["model"]
        assert set(profile.shapes) == {value.name for value in model.graph.input}
        layers = [_described(node, model, self._fake) for node in model.graph.node]
        log = [
            ("(Sparsity) Layers eligible for sparse math: ", "eligible"),
            ("(Sparsity) TRT inference plan picked sparse implementation for layers: ", "picked"),
        ]
        for text, key in log:
            said = text + ", ".join(layer["Name"] for layer in layers if layer[key])
            self._logger.log(Severity.INFO, said)
        config.cache.timed += 1
        head = {"version": self._fake.version, "shapes": profile.shapes, "layers": layers}
        return MAGIC + json.dumps(head).encode() + b"\n" + model.SerializeToString()


class OnnxParser:
    def __init__(self, fake: Fake, network: dict[str, Any], logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._fake, self._network, self._errors = fake, network, []

    def parse(self, data: bytes) -> bool:
        model = self._network["model"] = onnx.load_model_from_string(data)
        known = {b"nmcompile"} if self._fake.plugin else set()
        lost = [node for node in model.graph.node if node.domain and _namespace(node) not in known]
        self._errors = [f"In node 0 with name: {x.name}: Plugin not found" for x in lost]
        return not lost

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))
        self.shapes[name] = [list(least), list(usual), list(most)]


class TimingCache:
    def __init__(self, timed: int) -> None:
        self.timed = timed

    def serialize(self) -> bytes:
        return CACHE + str(self.timed).encode()


class Config:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.flags: set[BuilderFlag] = set()
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.profiles: list[Profile] = []

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> TimingCache | None:
        self._fake.caches.append(data)
        if data and not data.startswith(CACHE):
            return None
        return TimingCache(int(data.removeprefix(CACHE) or 0))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self.cache


class Runtime:
    def __init__(self, fake: Fake, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._fake, self._logger = fake, logger

    def deserialize_cuda_engine(self, data: bytes) -> "Engine | None":
        if not data.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "Serialization\nmagic tag does not match")
            return None
        head, _, model = data.removeprefix(MAGIC).partition(b"\n")
        return Engine(self._fake, json.loads(head), onnx.load_model_from_string(model))


class Engine:
    def __init__(self, fake: Fake, head: dict[str, Any], model: onnx.ModelProto) -> None:
        self.fake, self.head, self.model = fake, head, model
        self._inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def create_execution_context(self) -> "Context":
        return Context(self)

    def create_engine_inspector(self) -> "Inspector":
        return Inspector(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.profiler: Any = None
        self._engine = engine
        data = _runnable(engine.model).SerializeToString()
        self._session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._outputs: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.head["shapes"][name]
        self.shapes[name] = tuple(shape)
        return all(a <= x <= b for a, x, b in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._engine.get_tensor_mode(name) == TensorIOMode.OUTPUT
        if str(self.shapes) not in self._outputs:
            zeros = {key: np.zeros(shape, np.float32) for key, shape in self.shapes.items()}
            self._outputs[str(self.shapes)] = self._session.run([name], zeros)[0].shape
        return self._outputs[str(self.shapes)]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 0x52
        inputs = {name: self._view(name, shape).copy() for name, shape in self.shapes.items()}
        names = [value.name for value in self._engine.model.graph.output]
        (output,) = self._session.run(names, inputs)
        assert output.dtype == np.float32
        self._view(names[0], output.shape)[...] = output
        if self.profiler is not None:
            assert isinstance(self.profiler, IProfiler)
            for layer in self._engine.head["layers"]:
                self.profiler.report_layer_time(layer["Name"], layer["ms"])
        return True

    def _view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        buffer = (ctypes.c_float * math.prod(shape)).from_address(self._addresses[name])
        return np.frombuffer(buffer, np.float32).reshape(shape)


class Inspector:
    execution_context: Context | None = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format == LayerInformationFormat.JSON
        assert self.execution_context is not None
        assert self.execution_context.shapes
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        layers = [
            {key: layer[key] for key in ("Name", "LayerType", "TacticName")}
            for layer in self._engine.head["layers"]
        ]
        if self._engine.fake.major == 10:
            return json.dumps({"Layers": layers, "Bindings": names})
        return json.dumps({"Layers": layers, "I/O Tensors": [{"Name": name} for name in names]})


def _runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in ONNX's own operators: NMConv's bytes are read as test_pack reads them."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:]
    for node in model.graph.node:
        found.graph.node.extend([node] if node.domain != "nmcompile" else _plain(node, found))
    return found


def _namespace(node: onnx.NodeProto) -> bytes:
    """Where parsers before 10.10 look for a plugin."""
    return next((x.s for x in node.attribute if x.name == "plugin_namespace"), b"")


def _plain(node: onnx.NodeProto, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    values = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
    # What is not a field of the plugin's is not given to it: `sizes` is for ONNX Runtime.
    assert set(values) - {"sizes"} == {
        "weights", "bytes", "format", "residual", "routed", "layout", "name", "pattern",
        "plugin_namespace",
    }  # fmt: skip
    assert (values["format"], values["layout"], values["routed"]) == (b"cuda", b"NCHW", 0)
    packed = numpy_helper.to_array(values["weights"]).tobytes()[: values["bytes"]]
    header = struct.unpack_from("<18IfI", packed)
    inputs, outputs, kernel, _, stride, top, left, bottom, right, activation = header[4:14]
    assert header[14:16] == (0, 1), "residuals and pixel shuffles are not played"
    weight = unpacked(packed, Half.FP16)[:outputs, :inputs].reshape(outputs, inputs, kernel, kernel)
    bias = np.frombuffer(packed, np.float32, outputs, header[19])
    names = [f"{node.name}.{what}" for what in ("w", "b", "y")]
    for name, value in zip(names, (weight, bias), strict=False):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), name))
    target = names[2] if activation else node.output[0]
    conv = onnx.helper.make_node(
        "Conv", [node.input[0], *names[:2]], [target], strides=[stride] * 2,
        pads=[top, left, bottom, right],
    )  # fmt: skip
    assert activation in (0, 1)
    relu = [onnx.helper.make_node("Relu", [target], [node.output[0]])] if activation else []
    return [conv, *relu]


def _described(node: onnx.NodeProto, model: onnx.ModelProto, fake: Fake) -> dict[str, Any]:
    """A layer of one node, which takes as long as it has weights; half as long if sparse."""
    weights = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    weight = weights.get(node.input[1]) if len(node.input) > 1 else None
    eligible = picked = False
    if node.op_type == "Conv" and weight is not None and weight.shape[1] % 4 == 0:
        fours = np.count_nonzero(weight.reshape(len(weight), -1, 4, *weight.shape[2:]), axis=2)
        eligible = bool(fours.max() <= 2)
        picked = eligible and node.name not in fake.slow
    plugin = node.domain == "nmcompile"
    ms = (1.0 if weight is None else weight.size) * (0.5 if picked or plugin else 1.0)
    kind = "PluginV3" if plugin else "CaskConvolution" if weight is not None else "NoOp"
    tactic = f"sm90_xmma_fprop_{'sparse_conv' if picked else 'implicit_gemm'}_f16"
    return {
        "Name": node.name, "LayerType": kind, "TacticName": "" if weight is None else tactic,
        "eligible": eligible, "picked": picked, "ms": ms,
    }  # fmt: skip
