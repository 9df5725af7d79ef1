"""Protobuf messages made of tables at run time: no compiler, and no generated code that wants one version of protobuf.

A table has the fields of each message in the order of their numbers, which count from 1 without a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        EnumDescriptorProto,
        FieldDescriptorProto,
        FileDescriptorProto,
    )
    from google.protobuf.descriptor_pool import DescriptorPool

Message = Any
"""A message of a type that is made at run time, so that its fields have no types."""

_MAP: Final = re.compile(r"map<(\w+), ([\w.]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field as a table has it: its type as protobuf writes it, and the release that it came with, if it is newer."""

    type: str
    oneof: str | None = None
    since: str | None = None


Messages = Mapping[str, Mapping[str, Field]]
"""Fields by message and name. A message inside another is called `Outer.Inner`, and stands behind it."""


def read_messages(table: Mapping[str, Mapping[str, Any]]) -> Messages:
    """The messages of a table: each field is its type, or an object with the parts of `Field`."""
    return {
        name: {field: Field(**said) if isinstance(said, dict) else Field(type=said) for field, said in fields.items()}
        for name, fields in table.items()
    }


def make_pool(file: str, package: str, messages: Messages, enums: Mapping[str, Sequence[str]]) -> DescriptorPool:
    """A pool of its own with these messages; values of enums count from 0."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    made = descriptor_pb2.FileDescriptorProto(name=file, package=package, syntax="proto3")
    _fill(made, package, messages, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(made)
    return pool


def message_class(pool: DescriptorPool, name: str) -> type[Message]:
    """The class of a message by its full name: `inference.ModelConfig`."""
    from google.protobuf import message_factory

    made: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    return made


def _fill(file: FileDescriptorProto, package: str, messages: Messages, enums: Mapping[str, Sequence[str]]) -> None:
    made: dict[str, DescriptorProto] = {}
    for name, fields in messages.items():
        outer, _, own = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
        for number, (field, said) in enumerate(fields.items(), 1):
            _add_field(made[name], field, number, said, package)
    for name, values in enums.items():
        outer, _, own = name.rpartition(".")
        _add_enum((made[outer] if outer else file).enum_type.add(name=own), values)


def _add_enum(enum: EnumDescriptorProto, values: Iterable[str]) -> None:
    for number, value in enumerate(values):
        enum.value.add(name=value, number=number)


def _add_field(message: DescriptorProto, name: str, number: int, said: Field, package: str) -> None:
    repeated = said.type.startswith("repeated ")
    kind = said.type.removeprefix("repeated ")
    if found := _MAP.fullmatch(kind):
        kind, repeated = _add_map_entry(message, name, found[1], found[2], package), True
    field = message.field.add(name=name, number=number, label=3 if repeated else 1)
    _set_type(field, kind, package)
    if said.oneof:
        field.oneof_index = _oneof(message, said.oneof)


def _add_map_entry(message: DescriptorProto, name: str, key: str, value: str, package: str) -> str:
    """Add the message that protobuf makes of a map's entries, and say its name."""
    entry = message.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
        _set_type(entry.field.add(name=part, number=number, label=1), kind, package)
    return f"+{entry.name}"


def _oneof(message: DescriptorProto, name: str) -> int:
    names = [oneof.name for oneof in message.oneof_decl]
    if name not in names:
        message.oneof_decl.add(name=name)
        names.append(name)
    return names.index(name)


def _set_type(field: FieldDescriptorProto, kind: str, package: str) -> None:
    if kind.startswith("+"):
        field.type_name = kind[1:]
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]  # type: ignore[assignment]  # a number is what it is
    else:
        field.type_name = f".{package}.{kind}"


_SCALARS: Final = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "uint32": 13,
}
"""The numbers that protobuf has for them. Source: descriptor.proto, FieldDescriptorProto.Type."""
