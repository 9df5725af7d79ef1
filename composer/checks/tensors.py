"""Tensors as the v2 protocol carries them over HTTP: as JSON, and as bytes where JSON cannot (FP16, BF16, NaN).

Source: KServe's predict protocol v2, and Triton's extension_binary_data.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

FORMATS: Final[Mapping[str, str]] = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""The `struct` letter of each datatype of fixed size. BF16, which has none, is the upper half of FP32."""

NOT_IN_JSON: Final = ("FP16", "BF16")

Scalar = Any
"""One value of a tensor: bool, int, float or str, by its datatype."""

Values = Any
"""A scalar, or lists of them in lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor: its values flat, the last dimension running fastest."""

    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Scalar]


def flat(values: Values) -> list[Scalar]:
    """Nested lists as one list."""
    if not isinstance(values, (list, tuple)):
        return [values]
    return [scalar for value in values for scalar in flat(value)]


def place(index: int, shape: Sequence[int]) -> list[int]:
    """Where in the shape the value number `index` is."""
    where = []
    for size in reversed(shape):
        index, at = divmod(index, size) if size else (index, 0)
        where.append(at)
    return where[::-1]


def rounded(value: Scalar, datatype: str) -> Scalar:
    """The number that a tensor of that datatype holds for `value`: 0.1 is not 0.1 in FP32."""
    if datatype == "BF16":
        return _from_bf16(_to_bf16([value]))[0]
    if datatype in ("FP16", "FP32") and isinstance(value, (int, float)):
        try:
            return struct.unpack(FORMATS[datatype], struct.pack(FORMATS[datatype], value))[0]
        except OverflowError:
            return math.copysign(math.inf, value)
    return value


def encode(name: str, tensor: Tensor) -> tuple[dict[str, Any], bytes]:
    """One input of a request: its JSON object, and the bytes that follow the JSON (none where it holds all)."""
    head = {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if not _needs_bytes(tensor):
        return head | {"data": list(tensor.values)}, b""
    body = pack(tensor)
    return head | {"parameters": {"binary_data_size": len(body)}}, body


def _needs_bytes(tensor: Tensor) -> bool:
    odd = (isinstance(value, float) and not math.isfinite(value) for value in tensor.values)
    return tensor.datatype in NOT_IN_JSON or any(odd)


def pack(tensor: Tensor) -> bytes:
    """The values as little-endian bytes. Raises `ValueError` for one that the datatype cannot hold."""
    if tensor.datatype == "BF16":
        return _to_bf16(tensor.values)
    try:
        return struct.pack(f"<{len(tensor.values)}{FORMATS[tensor.datatype]}", *tensor.values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{tensor.datatype} cannot hold a value of the check: {error}") from error


def decode(outputs: Sequence[Mapping[str, Any]], tail: bytes) -> dict[str, Tensor]:
    """The outputs of an answer by name, from their JSON objects and the bytes after the JSON.

    Raises `ValueError` or `KeyError` for what is no answer in this protocol.
    """
    found, at = {}, 0
    for output in outputs:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            values: Sequence[Scalar] = flat(output.get("data", []))
        else:
            values = unpack(output["datatype"], tail[at : at + size])
            at += size
        shape = tuple(int(dimension) for dimension in output["shape"])
        found[str(output["name"])] = Tensor(datatype=str(output["datatype"]), shape=shape, values=values)
    return found


def unpack(datatype: str, body: bytes) -> list[Any]:
    """Values from little-endian bytes; a rest that makes no whole value is left over."""
    if datatype == "BF16":
        return _from_bf16(body)
    if datatype == "BYTES":
        return _texts(body)
    letter = FORMATS[datatype]
    count = len(body) // struct.calcsize(letter)
    return list(struct.unpack(f"<{count}{letter}", body[: count * struct.calcsize(letter)]))


def _texts(body: bytes) -> list[str]:
    """BYTES: each with its length before it, in four bytes."""
    texts, at = [], 0
    while at + 4 <= len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4], "little")
        texts.append(body[at + 4 : end].decode(errors="replace"))
        at = end
    return texts


def _to_bf16(values: Sequence[Any]) -> bytes:
    words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    return struct.pack(f"<{len(values)}H", *(_half(word) for word in words))


def _half(word: int) -> int:
    """The upper half of an FP32, rounded to the nearest, ties to even. NaN stays NaN."""
    if word & 0x7FFFFFFF > 0x7F800000:
        return word >> 16 | 0x40
    return (word + 0x7FFF + (word >> 16 & 1)) >> 16


def _from_bf16(body: bytes) -> list[float]:
    count = len(body) // 2
    words = struct.unpack(f"<{count}H", body[: 2 * count])
    return list(struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(word << 16 for word in words))))
