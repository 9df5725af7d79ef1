"""What may be asked of an output's values, and what was found: a fault in words, or none, and figures either way."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from composer.checks.inference.goldens import Made, Recorder, read_golden
from composer.checks.inference.npy import read_npy
from composer.errors import CheckFailed
from composer.protocol.tensors import Scalar, Tensor, Values, flat, place, rounded, rounded_all

if TYPE_CHECKING:
    from composer.recipe_checks import AllClose, ArgMax, Golden, OutputExpect, SameAs, Sum, TopK

TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "FP16": (1e-3, 1e-5),
    "BF16": (1e-2, 1e-3),
    "FP32": (1e-5, 1e-8),
    "FP64": (1e-5, 1e-8),
}
"""Relative and absolute tolerance by datatype, where a check gives none. All others are exact."""

_SHOWN: Final = 16
"""How many positions the figures hold at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a matcher found. `fault` says what is not as wanted, `hint` what to do about it; None where all is well.

    `figures` are JSON values, and there whether it is well or not. Where values were compared: `max_abs` and `max_rel`
    (the largest errors, the second over expected values other than 0; None where none can be measured), `differ` of
    `count`, and `first`, the place of the first that differs.
    """

    fault: str | None = None
    hint: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What matchers need beside a tensor.

    Paths start from `base`. `made` is what the answer was given by and to. `ask` gets the output of another model for
    the same inputs; it raises as any asking does. With a `recorder` goldens are not compared but kept.
    """

    base: Path = Path()
    made: Made = field(default_factory=Made)
    ask: Callable[[SameAs], Tensor] | None = None
    allow_stale: bool = False
    recorder: Recorder | None = None


Matcher = Callable[[Any, Tensor, Context], Finding]


def match(name: str, wanted: object, tensor: Tensor, context: Context) -> Finding:
    """Hold a tensor against one matcher. Raises `NotFound`, `Corrupt`, `CheckFailed` for an axis that is not there."""
    return _MATCHERS[name](wanted, tensor, context)


def asked(expected: OutputExpect) -> Iterator[tuple[str, Any]]:
    """The matchers that an expectation has, with what they want."""
    return ((name, wanted) for name in _MATCHERS if (wanted := getattr(expected, name)) is not None)


# -- values beside values ----------------------------------------------------------------------


def _equals(wanted: object, tensor: Tensor, context: Context) -> Finding:
    return _compare_written(wanted, tensor, Tolerance())


def _allclose(wanted: AllClose, tensor: Tensor, context: Context) -> Finding:
    tolerance = Tolerance.of(
        tensor.datatype,
        wanted,
        stat=wanted.stat,
        max_mismatch=wanted.max_mismatch,
        nan_equal=wanted.nan_equal,
    )
    if wanted.npy is None:
        return _compare_written(wanted.values, tensor, tolerance)
    return _compare_tensors(read_npy(context.base / wanted.npy), str(wanted.npy), tensor, tolerance)


def _golden(wanted: Golden, tensor: Tensor, context: Context) -> Finding:
    tolerance = Tolerance.of(tensor.datatype, wanted)
    if context.recorder is not None:
        return _recorded(context.recorder, wanted.file, tensor, context.made, tolerance)
    golden = read_golden(context.base / wanted.file, context.made, allow_stale=context.allow_stale)
    if golden.fault is not None:
        return Finding(fault=golden.fault, hint=golden.hint)
    return _compare_tensors(golden.tensor, str(wanted.file), tensor, tolerance)


def _recorded(recorder: Recorder, file: Path, tensor: Tensor, made: Made, tolerance: Tolerance) -> Finding:
    """Keep the first answer. Those after it, over another protocol or again, must be as close to it as is wanted."""
    fault = recorder.keep(file, tensor, made)
    kept = recorder.kept(file)
    if fault is None and kept is not None and kept is not tensor:
        again = _compare_tensors(kept, "the one before", tensor, tolerance).fault
        fault = f"it is not the same each time, so that it cannot be recorded in {file}: {again}" if again else None
    return Finding(fault=fault, figures={"recorded": str(file)})


def _same_as(wanted: SameAs, tensor: Tensor, context: Context) -> Finding:
    assert context.ask is not None
    other = context.ask(wanted)
    name = f"{wanted.model} version {wanted.version}" if wanted.version else wanted.model
    if other.datatype != tensor.datatype:
        return Finding(fault=f"its datatype is {tensor.datatype}, that of {name} is {other.datatype}")
    return _compare_tensors(other, name, tensor, Tolerance.of(tensor.datatype, wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far values may be from those expected; by default not at all."""

    rtol: float = 0.0
    atol: float = 0.0
    stat: str = "elemwise"
    max_mismatch: int = 0
    nan_equal: bool = False

    @classmethod
    def of(cls, datatype: str, wanted: AllClose | Golden | SameAs, **more: Any) -> Tolerance:  # noqa: ANN401
        """What a matcher says, or else what the datatype allows."""
        rtol, atol = TOLERANCES.get(datatype, (0.0, 0.0))
        given = (rtol if wanted.rtol is None else wanted.rtol, atol if wanted.atol is None else wanted.atol)
        return cls(rtol=given[0], atol=given[1], **more)


def _compare_written(wanted: Values, tensor: Tensor, tolerance: Tolerance) -> Finding:
    """Values of a recipe: flat, or nested as the tensor is."""
    shape = _nesting(wanted)
    if len(shape) > 1 and shape != list(tensor.shape):
        return Finding(fault=f"its shape is {list(tensor.shape)}, the values that are expected have {shape}")
    return _compare(flat(wanted), tensor, tolerance)


def _nesting(values: Values) -> list[int]:
    return [len(values), *(_nesting(values[0]) if values else [])] if isinstance(values, list | tuple) else []


def _compare_tensors(expected: Tensor, name: str, tensor: Tensor, tolerance: Tolerance) -> Finding:
    if tuple(expected.shape) != tuple(tensor.shape):
        return Finding(fault=f"its shape is {list(tensor.shape)}, that of {name} is {list(expected.shape)}")
    return _compare(expected.values, tensor, tolerance)


def _compare(wanted: Sequence[Scalar], tensor: Tensor, tolerance: Tolerance) -> Finding:
    """Value by value. A number beside a text, and NaN beside anything, is different however much is allowed."""
    found = tensor.values
    if len(wanted) != len(found):
        return Finding(fault=f"{len(wanted)} values are expected, it has {len(found)}")
    if _numeric(wanted) and _numeric(found):
        return _compare_numbers(rounded_all(wanted, tensor.datatype), tensor, tolerance)
    odd = [at for at, (want, got) in enumerate(zip(wanted, found, strict=True)) if want != got]
    return _finding(wanted, tensor, odd, {"differ": len(odd), "count": len(found)}, "")


def _numeric(values: Sequence[Scalar]) -> bool:
    return set(map(type, values)) <= {int, float, bool}


def _compare_numbers(wanted: Sequence[Scalar], tensor: Tensor, tolerance: Tolerance) -> Finding:
    found = tensor.values
    if _same(wanted, found):
        return Finding(figures=_NO_ERROR | {"max_rel": 0.0 if any(wanted) else None, "count": len(found)})
    errors = [abs(got - want) for want, got in zip(wanted, found, strict=True)]
    odd = _outside(wanted, found, errors, tolerance)
    finite = [error for error in errors if error < math.inf]
    relative = [e / abs(want) for want, e in zip(wanted, errors, strict=True) if want and e < math.inf]
    figures = {
        "max_abs": max(finite, default=None),
        "max_rel": max(relative, default=None),
        "differ": len(odd),
        "count": len(errors),
    }
    if tolerance.stat != "elemwise":
        return _judge_stat(wanted, tensor, odd, (finite, relative), figures, tolerance)
    if len(odd) <= tolerance.max_mismatch:
        return Finding(figures=figures | _first_of(odd, tensor))
    return _finding(wanted, tensor, odd, figures, _errors_in_words(figures))


_NO_ERROR: Final = {"max_abs": 0.0, "max_rel": None, "differ": 0}


def _same(wanted: Sequence[Scalar], found: Sequence[Scalar]) -> bool:
    """Whether they are the same, and none is NaN, which lists take for equal to itself. Most answers that are well."""
    return list(wanted) == list(found) and not math.isnan(sum(found))


def _outside(
    wanted: Sequence[Scalar], found: Sequence[Scalar], errors: Sequence[float], tolerance: Tolerance
) -> list[int]:
    """Which values are further away than allowed."""
    rtol, atol = tolerance.rtol, tolerance.atol
    # The difference of equal infinities is not a number, and what an infinity allows is infinite: these come out as
    # candidates, and are looked at one by one.
    candidates = [
        at
        for at, (want, error) in enumerate(zip(wanted, errors, strict=True))
        if not error <= atol + rtol * abs(want) < math.inf
    ]
    both_nan = tolerance.nan_equal
    return [
        at
        for at in candidates
        if wanted[at] != found[at] and not (both_nan and wanted[at] != wanted[at] and found[at] != found[at])
    ]


def _judge_stat(
    wanted: Sequence[Scalar],
    tensor: Tensor,
    odd: Sequence[int],
    errors: tuple[Sequence[float], Sequence[float]],
    figures: Mapping[str, Any],
    tolerance: Tolerance,
) -> Finding:
    """One figure of all errors, absolute or relative, within its tolerance: as polygraphy's `check_error_stat`."""
    unmeasured = [at for at in odd if not abs(tensor.values[at] - wanted[at]) < math.inf]
    if unmeasured:
        return _finding(wanted, tensor, unmeasured, figures, ", which no tolerance allows")
    absolute, relative = (_STATS[tolerance.stat](some) if some else 0.0 for some in errors)
    figures = {**figures, f"{tolerance.stat}_abs": absolute, f"{tolerance.stat}_rel": relative}
    if absolute <= tolerance.atol or (errors[1] and relative <= tolerance.rtol):
        return Finding(figures=figures)
    what = {"max": "largest", "mean": "mean", "median": "median"}[tolerance.stat]
    allowed = f"allowed are {tolerance.atol:g} or {tolerance.rtol:g}"
    fault = f"the {what} error is {absolute:.6g} absolute and {relative:.6g} relative, {allowed}"
    return Finding(fault=fault, figures=figures | _first_of(odd, tensor))


def _mean(errors: Sequence[float]) -> float:
    return math.fsum(errors) / len(errors)


def _median(errors: Sequence[float]) -> float:
    ordered, middle = sorted(errors), len(errors) // 2
    return ordered[middle] if len(errors) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


_STATS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {"max": max, "mean": _mean, "median": _median}


def _errors_in_words(figures: Mapping[str, Any]) -> str:
    if figures["max_abs"] is None:
        return ""
    relative = "" if figures["max_rel"] is None else f", max rel error {figures['max_rel']:.6g}"
    return f", max abs error {figures['max_abs']:.6g}{relative}"


def _first_of(odd: Sequence[int], tensor: Tensor) -> dict[str, Any]:
    return {"first": place(odd[0], tensor.shape)} if odd else {}


def _finding(
    wanted: Sequence[Scalar], tensor: Tensor, odd: Sequence[int], figures: Mapping[str, Any], errors: str
) -> Finding:
    """The first value that differs and where, how many do, and by how much at most."""
    if not odd:
        return Finding(figures=figures)
    want, got = (shown(values[odd[0]], tensor.datatype) for values in (wanted, tensor.values))
    fault = (
        f"at {place(odd[0], tensor.shape)} {want} is expected, it is {got} ({len(odd)} of {len(wanted)} differ{errors})"
    )
    return Finding(fault=fault, figures={**figures, **_first_of(odd, tensor)})


def shown(value: Scalar, datatype: str) -> str:
    """A value in as few digits as tell it from its neighbours in that datatype: 0.1, not 0.10000000149011612."""
    if isinstance(value, float) and math.isfinite(value):
        texts = (f"{value:.{digits}g}" for digits in range(1, 17))
        return next((text for text in texts if rounded(float(text), datatype) == value), repr(value))
    return repr(value)


# -- where values are largest ------------------------------------------------------------------


def _argmax(wanted: ArgMax, tensor: Tensor, context: Context) -> Finding:
    expected = flat(wanted.equals)
    found = [_peak(row) for row in _rows(tensor, wanted.axis)]
    figures = {"argmax": found[:_SHOWN]}
    if len(expected) != len(found):
        fault = f"{len(expected)} positions are expected, along axis {wanted.axis} there are {len(found)}"
        return Finding(fault=fault, figures=figures)
    for index, (want, got) in enumerate(zip(expected, found, strict=True)):
        if want != got:
            fault = f"row {index} along axis {wanted.axis} is largest at {got}, not at {want}"
            return Finding(fault=fault, figures=figures)
    return Finding(figures=figures)


def _peak(row: Sequence[Scalar]) -> int:
    return max(range(len(row)), key=lambda at: _weight(row[at]), default=-1)


def _weight(value: Scalar) -> tuple[bool, Scalar]:
    # NaN, which does not equal itself, counts as the largest, as in NumPy; among themselves all NaN are equal.
    return (True, 0) if value != value else (False, value)


def _topk(wanted: TopK, tensor: Tensor, context: Context) -> Finding:
    expected = flat(wanted.equals)
    rows = list(_rows(tensor, wanted.axis))
    if len(expected) != len(rows) * wanted.k:
        fault = f"{len(expected) // wanted.k} rows are expected, along axis {wanted.axis} there are {len(rows)}"
        return Finding(fault=fault)
    found = [heapq.nlargest(wanted.k, range(len(row)), key=lambda at: _weight(row[at])) for row in rows]
    figures = {"topk": found[:_SHOWN]}
    for index, (row, got) in enumerate(zip(rows, found, strict=True)):
        want = expected[index * wanted.k : (index + 1) * wanted.k]
        if not _as_large(row, want, got, in_order=wanted.order):
            order = "in this order" if wanted.order else "in any order"
            fault = f"row {index} along axis {wanted.axis} is largest at {got}, not at {want} ({order})"
            return Finding(fault=fault, figures=figures)
    return Finding(figures=figures)


def _as_large(row: Sequence[Scalar], want: Sequence[int], got: Sequence[int], *, in_order: bool) -> bool:
    """Whether the wanted positions hold what the largest hold: which of equal values comes first does not count."""
    if len(set(want)) < len(want) or any(at >= len(row) for at in want):
        return False
    weights = [[_weight(row[at]) for at in positions] for positions in (want, got)]
    return weights[0] == weights[1] if in_order else sorted(weights[0]) == sorted(weights[1])


def _rows(tensor: Tensor, axis: int) -> Iterator[Sequence[Scalar]]:
    """The values along an axis, one row for each place in the others. Raises `CheckFailed` for no such axis."""
    if not -len(tensor.shape) <= axis < len(tensor.shape):
        raise CheckFailed(f"there is no axis {axis} in the shape {list(tensor.shape)}", hint="axis: -1")
    axis %= len(tensor.shape)
    size, stride = tensor.shape[axis], math.prod(tensor.shape[axis + 1 :])
    for outer in range(0, len(tensor.values), size * stride or 1):
        for inner in range(stride):
            yield tensor.values[outer + inner : outer + size * stride : stride]


# -- properties --------------------------------------------------------------------------------


def _sum(wanted: Sum, tensor: Tensor, context: Context) -> Finding:
    rtol, atol = TOLERANCES.get(tensor.datatype, (0.0, 0.0))
    atol = atol if wanted.atol is None else wanted.atol
    totals = [math.fsum(row) for row in _rows(tensor, wanted.axis)]
    figures = {"sums": [total if math.isfinite(total) else str(total) for total in totals[:_SHOWN]]}
    for index, total in enumerate(totals):
        if not abs(total - wanted.value) <= atol + rtol * abs(wanted.value):
            fault = f"row {index} along axis {wanted.axis} sums to {total:.9g}, not to {wanted.value:g}"
            return Finding(fault=fault, figures=figures)
    return Finding(figures=figures)


def _finite(wanted: bool, tensor: Tensor, context: Context) -> Finding:
    if not wanted:
        return Finding()
    return _first(tensor, math.isfinite, "a finite number is expected")


def _range(wanted: tuple[float, float], tensor: Tensor, context: Context) -> Finding:
    low, high = wanted
    return _first(tensor, lambda value: low <= value <= high, f"a value from {low:g} to {high:g} is expected")


def _first(tensor: Tensor, holds: Callable[[Scalar], bool], expected: str) -> Finding:
    odd = [at for at, value in enumerate(tensor.values) if isinstance(value, str) or not holds(value)]
    if not odd:
        return Finding()
    where, count, got = place(odd[0], tensor.shape), len(odd), shown(tensor.values[odd[0]], tensor.datatype)
    fault = f"at {where} {expected}, it is {got} ({count} of {len(tensor.values)} are not)"
    return Finding(fault=fault, figures=_first_of(odd, tensor))


def _match(wanted: str, tensor: Tensor, context: Context) -> Finding:
    """Every text, the empty ones too."""
    if tensor.datatype != "BYTES":
        return Finding(fault=f"only texts are matched, its datatype is {tensor.datatype}")
    pattern = re.compile(wanted)
    return _matched(tensor, lambda value: pattern.search(str(value)) is not None, wanted)


def _matched(tensor: Tensor, holds: Callable[[Scalar], bool], wanted: str) -> Finding:
    odd = [at for at, value in enumerate(tensor.values) if not holds(value)]
    if not odd:
        return Finding()
    got = repr(tensor.values[odd[0]])
    got = got if len(got) <= 200 else f"{got[:200]}..."
    fault = f"at {place(odd[0], tensor.shape)} {got} does not match {wanted!r} ({len(odd)} of {len(tensor.values)})"
    return Finding(fault=fault, figures=_first_of(odd, tensor))


_MATCHERS: Final[Mapping[str, Matcher]] = {
    "equals": _equals,
    "allclose": _allclose,
    "argmax": _argmax,
    "topk": _topk,
    "sum": _sum,
    "range": _range,
    "match": _match,
    "golden": _golden,
    "same_as": _same_as,
    "finite": _finite,
}

MATCHERS: Final = tuple(_MATCHERS)
"""Every matcher, by its key in a recipe's `expect.outputs`."""
