"""Triton's ModelConfig as a protobuf message type, made of model_config.toml; and which release brought which field."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from composer.protobuf import Messages, make_pool, read_messages

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

PACKAGE: Final = "inference"
"""The package that Triton has its messages in: error messages name them by it."""

ModelConfig = Any
"""A message of the type that `model_config` describes. It is made at run time, so its fields have no types."""


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((files(__package__) / "model_config.toml").read_text(encoding="utf-8"))


@cache
def _messages() -> Messages:
    return read_messages({name: fields for name, fields in _table().items() if name != "enums"})


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
    enums = {name: [value.partition(" ")[0] for value in values] for name, values in _enums().items()}
    return make_pool("model_config.proto", PACKAGE, _messages(), enums).FindMessageTypeByName(f"{PACKAGE}.ModelConfig")


def new_config() -> ModelConfig:
    """An empty ModelConfig."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(model_config())()
