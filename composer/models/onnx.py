"""What an ONNX file says of itself, without onnx: its versions, its inputs and outputs, what else it needs.

The format is a protobuf message (onnx.proto, ModelProto). It is walked over field by field, and weights are passed by
unread, so that a file of 10 GB takes no longer than its graph does.

What the server takes for inputs are those of the graph that have no initializer: ONNX Runtime calls the others
overridable. Source: onnxruntime_backend, onnxruntime_utils.cc.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from composer.models.onnx_shapes import INTEGERS, Attribute, Node, Shape, Tensor, follow, merged
from composer.models.opening import Broken, Unreadable, look_into

FILE: Final = "model.onnx"

DATATYPES: Final = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
    16: "TYPE_BF16",
}
"""Triton's datatype for each of ONNX's element types; the others (complex, float8, int4 ...) have none."""

Dim = int | str | None
"""A size; the name of one that is only known when it runs; None where nothing is said."""

Span = tuple[int, int]
"""Where the bytes of a field begin and end in the file."""

_FEW: Final = 64
"""Constants of no more numbers are read: with them operators tell shapes."""
_KINDS: Final = {1: "tensor", 4: "sequence", 5: "map", 7: "opaque", 8: "sparse_tensor", 9: "optional"}
_WINDOW: Final = 16 << 10
_LONGEST_TEXT: Final = 64 << 10
_MOST_FIELDS: Final = 5_000_000
"""No real graph has more parts beside its weights; a file that says so would be read for minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An input, output or initializer. `kind` is `tensor`, or another type of ONNX's: `sequence`, `map`, `optional` ...

    `element` is ONNX's number of the element type, 0 where it says none. `dims` is None where there is no shape at all.
    `sure` is False for an output of which ONNX Runtime may find out more dims than these.
    """

    name: str
    kind: str = "tensor"
    element: int = 0
    dims: tuple[Dim, ...] | None = None
    sure: bool = True

    @property
    def datatype(self) -> str | None:
        """Triton's datatype, `TYPE_FP32`; None where Triton has none for it."""
        return DATATYPES.get(self.element) if self.kind == "tensor" else None

    @property
    def shape(self) -> tuple[int, ...]:
        """The dims as ONNX Runtime gives them out: -1 for what is not known, and none at all without a shape."""
        return tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in self.dims or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """What a model.onnx says. `opsets` are versions by domain, `""` being ONNX's own; None and empty: it says nothing.

    `inputs` are those that a request must give, `overridable` those that have a value of their own. `operators` are
    (domain, name) of all nodes, those in branches and loops too; `functions` those that the file itself defines.
    `external` are the files that hold weights, as they stand there, with the bytes that each must at least have.
    """

    ir_version: int | None
    opsets: Mapping[str, int]
    producer: str
    producer_version: str
    inputs: tuple[Value, ...]
    overridable: tuple[Value, ...]
    outputs: tuple[Value, ...]
    initializers: Mapping[str, Value]
    operators: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]
    external: Mapping[str, int]


def read_onnx(path: Path) -> OnnxModel | Unreadable:
    """What the file says, or why it cannot be told. In a folder it is the `model.onnx`, as the server has it.

    Never raises. What is wrong inside of what is not looked at (weights, texts) goes unnoticed.
    """
    return look_into(path / FILE if os.path.isdir(path) else path, lambda file, size: _Reading(file, size).model())


class _Wire:
    """The wire format of protocol buffers, read from a file through a small window."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._start = 0
        self._window = b""
        self._left = _MOST_FIELDS

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """The fields of a message: numbers, with the value of a varint, or where a value with a length stands.

        Values of fixed width are passed by, and so are groups with all that is in them.
        """
        at, end = span
        groups: list[int] = []
        while at < end:
            self._left -= 1
            if not self._left:
                raise Broken("garbage", "says that it has more parts than any model")
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if not number or tag >> 32:
                raise _nonsense()
            value: int | Span | None = None
            if kind == 0:
                value, at = self._varint(at, end)
            elif kind == 2:
                length, at = self._varint(at, end)
                value = (at, at + length)
                at += length
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind == 3:
                groups.append(number)
            elif kind != 4 or not groups or groups.pop() != number:
                raise _nonsense()
            if at > end:
                raise self._cut_off(at)
            if value is not None and not groups:
                yield number, value
        if groups:
            raise _nonsense()

    def raw(self, span: Span) -> bytes:
        """The bytes there, no more than a name can have."""
        start, end = span
        if end - start > _LONGEST_TEXT:
            raise Broken("garbage", "has a name of more than 64 KiB")
        data, at = self._near(start, end - start)
        return data[at : at + end - start]

    def text(self, span: Span) -> str:
        """The text there. What is not UTF-8 in it is replaced."""
        return self.raw(span).decode("utf-8", "replace")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        data, index = self._near(at, 10)
        value = shift = 0
        for byte in data[index : index + min(10, end - at)]:
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value & (1 << 64) - 1, at + shift // 7
        raise _nonsense() if shift == 70 else self._cut_off(end)

    def _near(self, at: int, count: int) -> tuple[bytes, int]:
        """The window, and where in it the byte `at` is; `count` bytes of it are there, unless the file ends."""
        index = at - self._start
        if index < 0 or index + count > len(self._window):
            self._file.seek(at)
            self._window = self._file.read(max(_WINDOW, count))
            self._start, index = at, 0
        return self._window, index

    def _cut_off(self, at: int) -> Broken:
        if at >= self._size:
            return Broken("truncated", f"ends in the middle, after {self._size} bytes")
        return _nonsense()


def _nonsense() -> Broken:
    return Broken("garbage", "is no ONNX file: it cannot be read as a protobuf message")


@dataclass(slots=True, kw_only=True)
class _Found:
    """What was read so far."""

    ir_version: int | None = None
    producer: str = ""
    producer_version: str = ""
    graph: bool = False
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    initializers: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inner: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: dict[str, int] = field(default_factory=dict)


class _Reading:
    """One reading of a file. Graphs within graphs wait in a list, so that none can nest too deep."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._wire = _Wire(file, size)
        self._size = size
        self._found = _Found()
        self._inner: list[Span] = []

    def model(self) -> OnnxModel:
        found = self._found
        for number, value in self._wire.fields((0, self._size)):
            if isinstance(value, int):
                if number == 1:
                    found.ir_version = _signed(value)
            else:
                self._part(number, value)
        while self._inner:
            self._inner_graph(self._inner.pop())
        if not found.graph:
            raise Broken("garbage", "is no ONNX file: there is no graph in it")
        return _told(found)

    def _part(self, number: int, span: Span) -> None:
        match number:
            case 2:
                self._found.producer = self._wire.text(span)
            case 3:
                self._found.producer_version = self._wire.text(span)
            case 7:
                self._found.graph = True
                self._graph(span)
            case 8:
                self._opset(span)
            case 25:
                self._function(span)

    def _opset(self, span: Span) -> None:
        domain, version = "", 0
        for number, value in self._wire.fields(span):
            if number == 1 and not isinstance(value, int):
                domain = self._wire.text(value)
            elif number == 2 and isinstance(value, int):
                version = _signed(value)
        self._found.opsets["" if domain == "ai.onnx" else domain] = version

    def _function(self, span: Span) -> None:
        domain = name = ""
        for number, value in self._wire.fields(span):
            if isinstance(value, int):
                continue
            if number == 1:
                name = self._wire.text(value)
            elif number == 7:
                self._node(value)
            elif number == 10:
                domain = self._wire.text(value)
        self._found.functions.add((domain, name))

    def _graph(self, span: Span) -> None:
        for number, value in self._wire.fields(span):
            if isinstance(value, int):
                continue
            match number:
                case 1:
                    self._found.nodes.append(self._node(value))
                case 5:
                    self._initializer(value)
                case 11:
                    self._found.inputs.append(self._value(value))
                case 12:
                    self._found.outputs.append(self._value(value))
                case 13:
                    told = self._value(value)
                    self._found.inner[told.name] = told
                case 15:
                    self._sparse(value)

    def _initializer(self, span: Span) -> None:
        value, ints = self._tensor(span)
        self._found.initializers[value.name] = value
        if ints is not None:
            self._found.constants[value.name] = ints

    def _inner_graph(self, span: Span) -> None:
        for number, value in self._wire.fields(span):
            if number == 1 and not isinstance(value, int):
                self._node(value)
            elif number == 5 and not isinstance(value, int):
                self._tensor(value)

    def _node(self, span: Span) -> Node:
        operator = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Attribute] = {}
        for number, value in self._wire.fields(span):
            if isinstance(value, int):
                continue
            match number:
                case 1:
                    inputs.append(self._wire.text(value))
                case 2:
                    outputs.append(self._wire.text(value))
                case 4:
                    operator = self._wire.text(value)
                case 5:
                    attributes.update(self._attribute(value))
                case 7:
                    domain = self._wire.text(value)
        domain = "" if domain == "ai.onnx" else domain
        self._found.operators.add((domain, operator))
        own = operator if not domain else ""
        return Node(operator=own, inputs=tuple(inputs), outputs=tuple(outputs), attributes=attributes)

    def _attribute(self, span: Span) -> Mapping[str, Attribute]:
        """An attribute by its name, if it is of a kind that shapes depend on."""
        name = ""
        told: Attribute | None = None
        ints: list[int] = []
        for number, value in self._wire.fields(span):
            if isinstance(value, int):
                if number == 3:
                    told = _signed(value)
                elif number == 8:
                    ints.append(_signed(value))
            elif number == 1:
                name = self._wire.text(value)
            else:
                told = self._attribute_value(number, value, ints) or told
        found: Attribute | None = tuple(ints) if ints else told
        return {} if found is None else {name: found}

    def _attribute_value(self, number: int, span: Span, ints: list[int]) -> Attribute | None:
        match number:
            case 4:
                start, end = span
                return self._wire.text((start, min(end, start + _FEW)))
            case 5:
                value, numbers = self._tensor(span)
                return Tensor(shape=_shape(value.dims), ints=numbers)
            case 8:
                ints += self._packed(span)
            case 10:
                self._tensor(span)
            case 6 | 11:
                self._inner.append(span)
        return None

    def _sparse(self, span: Span) -> None:
        """A sparse initializer goes by the name of its values."""
        for number, value in self._wire.fields(span):
            if number == 1 and not isinstance(value, int):
                told, _ = self._tensor(value)
                self._found.initializers[told.name] = told

    def _tensor(self, span: Span) -> tuple[Value, tuple[int, ...] | None]:
        """What a tensor says of itself; its numbers too, if they are few and whole."""
        name, element, elsewhere = "", 0, False
        dims: list[int] = []
        numbers: list[int] = []
        raw: Span | None = None
        entries: dict[str, str] = {}
        for number, value in self._wire.fields(span):
            if isinstance(value, int):
                if number == 1:
                    dims.append(_signed(value))
                elif number == 2:
                    element = value
                elif number in (5, 7):
                    numbers.append(_signed(value))
                elif number == 14:
                    elsewhere = value == 1
            elif number == 1:
                dims += self._packed(value)
            elif number in (5, 7) and value[1] - value[0] <= 10 * _FEW:
                numbers += self._packed(value)
            elif number == 9:
                raw = value
            elif number == 8:
                name = self._wire.text(value)
            elif number == 13:
                entries.update([self._entry(value)])
        if elsewhere:
            self._keep_external(entries)
        elif raw:
            numbers = self._numbers(element, raw)
        whole = element in INTEGERS and len(numbers) == math.prod(dims) <= _FEW
        return Value(name=name, element=element, dims=tuple(dims)), tuple(numbers) if whole else None

    def _numbers(self, element: int, span: Span) -> list[int]:
        """The numbers that stand in these bytes, if they are few."""
        code = INTEGERS.get(element)
        if not code or span[1] - span[0] > _FEW * 8:
            return []
        data = self._wire.raw(span)
        size = struct.calcsize(f"<{code}")
        return [number for (number,) in struct.iter_unpack(f"<{code}", data[: len(data) // size * size])]

    def _packed(self, span: Span) -> Iterator[int]:
        value = shift = 0
        for byte in self._wire.raw(span):
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                yield _signed(value)
                value = shift = 0
            elif shift > 63:
                raise _nonsense()

    def _entry(self, span: Span) -> tuple[str, str]:
        pair = {number: self._wire.text(value) for number, value in self._wire.fields(span) if isinstance(value, tuple)}
        return pair.get(1, ""), pair.get(2, "")

    def _keep_external(self, entries: Mapping[str, str]) -> None:
        offset, length = (_number(entries.get(key, "")) for key in ("offset", "length"))
        location = entries.get("location", "")
        self._found.external[location] = max(self._found.external.get(location, 0), offset + length)

    def _value(self, span: Span) -> Value:
        name, told = "", Value(name="", kind="unknown")
        for number, value in self._wire.fields(span):
            if isinstance(value, int):
                continue
            if number == 1:
                name = self._wire.text(value)
            elif number == 2:
                told = self._type(value)
        return Value(name=name, kind=told.kind, element=told.element, dims=told.dims)

    def _type(self, span: Span) -> Value:
        kind, inside = "unknown", None
        for number, value in self._wire.fields(span):
            if number in _KINDS and not isinstance(value, int):
                kind, inside = _KINDS[number], value
        if kind != "tensor" or inside is None:
            return Value(name="", kind=kind)
        return self._tensor_type(inside)

    def _tensor_type(self, span: Span) -> Value:
        element, dims = 0, None
        for number, value in self._wire.fields(span):
            if number == 1 and isinstance(value, int):
                element = value
            elif number == 2 and not isinstance(value, int):
                dims = tuple(self._dim(one) for number, one in self._wire.fields(value) if isinstance(one, tuple))
        return Value(name="", element=element, dims=dims)

    def _dim(self, span: Span) -> Dim:
        dim: Dim = None
        for number, value in self._wire.fields(span):
            if number == 1 and isinstance(value, int):
                dim = _signed(value)
            elif number == 2 and not isinstance(value, int):
                dim = self._wire.text(value) or None
        return dim


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _told(found: _Found) -> OnnxModel:
    overridable = tuple(value for value in found.inputs if value.name in found.initializers)
    return OnnxModel(
        ir_version=found.ir_version,
        opsets=found.opsets,
        producer=found.producer,
        producer_version=found.producer_version,
        inputs=tuple(value for value in found.inputs if value.name not in found.initializers),
        overridable=overridable,
        outputs=tuple(_found_out(found)),
        initializers=found.initializers,
        operators=frozenset(found.operators),
        functions=frozenset(found.functions),
        external=found.external,
    )


def _found_out(found: _Found) -> Iterator[Value]:
    """The outputs with what ONNX Runtime finds out of their shapes."""
    given = {value.name: Tensor(shape=_shape(value.dims)) for value in found.inputs}
    constants = {
        name: Tensor(shape=_shape(value.dims), ints=found.constants.get(name) if name not in given else None)
        for name, value in found.initializers.items()
    }
    said = {**found.inner, **{value.name: value for value in found.outputs}}
    shapes = {name: _shape(value.dims) for name, value in said.items() if value.kind == "tensor"}
    known = follow(found.nodes, {**given, **constants}, shapes)
    for value in found.outputs:
        if value.kind == "tensor":
            shape = known[value.name].shape if value.name in known else merged(_shape(value.dims), None)
            yield _with_shape(value, shape)
        else:
            yield value


def _shape(dims: tuple[Dim, ...] | None) -> Shape:
    """A shape as `onnx_shapes` has it. ONNX Runtime takes negative sizes for unknown ones."""
    if dims is None:
        return None
    return tuple("" if dim is None or (isinstance(dim, int) and dim < 0) else dim for dim in dims)


def _with_shape(value: Value, shape: Shape) -> Value:
    if shape is None:
        return replace(value, dims=None, sure=False)
    old = value.dims if value.dims is not None else (None,) * len(shape)
    dims = tuple(new if isinstance(new, int) else dim for dim, new in zip(old, shape, strict=True))
    return replace(value, dims=dims, sure=None not in shape)
