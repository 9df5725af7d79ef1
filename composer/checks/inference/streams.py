"""Answers of decoupled models: any number of responses to one request, on a stream that must come to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from composer.checks.inference.judging import ContextOf, Fault, Judged, Promise, judge_refusal, judge_response, prefixed
from composer.checks.inference.ways import Answer
from composer.protocol.grpc import FINAL
from composer.protocol.messages import Refused, Response

if TYPE_CHECKING:
    from composer.recipe_checks import Expect

_SHOWN: Final = 3


def most(expected: Expect) -> int | None:
    """How many responses there may be, if that is limited."""
    return expected.responses.max if expected.responses else None


def judge_stream(answers: Sequence[Answer], promised: Promise, expected: Expect, context_of: ContextOf) -> Judged:
    """What is wrong with the answers of one stream. Raises what matchers raise."""
    refused = next((answer for answer in answers if isinstance(answer, Refused)), None)
    if refused is not None:
        return Judged(faults=judge_refusal(refused, expected.status.error if expected.status else None))
    if expected.status:
        return Judged(faults=[Fault(message=f"HTTP {expected.status.error.code} is expected, it is 200")])
    responses = with_outputs(answers)
    singly = [_judge_one(at, response, promised, expected, context_of) for at, response in enumerate(responses)]
    return Judged(
        faults=[*_as_a_whole(answers, responses, expected), *_numbered(singly)],
        outputs=singly[-1].outputs if singly else {},
    )


def _judge_one(at: int, response: Response, promised: Promise, expected: Expect, context_of: ContextOf) -> Judged:
    """One response by what is expected of all, and by what is expected of this one."""
    everywhere = judge_response(response, promised, expected.outputs, context_of)
    singly = expected.responses.outputs if expected.responses else ()
    if at >= len(singly):
        return everywhere
    here = judge_response(response, promised, singly[at], context_of)
    return Judged(
        faults=list(dict.fromkeys([*everywhere.faults, *here.faults])), outputs=everywhere.outputs | here.outputs
    )


def with_outputs(answers: Sequence[Answer]) -> list[Response]:
    """The responses that say something: the last one may only say that it is."""
    return [answer for answer in answers if isinstance(answer, Response) and answer.outputs]


def _numbered(singly: Sequence[Judged]) -> Iterator[Fault]:
    """The faults of single responses, with the number of the response in front; of the first few that have any."""
    faulty = [(number, judged) for number, judged in enumerate(singly, 1) if judged.faults]
    for number, judged in faulty[:_SHOWN]:
        for fault in judged.faults:
            yield prefixed(f"response {number}: ", fault)
    if len(faulty) > _SHOWN:
        yield Fault(message=f"{len(faulty) - _SHOWN} more responses are not as expected")


def _as_a_whole(answers: Sequence[Answer], responses: Sequence[Response], expected: Expect) -> Iterator[Fault]:
    wanted = expected.responses
    least, largest = (wanted.min, wanted.max) if wanted else (None, None)
    count = len(responses)
    if least is None and largest is None and not (wanted and wanted.outputs) and not count:
        yield Fault(message="the stream ended without a response", hint="responses: {min: 0, max: 0}")
    if least is not None and count < least:
        yield Fault(message=f"at least {least} responses are expected, {count} came")
    if largest is not None and count > largest:
        yield Fault(message=f"at most {largest} responses are expected, more came")
    if wanted and wanted.outputs and count != len(wanted.outputs):
        yield Fault(message=f"{len(wanted.outputs)} responses are expected, {count} came")
    if wanted and wanted.final_flag is not None and wanted.final_flag != _is_final(answers):
        has = "does not say that it is the last" if wanted.final_flag else "says that it is the last"
        yield Fault(message=f"the last response {has} ({FINAL})")


def _is_final(answers: Sequence[Answer]) -> bool:
    return bool(answers) and isinstance(answers[-1], Response) and bool(answers[-1].parameters.get(FINAL))
