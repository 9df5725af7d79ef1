"""Inference requests whose answers are known. Only an answer proves that a model serves.

Each check is asked in several ways (see `ways`), which are judged alike and must agree with each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from composer.checks.inference.agreement import disagreement
from composer.checks.inference.case import Case, make_case
from composer.checks.inference.evidence import evidence_of
from composer.checks.inference.judging import Fault
from composer.checks.inference.playing import Played, ask_all, ask_once
from composer.checks.inference.sequences import in_turn
from composer.checks.inference.ways import GRPC, JSON, Answer, Asker, Choice, Way, choose
from composer.checks.report import Outcome, Result
from composer.checks.subject import Subject, timed
from composer.protocol.messages import UNREACHABLE, Request

if TYPE_CHECKING:
    from composer.recipe_checks import Check

VACUOUS: Final = "V001: it asserts nothing about values, only that an answer of the right form comes"
"""The warning for a check without a value matcher."""

_READ_INEXACTLY: Final = "encoding: [binary]: Triton reads FP64 from JSON with errors in the last place"


# -- for others ----------------------------------------------------------------------------------


def inference(subject: Subject) -> Iterator[Result]:
    """A result for each check of the recipe."""
    return (one_check(subject, check) for check in subject.validation.checks)


def one_check(subject: Subject, check: Check) -> Result:
    """Ask, in every way, until it is well or the tries are used up."""
    begun = subject.clock()
    for number in range(check.retry.count + 1):
        if number:
            time.sleep(check.retry.delay)
        result = timed(subject, check.id, "inference", lambda: _run(subject, check))
        if result.ok:
            break
    tries = f"; that was try {number + 1} of {check.retry.count + 1}" if number else ""
    return replace(result, message=result.message + tries, seconds=subject.clock() - begun)


def requests_of(subject: Subject, check: Check) -> Sequence[Request]:
    """The requests that a check comes to; each call gives a sequence a new ID.

    Raises `NoAnswer` for a model that the server does not know, and as `make_tensor`.
    """
    case = make_case(subject, check)
    return in_turn(check, case.requests, case.config)


def expected(subject: Subject, check: Check) -> Callable[[Answer], list[str]]:
    """What judges answers to the first request of a check: it gives all that is wrong with one.

    Raises as `requests_of`.
    """
    case = make_case(subject, check)
    return lambda answer: [fault.message for fault in case.judge(0, [answer]).faults]


# -- the check itself ---------------------------------------------------------------------------


def _run(subject: Subject, check: Check) -> Result:
    case = make_case(subject, check)
    datatypes: dict[str, str] = {}
    for step in range(len(case.requests)):
        datatypes |= case.promised(step).datatypes
    choice = choose(subject, check, case.requests, datatypes)
    if not choice.ways:
        return _unasked(check, choice)
    with closing(Asker(subject)) as asker:
        played = ask_all(case, choice, asker)
        faults = _merged(case, {way: one.faults for way, one in played.items()})
        note = ""
        if not faults:
            faults, note = _agreed(case, asker, played)
    return _result(case, choice, played, faults, note)


def _unasked(check: Check, choice: Choice) -> Result:
    reasons = "; ".join(f"{way}: {reason}" for way, reason in choice.left_out.items())
    hint = "encoding: [binary]" if tuple(choice.left_out) == (JSON,) else "protocols: [http]"
    return Result(id=check.id, kind="inference", outcome="error", message=f"it cannot be asked. {reasons}", hint=hint)


def _merged(case: Case, faults: Mapping[Way, Sequence[Fault]]) -> list[Fault]:
    """The faults of all ways, with the ways named where they are not the same."""
    groups: dict[tuple[str, ...], list[Way]] = {}
    for way, found in faults.items():
        groups.setdefault(tuple(fault.kind or fault.message for fault in found), []).append(way)
    if len(groups) == 1:
        return list(next(iter(faults.values())))
    return [_of_ways(case, ways, fault) for ways in groups.values() for fault in faults[ways[0]]]


def _of_ways(case: Case, ways: Sequence[Way], fault: Fault) -> Fault:
    """A fault that only some ways have, with what may be to blame for that."""
    hint = fault.hint
    if tuple(ways) == (JSON,) and case.has_fp64:
        hint = hint or _READ_INEXACTLY
    if tuple(ways) == (GRPC,) and UNREACHABLE in fault.message:
        hint = "protocols: [http]"
    return Fault(message=f"over {_and(ways)}: {fault.message}", hint=hint)


def _agreed(case: Case, asker: Asker, played: Mapping[Way, Played]) -> tuple[list[Fault], str]:
    """Where the ways differ from each other, unless the model does so by itself; or a note that it does."""
    (first, reference), *others = played.items()
    for way, other in others:
        difference = disagreement(reference.plays[0], other.plays[0], inexact=way == JSON and case.has_fp64)
        if difference is None:
            continue
        again = (
            disagreement(one.plays[0], ask_once(case, asker, at)) for at, one in ((first, reference), (way, other))
        )
        if any(again):
            return [], "; its answers differ from one to the next, so the ways cannot be compared"
        told = difference.told(f"over {first}", f"over {way}")
        return [Fault(message=f"the ways do not agree: {told}")], ""
    return [], ""


# -- what comes of it ----------------------------------------------------------------------------


def _result(case: Case, choice: Choice, played: Mapping[Way, Played], faults: Sequence[Fault], note: str) -> Result:
    evidence = evidence_of(case, choice, played)
    name = case.check.id
    if faults:
        message = "; ".join(dict.fromkeys(fault.message for fault in faults))
        hint = next((fault.hint for fault in faults if fault.hint), "")
        return Result(id=name, kind="inference", outcome="failed", message=message, hint=hint, evidence=evidence)
    message = f"{_well(case, choice)}{note}"
    if _asserts(case.check):
        return Result(id=name, kind="inference", outcome="passed", message=message, evidence=evidence)
    outcome: Outcome = "failed" if case.subject.terms.strict else "passed"
    hint = _value_hint(played)
    return Result(id=name, kind="inference", outcome=outcome, message=VACUOUS, hint=hint, evidence=evidence)


def _well(case: Case, choice: Choice) -> str:
    count = case.check.repeat * len(case.requests)
    what = f"all {count} answers are as expected" if count > 1 else "the answer is as expected"
    asked = f" over {_and(choice.ways)}" if len(choice.ways) > 1 else ""
    left = "".join(f"; not asked over {way}: {reason}" for way, reason in choice.left_out.items())
    return f"{what}{asked}{left}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _asserts(check: Check) -> bool:
    """Whether it says of each output that it names what the values are, or that there must be none."""
    return all(
        wanted.status or (wanted.all_outputs and all(one.asserts_values for one in wanted.all_outputs))
        for wanted in check.expectations
    )


def _value_hint(played: Mapping[Way, Played]) -> str:
    names = [name for one in played.values() for outputs in one.outputs for name in outputs]
    return f"outputs: {{{names[0]}: {{equals: [...]}}}}" if names else "outputs: {NAME: {equals: [...]}}"
