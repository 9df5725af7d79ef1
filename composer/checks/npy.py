"""Tensors from NumPy's .npy files, without NumPy. Source: `numpy.lib.format`, versions 1.0 to 3.0."""

from __future__ import annotations

import ast
import math
import struct
from pathlib import Path
from typing import Any, Final

from composer.checks.tensors import FORMATS, Tensor
from composer.errors import Corrupt, NotFound

_MAGIC: Final = b"\x93NUMPY"
_TYPES: Final = {
    "b1": "BOOL",
    **{
        f"{letter}{size}": f"{prefix}INT{8 * size}"
        for letter, prefix in (("i", ""), ("u", "U"))
        for size in (1, 2, 4, 8)
    },
    **{f"f{size}": f"FP{8 * size}" for size in (2, 4, 8)},
}


def read_npy(path: Path) -> Tensor:
    """The tensor in a file. Raises `NotFound`, and `Corrupt` for what is not .npy or holds what no tensor can."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path.parent}") from error
    try:
        header, content = _split(data)
        return _tensor(header, content)
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error) as error:
        raise Corrupt(
            f"{path} is not a NumPy file of numbers or texts: {error}", hint="numpy.save(path, array)"
        ) from error


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    width = 2 if data[6] == 1 else 4
    begin = 8 + width
    end = begin + int.from_bytes(data[8:begin], "little")
    return ast.literal_eval(data[begin:end].decode("utf-8").strip()), data[end:]


def _tensor(header: dict[str, Any], content: bytes) -> Tensor:
    descr, shape = str(header["descr"]), tuple(header["shape"])
    order, kind = descr[0], descr[1:]
    values = _texts(kind, order, content) if kind[0] in "US" else _numbers(kind, order, content)
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values for the shape {list(shape)}")
    if header["fortran_order"]:
        values = _c_order(values, shape)
    return Tensor(datatype=_TYPES.get(kind, "BYTES"), shape=shape, values=tuple(values))


def _numbers(kind: str, order: str, content: bytes) -> list[Any]:
    code = FORMATS[_TYPES[kind]]
    return [value for (value,) in struct.iter_unpack((">" if order == ">" else "<") + code, content)]


def _texts(kind: str, order: str, content: bytes) -> list[Any]:
    size = int(kind[1:]) * (4 if kind[0] == "U" else 1)
    encoding = "utf-8" if kind[0] == "S" else "utf-32-be" if order == ">" else "utf-32-le"
    return [content[at : at + size].decode(encoding).rstrip("\0") for at in range(0, len(content), size)]


def _c_order(values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The values with the last dimension running fastest, from an order in which the first does."""
    places = [0]
    strides = [math.prod(shape[:axis]) for axis in range(len(shape))]
    for size, stride in zip(shape, strides, strict=True):
        places = [place + step * stride for place in places for step in range(size)]
    return [values[place] for place in places]
