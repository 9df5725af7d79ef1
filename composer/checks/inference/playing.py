"""A check asked in every way, as often as the recipe says, and what is wrong with what was heard in each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from composer.checks.inference.agreement import disagreement
from composer.checks.inference.case import Case
from composer.checks.inference.judging import UNANSWERED, Fault, prefixed
from composer.checks.inference.sequences import in_turn
from composer.checks.inference.streams import most, with_outputs
from composer.checks.inference.ways import Asker, Choice, Heard, Way
from composer.checks.subject import Subject, fate
from composer.protocol.messages import NoAnswer, Refused

_DYING: Final = 1.0
"""Seconds that a server which closed its connections may take to be seen as ended."""

Play = Sequence[Heard]
"""What was heard of the requests of a check, each asked once: of one, or of those of a sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of asking in one way: every play, and what is wrong; figures of the last play's outputs, by step."""

    plays: Sequence[Play]
    faults: Sequence[Fault]
    outputs: Sequence[Mapping[str, Any]] = ()


@dataclass(slots=True)
class _Count:
    """Requests that the server counts as served, and those that were answered, since the check began."""

    before: int
    answered: int = field(default=0)


def ask_all(case: Case, choice: Choice, asker: Asker) -> dict[Way, Played]:
    """Ask in every way; where the server is silent, the others would only wait as long."""
    played: dict[Way, Played] = {}
    count = _Count(before=_served(case))
    for way in choice.ways:
        played[way] = _ask(case, asker, way, count)
        silences = [heard.silence for run in played[way].plays for heard in run if heard.silence]
        if any(silence.waited for silence in silences) or case.subject.running.exit_code() is not None:
            break
    return played


def _ask(case: Case, asker: Asker, way: Way, count: _Count) -> Played:
    """Ask in one way, as often as the recipe says, until something is wrong."""
    plays: list[Play] = []
    warmups = int(any(one.latency for one in case.expectations))
    for number in range(case.check.repeat + warmups):
        plays.append(ask_once(case, asker, way))
        count.answered += sum(len(with_outputs(heard.answers)) for heard in plays[-1])
        faults, outputs = _judged(case, plays[-1], count)
        if faults:
            asked = case.check.repeat + warmups
            prefix = f"answer {number + 1} of {asked}: " if asked > 1 else ""
            return Played(plays=plays, faults=[prefixed(prefix, fault) for fault in faults], outputs=outputs)
    late = _late(case, plays[warmups:])
    return Played(plays=plays, faults=[*late, *_unstable(case, plays)], outputs=outputs)


def ask_once(case: Case, asker: Asker, way: Way) -> Play:
    """Ask the requests of a check once, in their turn. Raises `ValueError` for an answer that makes no sense."""
    heard: list[Heard] = []
    requests = in_turn(case.check, case.requests, case.config)
    for request, wanted in zip(requests, case.expectations, strict=True):
        streamed = case.check.mode == "stream"
        heard.append(asker.ask_stream(request, most(wanted)) if streamed else asker.ask(way, request))
        refused = any(isinstance(answer, Refused) for answer in heard[-1].answers)
        if heard[-1].silence or (refused and not wanted.status):
            break
    return heard


# -- what is wrong with it -----------------------------------------------------------------------


def _judged(case: Case, play: Play, count: _Count) -> tuple[list[Fault], list[Mapping[str, Any]]]:
    """All that is wrong with what was heard, and the figures of the outputs, by step."""
    faults: list[Fault] = []
    outputs: list[Mapping[str, Any]] = []
    for step, heard in enumerate(play):
        prefix = f"step {step + 1}: " if len(case.requests) > 1 else ""
        if heard.silence:
            faults.append(prefixed(prefix, _silent(case, heard, count)))
            continue
        judged = case.judge(step, heard.answers)
        faults += [prefixed(prefix, fault) for fault in judged.faults]
        outputs.append(judged.outputs)
    return faults, outputs


def _silent(case: Case, heard: Heard, count: _Count) -> Fault:
    """No answer: because the server died, or because the model never gave one."""
    error = heard.silence
    assert error is not None
    if ended := _fate(case.subject, error):
        return Fault(message=f"{error}{ended}")
    if heard.answers:
        return Fault(message=str(error), hint="send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)")
    if error.waited and _served(case) - count.before > count.answered:
        words = "the server counts the request as answered: the model returned no response (None from execute?)"
        hint = "execute must return a list with a response for each request"
        return Fault(message=f"{error}; {words}", hint=hint, kind=UNANSWERED)
    return Fault(message=str(error))


def _fate(subject: Subject, error: NoAnswer) -> str:
    """What became of the server. That it ended is seen a moment after its connections are closed."""
    end = time.monotonic() + _DYING
    while not (words := fate(subject)) and not error.waited and time.monotonic() < end:
        time.sleep(0.05)
    return words


def _served(case: Case) -> int:
    """How many requests the server believes that it has served the model."""
    try:
        stats = case.subject.client.get(f"{case.path}/stats").json()
        return sum(int(row["inference_stats"]["success"]["count"]) for row in stats["model_stats"])
    except (NoAnswer, ValueError, KeyError, TypeError):
        return 0


def _late(case: Case, plays: Sequence[Play]) -> Iterator[Fault]:
    for step, wanted in enumerate(case.expectations):
        if wanted.latency is None:
            continue
        middle = median(play[step].seconds for play in plays)
        if middle > wanted.latency.budget:
            prefix = f"step {step + 1}: " if len(case.requests) > 1 else ""
            took = f"the median of {len(plays)} answers" if len(plays) > 1 else "the answer"
            budget = f"at most {_time(wanted.latency.budget)}, after one to warm up"
            yield Fault(message=f"{prefix}{took} took {_time(middle)}, {budget}", kind=f"{prefix}late")


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _unstable(case: Case, plays: Sequence[Play]) -> Iterator[Fault]:
    if not case.check.stable:
        return
    for number, play in enumerate(plays[1:], 2):
        if difference := disagreement(plays[0], play):
            told = difference.told("in answer 1", f"in answer {number}")
            yield Fault(message=f"its answers differ: {told}", kind="unstable")
            return
