"""Tensors from NumPy's .npy files and into them, without NumPy. Source: `numpy.lib.format`, versions 1.0 to 3.0."""

from __future__ import annotations

import ast
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from composer.errors import Corrupt, NotFound
from composer.protocol.tensors import EXACT_TEXT, FORMATS, Tensor, pack, unpack

_MAGIC: Final = b"\x93NUMPY"
_TYPES: Final = {
    "b1": "BOOL",
    **{
        f"{letter}{size}": f"{prefix}INT{8 * size}"
        for letter, prefix in (("i", ""), ("u", "U"))
        for size in (1, 2, 4, 8)
    },
    **{f"f{size}": f"FP{8 * size}" for size in (2, 4, 8)},
    # NumPy has no BF16: ml_dtypes, which adds it, saves the two bytes as they are, of no type.
    "V2": "BF16",
}
_LETTERS: Final = {datatype: letters for letters, datatype in _TYPES.items() if datatype != "BF16"}


def read_npy(path: Path) -> Tensor:
    """The tensor in a file. Raises `NotFound`, and `Corrupt` for what is not .npy or holds what no tensor can.

    `|S` and `<U` are texts; what NumPy keeps as Python objects is refused, as it would have to be run to be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path.parent}") from error
    try:
        header, content = _split(data)
        return _tensor(header, content)
    except (ValueError, KeyError, TypeError, SyntaxError, IndexError, struct.error) as error:
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
    descr, shape = header["descr"], tuple(header["shape"])
    if not isinstance(descr, str) or descr[1:2] == "O" or descr == "|O":
        raise ValueError("it holds Python objects: array.astype(str) and array.astype(float) do not")
    order, kind = descr[0], descr[1:]
    values = _texts(kind, order, content, math.prod(shape)) if kind[0] in "US" else _numbers(kind, order, content)
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values for the shape {list(shape)}")
    if header["fortran_order"]:
        values = _c_order(values, shape)
    return Tensor(datatype=_TYPES.get(kind, "BYTES"), shape=shape, values=values)


def _numbers(kind: str, order: str, content: bytes) -> list[Any]:
    datatype = _TYPES[kind]
    if order != ">":
        return unpack(datatype, content)
    code = FORMATS[datatype]
    return list(struct.unpack(f">{len(content) // struct.calcsize(code)}{code}", content))


def _texts(kind: str, order: str, content: bytes, count: int) -> list[Any]:
    """Texts of one length, filled up with zeros. Of length 0 they take no bytes at all."""
    size = int(kind[1:]) * (4 if kind[0] == "U" else 1)
    if not size:
        return [""] * count
    encoding = "utf-8" if kind[0] == "S" else "utf-32-be" if order == ">" else "utf-32-le"
    errors = EXACT_TEXT if kind[0] == "S" else "strict"
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    return [piece.decode(encoding, errors).rstrip("\0") for piece in pieces]


def _c_order(values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The values with the last dimension running fastest, from an order in which the first does."""
    places = [0]
    strides = [math.prod(shape[:axis]) for axis in range(len(shape))]
    for size, stride in zip(shape, strides, strict=True):
        places = [place + step * stride for place in places for step in range(size)]
    return [values[place] for place in places]


def make_npy(tensor: Tensor) -> bytes:
    """A file with a tensor in it. BF16, which NumPy lacks, is written as the FP32 that it is the upper half of.

    Raises `ValueError` for texts that end in a zero, which NumPy would cut off.
    """
    if tensor.datatype == "BYTES":
        descr, content = _fixed(tensor.values)
    else:
        written = "FP32" if tensor.datatype == "BF16" else tensor.datatype
        descr = f"{'|' if written in ('BOOL', 'INT8', 'UINT8') else '<'}{_LETTERS[written]}"
        content = pack(Tensor(datatype=written, shape=tensor.shape, values=tensor.values))
    header = {"descr": descr, "fortran_order": False, "shape": tuple(tensor.shape)}
    text = f"{header!r}".encode()
    # The values begin at a multiple of 64, and the header ends with a line feed.
    padded = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    return _MAGIC + b"\x01\x00" + len(padded).to_bytes(2, "little") + padded + content


def _fixed(values: Sequence[str]) -> tuple[str, bytes]:
    texts = [value.encode(errors=EXACT_TEXT) for value in values]
    if any(text.endswith(b"\0") for text in texts):
        raise ValueError("a NumPy file cannot hold a text that ends in a zero byte")
    size = max(map(len, texts), default=0)
    return f"|S{size}", b"".join(text.ljust(size, b"\0") for text in texts)
