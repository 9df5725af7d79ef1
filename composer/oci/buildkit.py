"""What BuildKit says while it builds: the `moby.buildkit.trace` of a Docker Engine's stream, a protobuf message.

Decoded is what progress needs of `moby.buildkit.v1.StatusResponse`; fields that are not known are passed over, so that
newer engines are understood too.
Sources: BuildKit's api/services/control/control.proto; the encoding of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_Value = int | bytes
_Fields = Mapping[int, Sequence[_Value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """A step as far as it has come. Times are seconds since 1970, None before it has begun or is over.

    `digest` names it in all messages of one build; `error` is empty unless it failed.
    """

    digest: str
    name: str
    cached: bool
    started: float | None
    completed: float | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a part of a step is, a layer that is pulled for example: `current` of `total` bytes (0: unknown)."""

    id: str
    vertex: str
    name: str
    current: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A piece of a step's output, cut anywhere. `stream` is 1 for stdout, 2 for stderr."""

    vertex: str
    stream: int
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One message."""

    vertexes: tuple[Vertex, ...]
    statuses: tuple[Status, ...]
    logs: tuple[Log, ...]


def decode_trace(raw: bytes) -> Trace:
    """Decode one message. Raises `ValueError` for bytes that are none."""
    fields = _message(raw)
    return Trace(vertexes=_each(fields, 1, _vertex), statuses=_each(fields, 2, _status), logs=_each(fields, 3, _log))


def _vertex(fields: _Fields) -> Vertex:
    return Vertex(
        digest=_text(fields, 1),
        name=_text(fields, 3),
        cached=bool(_number(fields, 4)),
        started=_time(fields, 5),
        completed=_time(fields, 6),
        error=_text(fields, 7),
    )


def _status(fields: _Fields) -> Status:
    return Status(
        id=_text(fields, 1),
        vertex=_text(fields, 2),
        name=_text(fields, 3),
        current=_number(fields, 4),
        total=_number(fields, 5),
    )


def _log(fields: _Fields) -> Log:
    return Log(vertex=_text(fields, 1), stream=_number(fields, 3), message=_raw(fields, 4))


# -- protobuf -----------------------------------------------------------------------------------------------------

_Part = TypeVar("_Part")
_MASK: Final = (1 << 64) - 1


def _message(raw: bytes) -> _Fields:
    """All values of a message by the numbers of their fields."""
    found: dict[int, list[_Value]] = {}
    for number, value in _pairs(raw):
        found.setdefault(number, []).append(value)
    return found


def _pairs(raw: bytes) -> Iterator[tuple[int, _Value]]:
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(raw, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no such wire type: {kind}")
        if at + size > len(raw):
            raise ValueError("a field is longer than its message")
        yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("a number does not end")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value & _MASK, at


def _each(fields: _Fields, number: int, make: Callable[[_Fields], _Part]) -> tuple[_Part, ...]:
    return tuple(make(_message(value)) for value in fields.get(number, ()) if isinstance(value, bytes))


def _raw(fields: _Fields, number: int) -> bytes:
    """The last value counts, as protobuf has it; one of another type is passed over."""
    return next((value for value in reversed(fields.get(number, ())) if isinstance(value, bytes)), b"")


def _text(fields: _Fields, number: int) -> str:
    return _raw(fields, number).decode(errors="replace")


def _number(fields: _Fields, number: int) -> int:
    value = next((value for value in reversed(fields.get(number, ())) if isinstance(value, int)), 0)
    return value - (1 << 64) if value >> 63 else value


def _time(fields: _Fields, number: int) -> float | None:
    """A `google.protobuf.Timestamp`."""
    if number not in fields:
        return None
    stamp = _message(_raw(fields, number))
    return _number(stamp, 1) + _number(stamp, 2) / 1_000_000_000
