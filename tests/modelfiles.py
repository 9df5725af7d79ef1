"""Small model files of the tests' own, written without onnx, torch or tensorrt; the good ones load in the real things.

    onnx_model(inputs={"X": ("FP32", ["N", 4])}, outputs={"Y": ("FP32", ["N", 4])}, nodes=[node("Relu", ["X"], ["Y"])])
    torchscript_two_outputs(), state_dict(...), legacy_pickle(), aoti_package(), plan()

Datatypes go by Triton's names without `TYPE_`, and `COMPLEX64` and the like by ONNX's, for which Triton has none.
"""

from __future__ import annotations

import io
import json
import math
import random
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

ELEMENTS = {
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "STRING": 8,
    "BOOL": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
    "COMPLEX64": 14,
    "COMPLEX128": 15,
    "BF16": 16,
    "FLOAT8E4M3FN": 17,
    "UINT4": 21,
    "INT4": 22,
}
"""ONNX's number of each element type (onnx.proto, TensorProto.DataType)."""
_FORMATS = {
    "FP32": "f",
    "UINT8": "B",
    "INT8": "b",
    "UINT16": "H",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "BOOL": "?",
    "FP16": "e",
    "FP64": "d",
    "UINT32": "I",
    "UINT64": "Q",
}
Dims: TypeAlias = Sequence[int | str | None]
"""A number, a name (a symbolic dimension), or None for one of which nothing is known."""
Value: TypeAlias = tuple[str, Dims | None] | bytes
"""A tensor's element type and dims (None: no shape at all), or a type of another kind: `sequence_of` and the like."""


# The wire format of protocol buffers.


def varint(number: int) -> bytes:
    """A number of 64 bits; negative ones take ten bytes."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field: a varint, a float of 32 bits, or something with a length."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def _fields(number: int, values: Iterable[int | str | bytes]) -> bytes:
    return b"".join(field(number, value) for value in values)


# ONNX.


def onnx_model(
    *,
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    nodes: Sequence[bytes],
    initializers: Sequence[bytes] = (),
    opset: int | None = 13,
    opsets: Mapping[str, int] | None = None,
    ir_version: int | None = 8,
    producer: str = "tricompose-tests",
    graph_name: str = "g",
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A ModelProto. `opset` is that of the default domain, `opsets` of others; `before`, `after` are fields more."""
    imports = {**({} if opset is None else {"": opset}), **(opsets or {})}
    graph = b"".join(
        (
            _fields(1, nodes),
            field(2, graph_name),
            _fields(5, initializers),
            _fields(11, (_named(*item) for item in inputs.items())),
            _fields(12, (_named(*item) for item in outputs.items())),
        )
    )
    return b"".join(
        (
            b"" if ir_version is None else field(1, ir_version),
            field(2, producer),
            before,
            field(7, graph),
            _fields(8, (field(1, domain) + field(2, version) for domain, version in imports.items())),
            after,
        )
    )


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **attributes: Any) -> bytes:
    """A NodeProto. Attributes are ints, floats, texts, lists of those, a tensor (`tensor(...)`, bytes)."""
    return b"".join(
        (
            _fields(1, inputs),
            _fields(2, outputs),
            field(4, op),
            _fields(5, (_attribute(*item) for item in attributes.items())),
            field(7, domain) if domain else b"",
        )
    )


def subgraph(
    nodes: Sequence[bytes], outputs: Mapping[str, Value], initializers: Sequence[bytes] = ()
) -> dict[str, Any]:
    """A graph as the attribute of a node: `node("If", ["c"], ["Y"], then_branch=subgraph(...), ...)`."""
    ends = (_named(*item) for item in outputs.items())
    return {"graph": _fields(1, nodes) + field(2, "s") + _fields(5, initializers) + _fields(12, ends)}


def _attribute(name: str, value: Any) -> bytes:
    start = field(1, name)
    if isinstance(value, dict):
        return start + field(6, value["graph"]) + field(20, 5)
    if isinstance(value, bytes):
        return start + field(5, value) + field(20, 4)
    if isinstance(value, list | tuple):
        number, kind = {float: (7, 6), int: (8, 7), str: (9, 8)}[type(value[0])]
        return start + _fields(number, value) + field(20, kind)
    number, kind = {float: (2, 1), int: (3, 2), str: (4, 3)}[type(value)]
    return start + field(number, value) + field(20, kind)


def tensor(name: str, datatype: str, dims: Sequence[int], values: Iterable[Any] | bytes) -> bytes:
    """A TensorProto with its values in it: numbers, texts for STRING, or the raw bytes."""
    head = _fields(1, dims) + field(2, ELEMENTS[datatype]) + field(8, name)
    if isinstance(values, bytes):
        return head + field(9, values)
    if datatype == "STRING":
        return head + _fields(6, (str(value) for value in values))
    numbers = list(values)
    return head + field(9, struct.pack(f"<{len(numbers)}{_FORMATS[datatype]}", *numbers))


def external_tensor(
    name: str,
    datatype: str,
    dims: Sequence[int],
    location: str,
    *,
    offset: int | None = None,
    length: int | None = None,
) -> bytes:
    """A TensorProto of which the values lie in another file."""
    keys = {"location": location, "offset": offset, "length": length}
    entries = (field(1, key) + field(2, str(value)) for key, value in keys.items() if value is not None)
    return b"".join(
        (_fields(1, dims), field(2, ELEMENTS[datatype]), field(8, name), _fields(13, entries), field(14, 1))
    )


def sequence_of(value: Value) -> bytes:
    """The type of a sequence, as some models give out."""
    return field(4, field(1, _type(value)))


def map_of(key: str, value: Value) -> bytes:
    """The type of a map, such as the probabilities of scikit-learn's classifiers."""
    return field(5, field(1, ELEMENTS[key]) + field(2, _type(value)))


def optional_of(value: Value) -> bytes:
    """The type of a value that may be absent."""
    return field(9, field(1, _type(value)))


def sparse_tensor(datatype: str, dims: Dims) -> bytes:
    """The type of a sparse tensor."""
    return field(8, field(1, ELEMENTS[datatype]) + field(2, _shape(dims)))


def _named(name: str, value: Value) -> bytes:
    return field(1, name) + field(2, _type(value))


def _type(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    datatype, dims = value
    return field(1, field(1, ELEMENTS[datatype]) + (b"" if dims is None else field(2, _shape(dims))))


def _shape(dims: Dims) -> bytes:
    return _fields(1, (b"" if dim is None else field(2 if isinstance(dim, str) else 1, dim) for dim in dims))


def onnx_identity(
    names: Sequence[tuple[str, str]] = (("X", "Y"),), datatype: str = "FP32", dims: Dims | None = ("N", 4), **how: Any
) -> bytes:
    """Each output is its input. `how` goes to `onnx_model`."""
    return onnx_model(
        inputs={start: (datatype, dims) for start, _ in names},
        outputs={end: (datatype, dims) for _, end in names},
        nodes=[node("Identity", [start], [end]) for start, end in names],
        **how,
    )


def onnx_add_sub(datatype: str = "FP32", dims: Dims | None = ("N", 16), **how: Any) -> bytes:
    """Triton's own `simple` model: OUTPUT0 is the sum of INPUT0 and INPUT1, OUTPUT1 the difference."""
    return onnx_model(
        inputs=dict.fromkeys(("INPUT0", "INPUT1"), (datatype, dims)),
        outputs=dict.fromkeys(("OUTPUT0", "OUTPUT1"), (datatype, dims)),
        nodes=[node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])],
        **how,
    )


def onnx_linear(width: int = 4, classes: int = 3, *, batch: int | str | None = "N", overridable: bool = False) -> bytes:
    """Y = X W + B, of weights 1, 2, 3 ...; `overridable`: W and B stand among the inputs too, as before IR 4."""
    shapes = {"W": (width, classes), "B": (classes,)}
    extra: dict[str, Value] = {name: ("FP32", dims) for name, dims in shapes.items()} if overridable else {}
    return onnx_model(
        inputs={"X": ("FP32", [batch, width]), **extra},
        outputs={"Y": ("FP32", [batch, classes])},
        nodes=[node("Gemm", ["X", "W", "B"], ["Y"])],
        initializers=[
            tensor(name, "FP32", dims, [float(1 + at) for at in range(math.prod(dims))])
            for name, dims in shapes.items()
        ],
    )


def onnx_cnn(
    *,
    channels: int = 3,
    size: int = 8,
    classes: int = 10,
    batch: int | str = "N",
    names: tuple[str, str] = ("data", "prob"),
) -> bytes:
    """A little classifier of pictures, of drawn weights: convolution, pooling, softmax. FP32 [batch, C, H, W] in."""
    draw = random.Random(7)
    kernel, dense = (4, channels, 3, 3), (4, classes)
    weights = {
        name: tensor(name, "FP32", dims, [draw.uniform(-1, 1) for _ in range(math.prod(dims))])
        for name, dims in (("K", kernel), ("D", dense))
    }
    return onnx_model(
        inputs={names[0]: ("FP32", [batch, channels, size, size])},
        outputs={names[1]: ("FP32", [batch, classes])},
        nodes=[
            node("Conv", [names[0], "K"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", ["conv"], ["relu"]),
            node("GlobalAveragePool", ["relu"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"], axis=1),
            node("MatMul", ["flat", "D"], ["scores"]),
            node("Softmax", ["scores"], [names[1]], axis=1),
        ],
        initializers=list(weights.values()),
    )


# PyTorch.

_STORED = (1980, 1, 1, 0, 0, 0)
Weights: TypeAlias = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Tensors of 32-bit floats: their dims, and their values in order."""

_SIMPLE = """class SimpleModel(Module):
  __parameters__ = [{names}]
  __buffers__ = []
{fields}
  training : bool
  def forward(self: __torch__.SimpleModel,
    input_ids: Tensor) -> Tuple[Tensor, Tensor]:
    word = torch.embedding(self.embedding_weight, input_ids)
    output1 = torch.linear(word, self.fc_weight, self.fc_bias)
    hidden = torch.linear(word, self.hidden_weight, self.hidden_bias)
    output2 = torch.linear(hidden, self.last_weight, self.last_bias)
    return (output1, output2)
"""


def torchscript_two_outputs(*, words: int = 100, width: int = 8, out: int = 4, seed: int = 7) -> bytes:
    """A true TorchScript archive: INT64 `input_ids` of any shape in, FP32 `[..., out]` and `[..., width]` out.

    An embedding of `words` rows, one linear layer for the first output, two for the second.
    """
    draw = random.Random(seed)
    dims = {
        "embedding_weight": (words, width),
        "fc_weight": (out, width),
        "fc_bias": (out,),
        "hidden_weight": (width, width),
        "hidden_bias": (width,),
        "last_weight": (width, width),
        "last_bias": (width,),
    }
    weights = {name: (shape, [draw.uniform(-1, 1) for _ in range(math.prod(shape))]) for name, shape in dims.items()}
    code = _SIMPLE.format(
        names="".join(f'"{name}", ' for name in dims), fields="\n".join(f"  {name} : Tensor" for name in dims)
    )
    return torchscript(code, weights, class_name="SimpleModel")


def torchscript(
    code: str,
    weights: Weights | None = None,
    *,
    class_name: str = "Model",
    module: str = "__torch__",
    archive: str = "model",
    version: str = "3\n",
    files: Mapping[str, bytes] | None = None,
    without: Sequence[str] = (),
) -> bytes:
    """What `torch.jit.save` writes for one module: its code, its weights as attributes, and `training`.

    `code` declares the class, with its fields, as TorchScript prints it. `files` stand in the archive too, `without`
    keeps some out of it.
    """
    weights = weights or {}
    entries = {
        "data.pkl": _module_pickle(module, class_name, weights),
        **{f"data/{at}": _floats(values) for at, (_, values) in enumerate(weights.values())},
        f"code/{module.replace('.', '/')}.py": code.encode(),
        "constants.pkl": b"\x80\x02).",
        "version": version.encode(),
        **(files or {}),
    }
    return _archive({name: data for name, data in entries.items() if name not in without}, archive)


def state_dict(weights: Weights | None = None, *, archive: str = "archive") -> bytes:
    """What `torch.save(model.state_dict(), path)` writes: weights alone, nothing that could be run."""
    weights = {"fc.weight": ((1, 2), (1.0, 2.0))} if weights is None else weights
    rows = b"".join(_text(name) + _tensor_pickle(str(at), dims) for at, (name, (dims, _)) in enumerate(weights.items()))
    entries = {
        "data.pkl": b"\x80\x02ccollections\nOrderedDict\n)R(" + rows + b"u.",
        "byteorder": b"little",
        **{f"data/{at}": _floats(values) for at, (_, values) in enumerate(weights.values())},
        "version": b"3\n",
    }
    return _archive(entries, archive)


def legacy_pickle() -> bytes:
    """What torch.save wrote before 1.6, here of an empty state dict: pickles one after the other, no zip."""
    magic = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
    system = b"\x80\x02}(" + _text("little_endian") + b"\x88u."
    return magic + b"\x80\x02M\xe9\x03." + system + b"\x80\x02ccollections\nOrderedDict\n)R." + b"\x80\x02]."


def aoti_package(*, archive: str = "model", model: str = "model") -> bytes:
    """The layout of a `.pt2` that AOTInductor made: a shared object and its data, here without anything in them."""
    entries = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        f"data/aotinductor/{model}/c0ffee.wrapper.so": b"\x7fELF\x02\x01\x01",
        f"data/aotinductor/{model}/c0ffee.wrapper_metadata.json": b'{"AOTI_DEVICE_KEY": "cpu"}',
        "byteorder": b"little",
        "version": b"3\n",
    }
    return _archive(entries, archive)


def exported_program(*, archive: str = "model") -> bytes:
    """The layout of a `.pt2` of `torch.export.save`: a program that is not compiled."""
    entries = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "models/model.json": b"{}",
        "data/weights/model.pt": b"",
        "byteorder": b"little",
        "version": b"3\n",
    }
    return _archive(entries, archive)


def _module_pickle(module: str, class_name: str, weights: Weights) -> bytes:
    attributes = b"".join(
        _text(name) + _tensor_pickle(str(at), dims) for at, (name, (dims, _)) in enumerate(weights.items())
    )
    start = f"c{module}\n{class_name}\n".encode()
    return b"\x80\x02" + start + b")\x81}(" + attributes + _text("training") + b"\x89ub."


def _tensor_pickle(key: str, dims: Sequence[int]) -> bytes:
    """A call of torch's own function that makes a tensor of a storage, which stands in `data/KEY`."""
    strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
    storage = _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + _int(math.prod(dims))
    sizes = b"(" + b"".join(map(_int, dims)) + b"t(" + b"".join(map(_int, strides)) + b"t"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + _int(0) + sizes + hooks + b"tR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _floats(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _archive(entries: Mapping[str, bytes], name: str) -> bytes:
    """A zip as torch writes it: nothing compressed, the bytes of each entry at a multiple of 64, one folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            info = zipfile.ZipInfo(f"{name}/{entry}", _STORED)
            start = buffer.tell() + 30 + len(info.filename.encode())
            padding = -(start + 4) % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(info, data)
    return buffer.getvalue()


# TensorRT.


def plan(
    version: tuple[int, int, int, int] = (10, 4, 0, 26), *, magic: bytes = b"ftrt", second: int = 0, size: int = 256
) -> bytes:
    """The first bytes of an engine as TensorRT 8.6 and newer write them, then nothing of an engine.

    `second` is the word after the magic: the layout with the version in bytes 24 to 27 goes with 0.
    """
    head = magic + struct.pack("<I", second)
    return (head.ljust(24, b"\0") + bytes(version)).ljust(size, b"\0")


def ultralytics_plan(plan_bytes: bytes | None = None, **metadata: Any) -> bytes:
    """An engine as Ultralytics exports it: the length of a JSON text, the text, and only then the plan."""
    text = json.dumps(metadata or {"description": "Ultralytics YOLO11n model", "task": "detect", "batch": 1}).encode()
    return struct.pack("<I", len(text)) + text + (plan() if plan_bytes is None else plan_bytes)
