"""Whether two ways of asking got the same answers, bit by bit; JSON's numbers count as what their datatype holds.

Triton writes numbers into JSON exactly, but what it reads from it as FP64 is up to 2 units in the last place away from
what was sent (seen on 2.51.0; FP32 and whole numbers are exact). So where a model is given FP64 as JSON, its answer may
be a little different: `INEXACT` is how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Final

from composer.checks.inference.streams import with_outputs
from composer.checks.inference.ways import Heard
from composer.protocol.messages import Response
from composer.protocol.tensors import Scalar, Tensor, pack, place, rounded_all

INEXACT: Final[Mapping[str, float]] = {"FP64": 1e-9, "FP32": 1e-5}
"""Relative differences that are let pass where one of the two models was given FP64 as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where two answers differ: in what, and what it is in the one and in the other."""

    where: str
    one: str
    other: str

    def told(self, one: str, other: str) -> str:
        """It in words, with a name for each of the two."""
        return f"{self.where} is {self.one} {one}, {self.other} {other}"


def disagreement(one: Sequence[Heard], other: Sequence[Heard], *, inexact: bool = False) -> Difference | None:
    """The first difference between two runs of the same requests, or None.

    `inexact` is whether the inputs of the two may differ as FP64 does that was sent as JSON.
    """
    if len(one) != len(other):
        return Difference(where="the number of requests that were answered", one=str(len(one)), other=str(len(other)))
    ours, theirs = ([with_outputs(heard.answers) for heard in run] for run in (one, other))
    for step, (left, right) in enumerate(zip(ours, theirs, strict=True), 1):
        name = f"step {step}: " if len(ours) > 1 else ""
        if len(left) != len(right):
            return Difference(where=f"{name}the number of responses", one=str(len(left)), other=str(len(right)))
        for number, (mine, yours) in enumerate(zip(left, right, strict=True), 1):
            spot = f"{name}response {number}, " if len(left) > 1 else name
            if found := _in_response(mine, yours, inexact):
                return Difference(where=spot + found.where, one=found.one, other=found.other)
    return None


def _in_response(one: Response, other: Response, inexact: bool) -> Difference | None:
    if set(one.outputs) != set(other.outputs):
        return Difference(where="the set of outputs", one=_names(one.outputs), other=_names(other.outputs))
    found = (_in_tensor(f"output {name}", tensor, other.outputs[name], inexact) for name, tensor in one.outputs.items())
    return next((difference for difference in found if difference), None)


def _names(outputs: Iterable[str]) -> str:
    return ", ".join(sorted(outputs))


def _in_tensor(name: str, one: Tensor, other: Tensor, inexact: bool) -> Difference | None:
    if (one.datatype, one.shape) != (other.datatype, other.shape):
        return Difference(where=name, one=_form(one), other=_form(other))
    if (packed := _packed(one)) is not None and packed == _packed(other):
        return None
    ours, theirs = _exact(one), _exact(other)
    odd = [at for at, (mine, yours) in enumerate(zip(ours, theirs, strict=True)) if mine != yours]
    if inexact and one.datatype in INEXACT:
        odd = [at for at in odd if not isclose(one.values[at], other.values[at], rel_tol=INEXACT[one.datatype])]
    if not odd:
        return None
    differ = f" ({len(odd)} of {len(ours)} differ)" if len(odd) > 1 else ""
    return Difference(where=f"{name} at {place(odd[0], one.shape)}", one=ours[odd[0]], other=theirs[odd[0]] + differ)


def _packed(tensor: Tensor) -> bytes | None:
    try:
        return pack(tensor)
    except ValueError:  # JSON may have anything
        return None


def _form(tensor: Tensor) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}"


def _exact(tensor: Tensor) -> list[str]:
    """The values so that they are the same texts if, and only if, they are the same numbers: also for -0 and NaN."""
    values: Sequence[Scalar] = tensor.values
    if "FP" in tensor.datatype or tensor.datatype == "BF16":
        values = rounded_all([float(value) for value in values], tensor.datatype)
    return [repr(value) for value in values]
