"""The tensors that a check sends: written out, filled, drawn, or taken from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.checks import pcg64
from composer.checks.npy import read_npy
from composer.checks.tensors import Scalar, Tensor, flat, rounded
from composer.errors import CheckFailed

if TYPE_CHECKING:
    from composer.recipe import TensorSpec

_HIGH: Final = {"BOOL": 2, "INT": 128, "FP": 1.0, "BF": 1.0}
"""What drawn values are less than, where the recipe does not say: whole numbers that INT8 has, and [0, 1)."""


def make_tensor(spec: TensorSpec, base: Path) -> Tensor:
    """The tensor that a recipe describes. Raises `NotFound`, `Corrupt`, `CheckFailed`."""
    name = next(name for name in SOURCES if getattr(spec, name) is not None)
    tensor = SOURCES[name](spec, base)
    if len(tensor.values) != math.prod(tensor.shape):
        raise CheckFailed(f"{len(tensor.values)} values do not fill the shape {list(tensor.shape)}")
    return tensor


def _shaped(spec: TensorSpec, values: list[Scalar]) -> Tensor:
    assert spec.dtype is not None
    assert spec.shape is not None
    return Tensor(datatype=spec.dtype, shape=tuple(spec.shape), values=values)


def _data(spec: TensorSpec, base: Path) -> Tensor:
    return _shaped(spec, flat(spec.data))


def _fill(spec: TensorSpec, base: Path) -> Tensor:
    return _shaped(spec, [spec.fill] * math.prod(spec.shape or ()))


def _npy(spec: TensorSpec, base: Path) -> Tensor:
    assert spec.npy is not None
    tensor = read_npy(base / spec.npy)
    for name, wanted, found in (("dtype", spec.dtype, tensor.datatype), ("shape", spec.shape, tensor.shape)):
        if wanted is not None and wanted != found:
            raise CheckFailed(f"{spec.npy} has the {name} {found}, the check says {wanted}")
    return tensor


def _random(spec: TensorSpec, base: Path) -> Tensor:
    """`low + (high - low) * u` for u of PCG64 in turn, rounded down for whole numbers."""
    assert spec.random is not None
    assert spec.dtype is not None
    family = spec.dtype.removeprefix("U").rstrip("0123456789")
    low = spec.random.low or 0
    high = _HIGH[family] if spec.random.high is None else spec.random.high
    numbers = pcg64.uniform(spec.random.seed)
    drawn = [low + (high - low) * next(numbers) for _ in range(math.prod(spec.shape or ()))]
    return _shaped(spec, [_cast(value, spec.dtype, family) for value in drawn])


def _cast(value: float, datatype: str, family: str) -> Scalar:
    if family == "BOOL":
        return value >= 1
    return math.floor(value) if family == "INT" else rounded(value, datatype)


SOURCES: Final[Mapping[str, Callable[[TensorSpec, Path], Tensor]]] = {
    "data": _data,
    "fill": _fill,
    "random": _random,
    "npy": _npy,
}
"""Where a tensor's values come from, by the recipe's keys."""
