"""What may be asked of an output's values. A matcher gives None if they are as wanted, else what is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from composer.checks.npy import read_npy
from composer.checks.tensors import Scalar, Tensor, Values, flat, place, rounded

if TYPE_CHECKING:
    from composer.recipe import AllClose, ArgMax, Sum

Matcher = Callable[[Any, Tensor, Path], str | None]


TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "FP16": (1e-3, 1e-5),
    "BF16": (1e-2, 1e-3),
    "FP32": (1e-5, 1e-8),
    "FP64": (1e-5, 1e-8),
}
"""Relative and absolute tolerance by datatype, where a check gives none. All others are exact."""

VALUE_MATCHERS: Final = ("equals", "allclose", "argmax", "range", "sum")
"""Those that say what the values are. That they are finite does not."""


def _equals(wanted: Values, tensor: Tensor, base: Path) -> str | None:
    expected = [rounded(value, tensor.datatype) for value in flat(wanted)]
    return _compare(expected, tensor, lambda want, got: bool(want == got))


def _allclose(wanted: AllClose, tensor: Tensor, base: Path) -> str | None:
    expected = flat(wanted.values) if wanted.values is not None else _golden(base, wanted)
    rtol, atol = TOLERANCES.get(tensor.datatype, (0.0, 0.0))
    rtol = rtol if wanted.rtol is None else wanted.rtol
    atol = atol if wanted.atol is None else wanted.atol

    def close(want: Scalar, got: Scalar) -> bool:
        # Equal infinities are close; their difference is not a number.
        return bool(want == got or abs(got - want) <= atol + rtol * abs(want) < math.inf)

    return _compare(expected, tensor, close)


def _golden(base: Path, wanted: AllClose) -> Sequence[Scalar]:
    assert wanted.npy is not None
    return read_npy(base / wanted.npy).values


def _compare(expected: Sequence[Scalar], tensor: Tensor, same: Callable[[Scalar, Scalar], bool]) -> str | None:
    """The first value that differs and where, how many do, and by how much at most."""
    if len(expected) != len(tensor.values):
        return f"{len(expected)} values are expected, it has {len(tensor.values)}"
    pairs = list(zip(expected, tensor.values, strict=True))
    odd = [index for index, (want, got) in enumerate(pairs) if not _comparable(want, got) or not same(want, got)]
    if not odd:
        return None
    want, got = pairs[odd[0]]
    worst = max((abs(got - want) for want, got in pairs if _measurable(want, got)), default=None)
    error = "" if worst is None else f", max abs error {worst:.6g}"
    where = place(odd[0], tensor.shape)
    return f"at {where} {want!r} is expected, it is {got!r} ({len(odd)} of {len(pairs)} differ{error})"


def _comparable(want: Scalar, got: Scalar) -> bool:
    return isinstance(want, str) == isinstance(got, str)


def _measurable(want: Scalar, got: Scalar) -> bool:
    numbers = isinstance(want, (int, float)) and isinstance(got, (int, float))
    return numbers and math.isfinite(want) and math.isfinite(got)


def _argmax(wanted: ArgMax, tensor: Tensor, base: Path) -> str | None:
    expected = flat(wanted.equals)
    found = [_peak(row) for row in _rows(tensor, wanted.axis)]
    if len(expected) != len(found):
        return f"{len(expected)} positions are expected, along axis {wanted.axis} there are {len(found)}"
    for index, (want, got) in enumerate(zip(expected, found, strict=True)):
        if want != got:
            return f"row {index} along axis {wanted.axis} is largest at {got}, not at {want}"
    return None


def _peak(row: Sequence[Scalar]) -> int:
    # NaN, which does not equal itself, counts as the largest, as in NumPy.
    return max(range(len(row)), key=lambda at: (row[at] != row[at], row[at]), default=-1)


def _rows(tensor: Tensor, axis: int) -> Iterator[Sequence[Scalar]]:
    """The values along an axis, one row for each place in the others. Raises `ValueError` for no such axis."""
    if not -len(tensor.shape) <= axis < len(tensor.shape):
        raise ValueError(f"there is no axis {axis} in the shape {list(tensor.shape)}")
    axis %= len(tensor.shape)
    size, stride = tensor.shape[axis], math.prod(tensor.shape[axis + 1 :])
    for outer in range(0, len(tensor.values), size * stride or 1):
        for inner in range(stride):
            yield tensor.values[outer + inner : outer + size * stride : stride]


def _finite(wanted: bool, tensor: Tensor, base: Path) -> str | None:
    if not wanted:
        return None
    return _first(tensor, lambda value: math.isfinite(value), "a finite number is expected")


def _range(wanted: tuple[float, float], tensor: Tensor, base: Path) -> str | None:
    low, high = wanted
    return _first(tensor, lambda value: low <= value <= high, f"a value from {low:g} to {high:g} is expected")


def _first(tensor: Tensor, holds: Callable[[Scalar], bool], expected: str) -> str | None:
    odd = [index for index, value in enumerate(tensor.values) if isinstance(value, str) or not holds(value)]
    if not odd:
        return None
    where, count = place(odd[0], tensor.shape), len(odd)
    return f"at {where} {expected}, it is {tensor.values[odd[0]]!r} ({count} of {len(tensor.values)} are not)"


def _sum(wanted: Sum, tensor: Tensor, base: Path) -> str | None:
    rtol, atol = TOLERANCES.get(tensor.datatype, (0.0, 0.0))
    atol = atol if wanted.atol is None else wanted.atol
    for index, row in enumerate(_rows(tensor, wanted.axis)):
        total = math.fsum(row)
        if not abs(total - wanted.value) <= atol + rtol * abs(wanted.value):
            return f"row {index} along axis {wanted.axis} sums to {total:.9g}, not to {wanted.value:g}"
    return None


MATCHERS: Final[Mapping[str, Matcher]] = {
    "equals": _equals,
    "allclose": _allclose,
    "argmax": _argmax,
    "finite": _finite,
    "range": _range,
    "sum": _sum,
}
"""Every matcher, by its key in a recipe's `expect.outputs`."""
