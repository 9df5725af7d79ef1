"""Whether the server comes up in time, and why not: which models never finished loading, how it ended, its last words.

A server that hangs says nothing at all on releases before 25.08; what it began to load and did not finish, its
log tells.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from composer.checks.health.logs import sees_gpu
from composer.checks.health.models import CALL, models, read_index, still_served
from composer.checks.report import Result
from composer.checks.subject import Subject, ending, timed
from composer.diagnosis import TAIL, harmless
from composer.diagnosis.logs import Line, begun, failures, loading, records
from composer.protocol.messages import NoAnswer

_SHORTEST: Final = 0.2
"""Seconds that a call gets though the time is up."""

_STACK: Final = "\n\nAt:\n"
"""What the Python backend writes between an exception and where it was raised."""

_MOST: Final = 3
"""Models whose failures are told in a message; the log and the diagnoses have all."""

_LONGER: Final = 4
"""How many times as long we advise, to see whether it is only slow."""


def health(subject: Subject) -> Iterator[Result]:
    """Wait until the server is ready, then compare its models with those expected."""
    if "http" in subject.terms.off:
        yield _mute()
        return
    ready = timed(subject, "ready", "health", lambda: _await_ready(subject))
    yield ready
    if ready.ok:
        yield from models(subject)


def still_healthy(subject: Subject) -> Iterator[Result]:
    """The same without waiting: a server that was ready once must be ready now."""
    yield timed(subject, "ready", "health", lambda: _ready_now(subject))
    yield from still_served(subject)


# -- ready ----------------------------------------------------------------------------------------


def _await_ready(subject: Subject) -> Result:
    startup, begun = subject.validation.startup, subject.clock()
    progress, progressed = (0, 0), begun
    while True:
        if (code := subject.running.exit_code()) is not None:
            return _not_ready(subject, f"the server ended {ending(code)}{_reasons(subject.running.logs())}")
        patience = min(CALL, max(_SHORTEST, begun + startup.deadline - subject.clock()))
        if _answers(subject, "/v2/health/ready", patience):
            return _ready_now(subject)
        if (seen := _progress(subject, patience)) != progress:
            progress, progressed = seen, subject.clock()
        now = subject.clock()
        if now - begun > startup.deadline:
            return _given_up(subject, f"the server was not ready within {startup.deadline:g} s", "deadline")
        if now - progressed > startup.stall:
            return _given_up(subject, f"the server made no progress for {startup.stall:g} s", "stall")
        time.sleep(startup.poll)


def _ready_now(subject: Subject) -> Result:
    missing = [path for path in ("/v2/health/live", "/v2/health/ready") if not _answers(subject, path, CALL)]
    if missing:
        return _not_ready(subject, f"the server does not answer {' and '.join(missing)} with 200")
    return Result(id="ready", kind="health", outcome="passed", message="the server is live and ready")


def _answers(subject: Subject, path: str, patience: float) -> bool:
    try:
        return subject.client.get(path, timeout=patience).status == 200
    except NoAnswer:
        return False


def _progress(subject: Subject, patience: float) -> tuple[int, int]:
    """How far the server has come: length of its log, and models that are ready. Any change is progress."""
    try:
        loaded = sum(row.get("state") == "READY" for row in read_index(subject, patience))
    except (NoAnswer, ValueError):
        loaded = 0
    return len(subject.running.logs()), loaded


def _mute() -> Result:
    """Of a server that was told not to speak HTTP. To wait for it would be in vain."""
    message = "whether it is ready is asked over HTTP, and the server is told not to speak it"
    hint = "server: {allow-http: true}, or build without proof: --no-validate"
    return Result(id="ready", kind="health", outcome="error", message=message, hint=hint)


# -- not ready ------------------------------------------------------------------------------------


def _not_ready(subject: Subject, message: str, **evidence: Any) -> Result:  # noqa: ANN401
    lines = subject.running.logs().splitlines()[-TAIL:]
    return Result(id="ready", kind="health", outcome="failed", message=message, evidence={**evidence, "log": lines})


def _given_up(subject: Subject, message: str, limit: str) -> Result:
    """A server that lives and is not ready. Where it hangs, it is in a model that neither came up nor failed."""
    log = subject.running.logs()
    hanging = [f"{name} version {version}" for name, version in loading(log)]
    found = [message]
    if failed := _failed(log):
        found.append(f"these failed: {failed}")
    if hanging:
        found.append(f"these models never finished loading: {', '.join(hanging)}")
    longer = f"startup: {{{limit}: {_LONGER * getattr(subject.validation.startup, limit):g}s}}   (if it needs longer)"
    if not log.strip():
        found.append(_said_when_asked(subject))
        longer = f"curl -i {subject.running.http}/v2/health/ready"
    else:
        found.append(_last_words(log))
    more = {"loading": hanging} if hanging else {}
    return replace(_not_ready(subject, "; ".join(found), **more), hint=longer)


def _said_when_asked(subject: Subject) -> str:
    """Of a server that wrote nothing, or elsewhere, what comes of asking it."""
    where = f"{subject.running.http}/v2/health/ready"
    try:
        return (
            f"it wrote nothing, and answers {where} with {subject.client.get('/v2/health/ready', timeout=CALL).status}"
        )
    except NoAnswer as error:
        return f"it wrote nothing, and of {where}: {error}"


def _last_words(log: str) -> str:
    lines = begun(records(log))
    # What the processes of Python models say, and what is said of them, tells more than the line that came last.
    stub = next((line for line in reversed(lines) if _is_stubs(line)), None)
    return f"the last of a Python process: {_one_line(stub)}" if stub else f"its last line: {_one_line(lines[-1])}"


def _is_stubs(line: Line) -> bool:
    """Whether a line is of a process that runs a Python model: about it, or not Triton's own and no table."""
    if line.level:
        return "Python stub" in line.message
    return not line.message.lstrip().startswith(("+-", "|", "="))


def _reasons(log: str) -> str:
    """Why a server ended: the models that failed, else the last line that calls itself an error, else the last."""
    if failed := _failed(log):
        return f"; {failed}"
    lines = records(log)
    if not lines:
        return " and wrote nothing"
    gpu = sees_gpu(log)
    fatal = [line for line in lines if _is_fatal(line) and not harmless(line, gpu_wanted=gpu)]
    return f": {_one_line((fatal or lines)[-1])}"


def _failed(log: str) -> str:
    found = [f"{name}: {' '.join(reason.split(_STACK)[0].split())}" for name, reason in failures(log).items()]
    more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return "; ".join([*found[:_MOST], *more])


def _is_fatal(line: Line) -> bool:
    return line.level in ("E", "F") or (not line.level and line.message.startswith(("error: ", "inside: ")))


def _one_line(line: Line) -> str:
    return " ".join(line.message.split())
