"""Where the server's configuration of a model is not what its file says: pure, and judged by what the file sets.

The server fills in what a file leaves open, so only what stands in the file is compared. It may also change what stands
there: it gives instance groups their names and GPUs, and a backend may take the settings of its model file instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from composer.models.configuration import Configuration
from composer.models.schema import ModelConfig, enum_name, new_config

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

_FILLED: Final = frozenset(["instance_group.name", "instance_group.gpus"])
"""Fields that the server completes even where they are set."""

_FOREIGN: Final = re.compile(r"[\udc80-\udcff]|\\[xX23]")
"""Bytes that are no UTF-8, as they are or escaped: they were read as question marks."""

_BATCH: Final = "max_batch_size"


def differences(file: Configuration, served: Mapping[str, Any]) -> list[str]:
    """Every setting of a file that the server has otherwise: `max_batch_size is 0, the file says 8`.

    `served` is the server's own answer. A file that nobody can read, or whose texts are not UTF-8, is not compared.
    Raises `ValueError` for an answer that is no configuration.
    """
    if not file.readable or _FOREIGN.search(file.text or ""):
        return []
    given, own = file.message, parsed(served)
    found = list(_differences(given, own, ""))
    # That a text sets a number to 0 cannot be told from the message. It is not left open, as an empty text is.
    if file.has(_BATCH) and not given.max_batch_size and own.max_batch_size:
        found.insert(0, f"{_BATCH} is {own.max_batch_size}, the file says 0")
    return found


def parsed(served: Mapping[str, Any]) -> ModelConfig:
    """A configuration as the server writes it, as a message. Raises `ValueError`."""
    from google.protobuf import json_format

    try:
        return json_format.ParseDict(dict(served), new_config(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(f"a model configuration that cannot be read: {error}") from error


def _differences(given: ModelConfig, own: ModelConfig, path: str) -> Iterator[str]:
    for field, value in given.ListFields():
        inner = f"{path}{field.name}"
        if inner in _FILLED:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from _map(value, getattr(own, field.name), inner)
        elif field.is_repeated:
            yield from _several(field, value, getattr(own, field.name), inner)
        elif field.message_type is not None:
            yield from _part(field, given, own, inner)
        elif fault := _scalar(field, given, own, inner):
            yield fault


def _scalar(field: FieldDescriptor, given: ModelConfig, own: ModelConfig, path: str) -> str | None:
    value, there = getattr(given, field.name), getattr(own, field.name)
    both_nan = value != value and there != there
    # A count below one is taken for one.
    if value == there or both_nan or (path == "instance_group.count" and value < 1):
        return None
    if field.enum_type is not None:
        value, there = enum_name(given, field.name) or value, enum_name(own, field.name) or there
    return f"{path} is {_shown(there)}, the file says {_shown(value)}"


def _part(field: FieldDescriptor, given: ModelConfig, own: ModelConfig, path: str) -> Iterator[str]:
    if not own.HasField(field.name):
        yield f"{path} is not set, the file has it"
        return
    yield from _differences(getattr(given, field.name), getattr(own, field.name), f"{path}.")


def _several(field: FieldDescriptor, value: Any, there: Any, path: str) -> Iterator[str]:  # noqa: ANN401
    if field.message_type is None:
        if list(value) != list(there):
            yield f"{path} is {list(there)}, the file says {list(value)}"
    elif len(value) != len(there):
        yield f"{path}: there are {len(there)}, the file has {len(value)}"
    else:
        for one, other in zip(value, there, strict=True):
            yield from _differences(one, other, f"{path}.")


def _map(value: Mapping[Any, Any], there: Mapping[Any, Any], path: str) -> Iterator[str]:
    for key in value:
        if key not in there:
            yield f"{path} has no {key}, the file has it"
        elif value[key] != there[key]:
            yield f"{path}: {key} is {_shown(there[key])}, the file says {_shown(value[key])}"


def _shown(value: object) -> str:
    """A value in one line."""
    return " ".join(str(value).split()) if not isinstance(value, str) else f'"{value}"' if value == "" else value
