"""Tensors, and the bytes and JSON that stand for them on the wire.

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
"""Datatypes that JSON cannot carry, says the protocol."""

EXACT_TEXT: Final = "surrogateescape"
"""How BYTES become text and back: what is no UTF-8 is kept, byte for byte."""

Scalar = Any
"""One value of a tensor: bool, int, float or str, by its datatype."""

Values = Any
"""A scalar, or lists of them in lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor: its values flat, the last dimension running fastest. BYTES are text, see `EXACT_TEXT`."""

    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Scalar]


def flat(values: Values) -> list[Scalar]:
    """Nested lists as one list."""
    if not isinstance(values, (list, tuple)):
        return [values]
    if not any(isinstance(value, (list, tuple)) for value in values):
        return list(values)
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
    if datatype in ("FP16", "FP32", "BF16") and isinstance(value, (int, float)):
        try:
            if datatype == "BF16":
                return _from_bf16(_to_bf16([value]))[0]
            return struct.unpack(FORMATS[datatype], struct.pack(FORMATS[datatype], value))[0]
        except OverflowError:
            return math.copysign(math.inf, value)
    return value


def rounded_all(values: Sequence[Scalar], datatype: str) -> Sequence[Scalar]:
    """`rounded` of many values, at once where none of them is too large for the datatype."""
    if datatype not in ("FP16", "BF16", "FP32"):
        return values
    letter = FORMATS.get(datatype, "f")
    try:
        body = struct.pack(f"<{len(values)}{letter}", *values)
    except (OverflowError, struct.error):
        return [rounded(value, datatype) for value in values]
    return _from_bf16(_to_bf16(values)) if datatype == "BF16" else list(struct.unpack(f"<{len(values)}{letter}", body))


# -- bytes -------------------------------------------------------------------------------------


def size_of(datatype: str) -> int | None:
    """Bytes of one value; None for BYTES, of which each has its own. Raises `ValueError` for no datatype."""
    if datatype == "BYTES":
        return None
    if datatype == "BF16":
        return 2
    if datatype not in FORMATS:
        raise ValueError(f"there is no datatype {datatype!r} in the protocol")
    return struct.calcsize(FORMATS[datatype])


def pack(tensor: Tensor) -> bytes:
    """The values as little-endian bytes. Raises `ValueError` for one that the datatype cannot hold."""
    try:
        if tensor.datatype == "BYTES":
            return b"".join(_with_length(value.encode(errors=EXACT_TEXT)) for value in tensor.values)
        if tensor.datatype == "BF16":
            return _to_bf16(tensor.values)
        return struct.pack(f"<{len(tensor.values)}{FORMATS[tensor.datatype]}", *tensor.values)
    except (struct.error, OverflowError, AttributeError) as error:
        raise ValueError(f"{tensor.datatype} cannot hold a value of the check: {error}") from error


def unpack(datatype: str, body: bytes) -> list[Scalar]:
    """Values from little-endian bytes; a rest that makes no whole value is left over. Raises `ValueError`."""
    size = size_of(datatype)
    if size is None:
        return _texts(body)
    if datatype == "BF16":
        return _from_bf16(body)
    count = len(body) // size
    return list(struct.unpack(f"<{count}{FORMATS[datatype]}", body[: count * size]))


def oddity(datatype: str, shape: Sequence[int], body: bytes) -> str | None:
    """What is wrong with the number of bytes that came for a tensor, or None. Raises `ValueError`."""
    count, size = math.prod(shape), size_of(datatype)
    if size is not None:
        wanted = f"{datatype} {list(shape)} takes {count * size}"
        return None if len(body) == count * size else f"it has {len(body)} bytes, {wanted}"
    ends = _ends(body)
    if (ends[-1] if ends else 0) != len(body):
        return f"its {len(body)} bytes are not texts with their lengths before them"
    return None if len(ends) == count else f"it has {len(ends)} texts, its shape {list(shape)} has {count}"


def _with_length(text: bytes) -> bytes:
    return len(text).to_bytes(4, "little") + text


def _texts(body: bytes) -> list[str]:
    """BYTES: each with its length before it, in four bytes."""
    ends = _ends(body)
    starts = [0, *ends]
    return [body[start + 4 : end].decode(errors=EXACT_TEXT) for start, end in zip(starts, ends, strict=False)]


def _ends(body: bytes) -> list[int]:
    """Where each text ends, by its length; the last may end where there are no bytes any more."""
    ends, at = [], 0
    while at + 4 <= len(body):
        at += 4 + int.from_bytes(body[at : at + 4], "little")
        ends.append(at)
    return ends


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


# -- JSON --------------------------------------------------------------------------------------


def not_in_json(tensor: Tensor) -> str | None:
    """Why JSON cannot carry a tensor, or None if it can."""
    if tensor.datatype in NOT_IN_JSON:
        return f"JSON cannot carry {tensor.datatype}"
    if tensor.datatype == "BYTES":
        return None if all(map(_is_text, tensor.values)) else "JSON cannot carry bytes that are no UTF-8"
    return None if all(map(math.isfinite, tensor.values)) else "JSON cannot carry numbers that are infinite or none"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
