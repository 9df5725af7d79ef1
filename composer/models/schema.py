"""Triton's ModelConfig as a protobuf message type, made of model_config.toml; and which release brought which field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        EnumDescriptorProto,
        FieldDescriptorProto,
        FileDescriptorProto,
    )

PACKAGE: Final = "inference"
"""The package that Triton has its messages in: error messages name them by it."""

ModelConfig = Any
"""A message of the type that `model_config` describes. It is made at run time, so its fields have no types."""

_MAP: Final = re.compile(r"map<(\w+), ([\w.]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """A field as the table has it."""

    type: str
    oneof: str | None = None
    since: str | None = None


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((files(__package__) / "model_config.toml").read_text(encoding="utf-8"))


@cache
def _messages() -> Mapping[str, Mapping[str, _Field]]:
    return {
        name: {field: _Field(**said) if isinstance(said, dict) else _Field(type=said) for field, said in fields.items()}
        for name, fields in _table().items()
        if name != "enums"
    }


def _enums() -> Mapping[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in _table()["enums"].items()}


def enum_name(message: ModelConfig, field: str) -> str:
    """The name of an enum's value in any message of a config: `TYPE_FP32`, `KIND_GPU`. "" where it has none."""
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(getattr(message, field))
    return str(value.name) if value else ""


@cache
def newer_fields() -> Mapping[tuple[str, str], str]:
    """The releases that brought a field, by message and field: `("ModelInput", "optional")` came with "22.01"."""
    return {
        (message, name): field.since
        for message, fields in _messages().items()
        for name, field in fields.items()
        if field.since
    }


@cache
def newer_values() -> Mapping[str, str]:
    """The releases that brought a value of an enum: `TYPE_BF16` came with "22.05"."""
    split = (value.partition(" ") for values in _enums().values() for value in values)
    return {name: since for name, _, since in split if since}


def fields_of(message: str) -> tuple[str, ...]:
    """The names of a message's fields; none for a message that there is not."""
    return tuple(_messages().get(message, ()))


def homes_of(field: str) -> tuple[str, ...]:
    """The messages that have a field of this name."""
    return tuple(name for name, fields in _messages().items() if field in fields)


def all_values() -> tuple[str, ...]:
    """The values of all enums."""
    return tuple(value.partition(" ")[0] for values in _enums().values() for value in values)


@cache
def model_config() -> Descriptor:
    """The descriptor of ModelConfig, which knows all the others."""
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return pool.FindMessageTypeByName(f"{PACKAGE}.ModelConfig")


def new_config() -> ModelConfig:
    """An empty ModelConfig."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(model_config())()


def _file() -> FileDescriptorProto:
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for name, fields in _messages().items():
        outer, _, own = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
        for number, (field, said) in enumerate(fields.items(), 1):
            _add_field(made[name], field, number, said)
    for name, values in _enums().items():
        outer, _, own = name.rpartition(".")
        _add_enum((made[outer] if outer else file).enum_type.add(name=own), values)
    return file


def _add_enum(enum: EnumDescriptorProto, values: tuple[str, ...]) -> None:
    for number, value in enumerate(values):
        enum.value.add(name=value.partition(" ")[0], number=number)


def _add_field(message: DescriptorProto, name: str, number: int, said: _Field) -> None:
    repeated = said.type.startswith("repeated ")
    kind = said.type.removeprefix("repeated ")
    if found := _MAP.fullmatch(kind):
        kind, repeated = _add_map_entry(message, name, *found.groups()), True
    field = message.field.add(name=name, number=number, label=3 if repeated else 1)
    _set_type(field, kind)
    if said.oneof:
        field.oneof_index = _oneof(message, said.oneof)


def _add_map_entry(message: DescriptorProto, name: str, key: str, value: str) -> str:
    """Add the message that protobuf makes of a map's entries, and say its name."""
    entry = message.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
        _set_type(entry.field.add(name=part, number=number, label=1), kind)
    return f"+{entry.name}"


def _oneof(message: DescriptorProto, name: str) -> int:
    names = [oneof.name for oneof in message.oneof_decl]
    if name not in names:
        message.oneof_decl.add(name=name)
        names.append(name)
    return names.index(name)


def _set_type(field: FieldDescriptorProto, kind: str) -> None:
    if kind.startswith("+"):
        field.type_name = kind[1:]
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]  # type: ignore[assignment]  # a number is what it is
    else:
        field.type_name = f".{PACKAGE}.{kind}"


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
