"""What is wrong with an answer, judged by the model's configuration and by what the recipe expects.

Triton does not check what a Python model returns, so that is done here, for every output: that it is there, its
datatype, its shape, and that its bytes are as many as both take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from composer.checks.inference.matchers import Context, asked, match
from composer.protocol.messages import Refused, Request, Response
from composer.protocol.tensors import Tensor

if TYPE_CHECKING:
    from composer.recipe_checks import OutputExpect, Refusal

_TYPES: Final = {"TYPE_STRING": "BYTES"}
"""Datatypes that config.pbtxt spells otherwise than the protocol, but for the prefix."""


UNANSWERED: Final = "unanswered"
"""The kind of a fault: no answer came, though the server counts one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong with an answer, and what to do about it where that is known.

    `kind` is what makes it the same as another one, where the words hold what was measured.
    """

    message: str
    hint: str = ""
    kind: str = ""


def prefixed(prefix: str, fault: Fault) -> Fault:
    """The fault with where it is in front of its message."""
    return replace(fault, message=prefix + fault.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of an answer: all that is wrong with it, and figures of each output, as JSON values."""

    faults: Sequence[Fault] = ()
    outputs: dict[str, Mapping[str, Any]] = field(default_factory=dict)


ContextOf = Callable[[str, Response], Context]
"""What matchers are told beside a tensor: made from the output's name and the answer that it is in."""


# -- what the model's configuration promises ----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What an answer must have: the outputs of the model's configuration by name, and those of them that are asked for.

    `batch` is the first dimension of all of them, None where it is not known or there is none. `batched` says whether
    shapes have one more dimension than the configuration says.
    """

    declared: Mapping[str, Mapping[str, Any]]
    wanted: Sequence[str]
    batched: bool = False
    batch: int | None = None

    @property
    def datatypes(self) -> dict[str, str]:
        """The datatype of each output that is asked for, where the configuration has it."""
        return {name: _datatype(self.declared[name]) for name in self.wanted if name in self.declared}


def promise(config: Mapping[str, Any], request: Request) -> Promise:
    """What the configuration promises for a request."""
    declared = {str(output["name"]): output for output in config.get("output") or ()}
    batched = int(config.get("max_batch_size") or 0) > 0
    return Promise(
        declared=declared,
        wanted=tuple(request.outputs) or tuple(declared),
        batched=batched,
        batch=_batch(request) if batched and not is_decoupled(config) else None,
    )


def is_decoupled(config: Mapping[str, Any]) -> bool:
    """Whether the model gives any number of responses to a request."""
    return bool((config.get("model_transaction_policy") or {}).get("decoupled"))


def _batch(request: Request) -> int | None:
    sizes = {tensor.shape[0] for tensor in request.inputs.values() if tensor.shape}
    return sizes.pop() if len(sizes) == 1 else None


def _datatype(output: Mapping[str, Any]) -> str:
    name = str(output["data_type"])
    return _TYPES.get(name, name.removeprefix("TYPE_"))


def _dims(output: Mapping[str, Any], promised: Promise) -> list[int]:
    """The shape of an output in an answer: with the batch in front, where the model has one."""
    dims = [int(size) for size in output["dims"]]
    return [-1, *dims] if promised.batched else dims


# -- judging ------------------------------------------------------------------------------------


def judge_response(
    response: Response, promised: Promise, expected: Mapping[str, OutputExpect], context_of: ContextOf
) -> Judged:
    """What is wrong with one answer. Raises what matchers raise."""
    faults: list[Fault] = []
    figures: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys([*promised.wanted, *expected]):
        if name not in response.outputs:
            there = ", ".join(sorted(response.outputs)) or "no outputs"
            faults.append(Fault(message=f"output {name} is missing: the answer has {there}"))
            continue
        judged = _judge_output(name, response, promised, expected.get(name), context_of)
        faults += [Fault(message=f"output {name}: {fault.message}", hint=fault.hint) for fault in judged.faults]
        figures |= judged.outputs
    return Judged(faults=faults, outputs=figures)


def _judge_output(
    name: str, response: Response, promised: Promise, expected: OutputExpect | None, context_of: ContextOf
) -> Judged:
    tensor = response.outputs[name]
    figures: dict[str, Any] = {"datatype": tensor.datatype, "shape": list(tensor.shape)}
    faults = [Fault(message=fault) for fault in _form(name, response, promised, expected)]
    if not faults and expected is not None:
        context = context_of(name, response)
        for key, wanted in asked(expected):
            finding = match(key, wanted, tensor, context)
            figures = {**finding.figures, **figures}
            faults += [Fault(message=f"{key}: {finding.fault}", hint=finding.hint)] if finding.fault else []
    return Judged(faults=faults, outputs={name: figures})


def _form(name: str, response: Response, promised: Promise, expected: OutputExpect | None) -> Iterator[str]:
    """Where an output is not of the form that was promised or is expected, or contradicts itself."""
    if name in response.odd:
        yield response.odd[name]
    tensor = response.outputs[name]
    if name not in promised.declared:
        yield "the model's configuration has no such output"
    else:
        yield from _as_promised(tensor, promised.declared[name], promised)
    if expected is not None:
        yield from _as_expected(tensor, expected)


def _as_promised(tensor: Tensor, output: Mapping[str, Any], promised: Promise) -> Iterator[str]:
    if tensor.datatype != _datatype(output):
        yield f"its datatype is {tensor.datatype}, the model's configuration says {_datatype(output)}"
    dims = _dims(output, promised)
    if len(dims) != len(tensor.shape) or any(
        want not in (-1, got) for want, got in zip(dims, tensor.shape, strict=True)
    ):
        yield f"its shape is {list(tensor.shape)}, the model's configuration says {dims}"
    elif promised.batch is not None and tensor.shape[0] != promised.batch:
        yield f"its shape is {list(tensor.shape)}, a batch of {promised.batch} was asked for"


def _as_expected(tensor: Tensor, expected: OutputExpect) -> Iterator[str]:
    if expected.dtype is not None and tensor.datatype != expected.dtype:
        yield f"its datatype is {tensor.datatype}, {expected.dtype} is expected"
    if expected.shape is not None and tensor.shape != tuple(expected.shape):
        yield f"its shape is {list(tensor.shape)}, {list(expected.shape)} is expected"


# -- refusals -----------------------------------------------------------------------------------

_ADVICE: Final[Sequence[tuple[str, str, str]]] = (
    (
        "decoupled transaction policy",
        "the model is decoupled: it answers on streams only",
        "mode: stream",
    ),
    (
        "must specify a non-zero or non-empty correlation ID",
        "",
        "sequence: {}",
    ),
    (
        "Stub process",
        "",
        "the Python process that ran the model has ended: look for what it wrote last in the server's log",
    ),
)
"""What Triton says, what that means where its own words do not tell, and what to do."""


def judge_refusal(refused: Refused, wanted: Refusal | None) -> list[Fault]:
    """What is wrong with a refusal: that it is one, or that it is not the one that is wanted."""
    if wanted is None:
        return [_unwanted(refused)]
    # On a stream Triton gives its words only.
    if refused.code not in (wanted.code, None):
        return [Fault(message=f"HTTP {wanted.code} is expected, it is {refused.code}: {refused.message}")]
    if wanted.match and not re.search(wanted.match, refused.message):
        return [Fault(message=f"the refusal does not match {wanted.match!r}: {refused.message}")]
    return []


def _unwanted(refused: Refused) -> Fault:
    known = ((words, hint) for sign, words, hint in _ADVICE if sign in refused.message)
    words, hint = next(known, ("", ""))
    code = f" with {refused.code}" if refused.code else ""
    return Fault(message=words or f"the server refuses{code}: {refused.message}", hint=hint)
