"""The tensors that a check sends: written out, filled, drawn, or taken from a file."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from composer.checks.inference import pcg64
from composer.checks.inference.goldens import tensor_sha256
from composer.checks.inference.npy import read_npy
from composer.errors import CheckFailed, NotFound
from composer.protocol.tensors import EXACT_TEXT, Scalar, Tensor, flat, rounded_all, size_of, unpack

if TYPE_CHECKING:
    from composer.recipe_checks import TensorSpec

_HIGH: Final = {"BOOL": 2, "INT": 128, "FP": 1.0, "BF": 1.0}
"""What drawn values are less than, where the recipe does not say: whole numbers that INT8 has, and [0, 1)."""


def make_tensor(spec: TensorSpec, base: Path) -> Tensor:
    """The tensor that a recipe describes. Raises `NotFound`, `Corrupt`, `CheckFailed`."""
    source = next(make for name, make in SOURCES.items() if getattr(spec, name) is not None)
    tensor = source(spec, base)
    if len(tensor.values) != math.prod(tensor.shape):
        raise CheckFailed(f"{len(tensor.values)} values do not fill the shape {list(tensor.shape)}")
    return tensor


def drawn(spec: TensorSpec, tensor: Tensor) -> dict[str, Any]:
    """What is to be told of an input that was drawn, so that another machine can repeat it; nothing of others."""
    if spec.random is None:
        return {}
    return {"generator": "PCG64", "seed": spec.random.seed, "sha256": tensor_sha256(tensor)}


def _shaped(spec: TensorSpec, values: Sequence[Scalar]) -> Tensor:
    assert spec.dtype is not None
    assert spec.shape is not None
    return Tensor(datatype=spec.dtype, shape=tuple(spec.shape), values=values)


# -- written -----------------------------------------------------------------------------------


def _data(spec: TensorSpec, base: Path) -> Tensor:
    return _shaped(spec, flat(spec.data))


def _fill(spec: TensorSpec, base: Path) -> Tensor:
    return _shaped(spec, [spec.fill] * math.prod(spec.shape or ()))


def _b64(spec: TensorSpec, base: Path) -> Tensor:
    assert spec.b64 is not None
    return _raw(spec, b64decode(spec.b64), "b64")


# -- drawn -------------------------------------------------------------------------------------


def _random(spec: TensorSpec, base: Path) -> Tensor:
    """`low + (high - low) * u` for u of PCG64 in turn, rounded down for whole numbers."""
    assert spec.random is not None
    assert spec.dtype is not None
    family = spec.dtype.removeprefix("U").rstrip("0123456789")
    low = spec.random.low or 0
    high = _HIGH[family] if spec.random.high is None else spec.random.high
    numbers = islice(pcg64.uniform(spec.random.seed), math.prod(spec.shape or ()))
    return _shaped(spec, _cast([low + (high - low) * number for number in numbers], spec.dtype, family))


def _cast(values: Sequence[float], datatype: str, family: str) -> Sequence[Scalar]:
    if family == "BOOL":
        return [value >= 1 for value in values]
    return [math.floor(value) for value in values] if family == "INT" else rounded_all(values, datatype)


# -- taken from a file -------------------------------------------------------------------------


def _npy(spec: TensorSpec, base: Path) -> Tensor:
    assert spec.npy is not None
    tensor = read_npy(base / spec.npy)
    if spec.dtype == "BF16" and tensor.datatype == "FP32":
        # NumPy has no BF16: a file of it holds FP32, of which the upper half is sent.
        tensor = Tensor(datatype="BF16", shape=tensor.shape, values=rounded_all(tensor.values, "BF16"))
    for name, wanted, found in (("dtype", spec.dtype, tensor.datatype), ("shape", spec.shape, tensor.shape)):
        if wanted is not None and wanted != found:
            raise CheckFailed(f"{spec.npy} has the {name} {_said(found)}, the check says {_said(wanted)}")
    return tensor


def _said(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _file(spec: TensorSpec, base: Path) -> Tensor:
    assert spec.file is not None
    return _raw(spec, _read(base / spec.file), str(spec.file))


def _raw(spec: TensorSpec, content: bytes, name: str) -> Tensor:
    """Little-endian values one after another. Of BYTES it is the one text there is: an image, say."""
    assert spec.dtype is not None
    shape = spec.shape or ()
    count, size = math.prod(shape), size_of(spec.dtype)
    if size is None:
        if count != 1:
            hint = "data: [a, b], or json: FILE"
            raise CheckFailed(f"{name} is one text, the shape {list(shape)} has {count}", hint=hint)
        return _shaped(spec, [content.decode(errors=EXACT_TEXT)])
    if len(content) != count * size:
        wanted = f"{spec.dtype} {list(shape)} takes {count * size}"
        raise CheckFailed(f"{name} has {len(content)} bytes, {wanted}", hint=_fitting(len(content), size, shape))
    return _shaped(spec, unpack(spec.dtype, content))


def _fitting(length: int, size: int, shape: Sequence[int]) -> str | None:
    """The shape that would fit, with another first dimension."""
    row = size * math.prod(shape[1:])
    return f"shape: {[length // row, *shape[1:]]}" if shape and row and length % row == 0 else None


def _json(spec: TensorSpec, base: Path) -> Tensor:
    assert spec.json_ is not None
    assert spec.dtype is not None
    path = base / spec.json_
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckFailed(f"{spec.json_} is not JSON: {error}", hint=f"python3 -m json.tool {path}") from error
    values = flat(point(document, spec.pointer or "", str(spec.json_)))
    odd = next((value for value in values if not _fits(value, spec.dtype)), None)
    if odd is not None or None in values:
        raise CheckFailed(f"{spec.json_}{spec.pointer or ''}: {spec.dtype} cannot hold {json.dumps(odd)[:80]}")
    return _shaped(spec, rounded_all(values, spec.dtype))


def _fits(value: object, datatype: str) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL" or isinstance(value, bool):
        return datatype == "BOOL" and isinstance(value, bool)
    return isinstance(value, int if "INT" in datatype else int | float)


def point(document: object, pointer: str, name: str) -> object:
    """What a JSON pointer (RFC 6901) leads to. Raises `NotFound` with how far it leads and what is there."""
    value = document
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for at, part in enumerate(parts):
        try:
            value = _step(value, part)
        except (KeyError, IndexError):
            there = "/".join(pointer.split("/")[: at + 1])
            raise NotFound(f"{name} has no {pointer}: {_there(value, there)}", hint=_near(value, there)) from None
    return value


def _step(value: object, part: str) -> object:
    if isinstance(value, dict):
        return value[part]
    # A position has no sign and no leading zero; anything else is no position.
    if isinstance(value, list) and (part == "0" or (part.isascii() and part.isdigit() and part[0] != "0")):
        return value[int(part)]
    raise KeyError(part)


def _there(value: object, place: str) -> str:
    where = place or "the whole file"
    if isinstance(value, list):
        return f"{where} is a list of {len(value)}"
    if isinstance(value, dict):
        return f"{where} has {', '.join(list(value)[:8]) or 'nothing'}"
    return f"{where} is {json.dumps(value)[:40]}"


def _near(value: object, place: str) -> str | None:
    keys = list(value) if isinstance(value, dict) else ["0"] if isinstance(value, list) and value else []
    return f"pointer: {place}/{keys[0]}" if keys else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path.parent}") from error


SOURCES: Final[Mapping[str, Callable[[TensorSpec, Path], Tensor]]] = {
    "data": _data,
    "fill": _fill,
    "random": _random,
    "npy": _npy,
    "file": _file,
    "b64": _b64,
    "json_": _json,
}
"""Where a tensor's values come from, by the recipe's keys."""
