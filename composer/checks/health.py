"""Whether the server comes up, and whether it serves the models that it should, and no others.

That it calls itself ready is not enough: it does so with an empty repository, and with a model whose configuration
could not be read. What counts is its index of models.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from composer.checks.client import NoAnswer
from composer.checks.report import Result
from composer.checks.subject import Subject, ending, timed

TAIL: Final = 30
"""Lines of the log that go into a report."""

_POLL: Final = 0.25
_CALL: Final = 2.0
_LOADING: Final = re.compile(r"\bloading: ([^\s\"]+):(\d+)")
_LOADED: Final = re.compile(r"successfully loaded '([^']+)'(?: version (\d+))?")
_LOAD_FAILED: Final = re.compile(r"failed to load '([^']+)' version (\d+): (.+?)\"?$", re.MULTILINE)
_POLL_FAILED: Final = re.compile(r"Poll failed for model directory '([^']+)': (.+?)\"?$", re.MULTILINE)
_FATAL: Final = re.compile(r"^(?:error: |inside: |E\d{4} ).*$", re.MULTILINE)


def health(subject: Subject) -> Iterator[Result]:
    """Wait until the server is ready, then compare its models with those expected."""
    ready = timed(subject, "ready", lambda: _await_ready(subject))
    yield ready
    if ready.ok:
        yield timed(subject, "models", lambda: _models(subject))


def still_healthy(subject: Subject) -> Iterator[Result]:
    """The same without waiting: a server that was ready once must be ready now."""
    yield timed(subject, "ready", lambda: _ready_now(subject))
    yield timed(subject, "models", lambda: _models(subject))


# -- ready -------------------------------------------------------------------------------------


def _await_ready(subject: Subject) -> Result:
    startup, begun = subject.validation.startup, subject.clock()
    progress, progressed = (0, 0), begun
    while True:
        if (code := subject.running.exit_code()) is not None:
            return _not_ready(subject, f"the server ended {ending(code)}{_reasons(subject.running.logs())}")
        if _answers(subject, "/v2/health/ready"):
            return _ready_now(subject)
        now = subject.clock()
        if (seen := _progress(subject)) != progress:
            progress, progressed = seen, now
        if now - begun > startup.deadline:
            return _not_ready(subject, f"the server was not ready within {startup.deadline:g} s{_stuck(subject)}")
        if now - progressed > startup.stall:
            return _not_ready(subject, f"the server made no progress for {startup.stall:g} s{_stuck(subject)}")
        time.sleep(_POLL)


def _ready_now(subject: Subject) -> Result:
    missing = [path for path in ("/v2/health/live", "/v2/health/ready") if not _answers(subject, path)]
    if missing:
        return _not_ready(subject, f"the server does not answer {' and '.join(missing)} with 200")
    return Result(id="ready", outcome="passed", message="the server is live and ready")


def _answers(subject: Subject, path: str) -> bool:
    try:
        return subject.client.get(path, timeout=_CALL).status == 200
    except NoAnswer:
        return False


def _progress(subject: Subject) -> tuple[int, int]:
    """How far the server has come: length of its log, and models that are ready. Any change is progress."""
    try:
        loaded = sum(row.get("state") == "READY" for row in _index(subject, _CALL))
    except (NoAnswer, ValueError):
        loaded = 0
    return len(subject.running.logs()), loaded


def _not_ready(subject: Subject, message: str) -> Result:
    lines = subject.running.logs().splitlines()[-TAIL:]
    return Result(id="ready", outcome="failed", message=message, evidence={"log": lines})


def _reasons(log: str) -> str:
    """Why a server ended: the models that failed, else the last line that calls itself an error, else the last."""
    failed = list(dict.fromkeys(f"{name}: {reason}" for name, reason in _failures(log).items()))
    if failed:
        return "; " + "; ".join(failed)
    lines = _FATAL.findall(log) or [line for line in log.splitlines() if line.strip()]
    return f": {lines[-1].strip()}" if lines else " and wrote nothing"


def _stuck(subject: Subject) -> str:
    """The models that began to load and neither came up nor failed: where a server hangs, it is in one of these."""
    log = subject.running.logs()
    ended = {name for name, _ in _LOADED.findall(log)} | set(_failures(log))
    hanging = [f"{name} version {number}" for name, number in _LOADING.findall(log) if name not in ended]
    if hanging:
        return f"; these models never finished loading: {', '.join(dict.fromkeys(hanging))}"
    lines = [line for line in log.splitlines() if line.strip()]
    return f"; its last line: {lines[-1].strip()}" if lines else "; it wrote nothing"


def _failures(log: str) -> dict[str, str]:
    """Triton's reason for each model that its log says has failed."""
    loads = {name: reason for name, _, reason in _LOAD_FAILED.findall(log)}
    return dict(_POLL_FAILED.findall(log)) | loads


# -- models ------------------------------------------------------------------------------------


def _models(subject: Subject) -> Result:
    rows = _index(subject, _CALL)
    if not rows and not subject.models:
        return Result(id="models", outcome="unverified", message="the image has no models: what it serves is not seen")
    faults = [*_missing(subject, rows), *_unwanted(subject, rows)]
    evidence = {"index": rows, "expected": sorted(subject.models)}
    if faults:
        return Result(id="models", outcome="failed", message="; ".join(faults), evidence=evidence)
    names = ", ".join(sorted(subject.models))
    return Result(id="models", outcome="passed", message=f"ready, and no others: {names}", evidence=evidence)


def _index(subject: Subject, timeout: float) -> list[dict[str, Any]]:
    answer = subject.client.post("/v2/repository/index", b"{}", {"Content-Type": "application/json"}, timeout=timeout)
    if answer.status != 200:
        raise NoAnswer(f"the server does not list its models: {answer.complaint()}", waited=False)
    rows = answer.json()
    if not (isinstance(rows, list) and all(isinstance(row, dict) and "name" in row for row in rows)):
        raise ValueError(f"an index of models that is {rows!r}")
    return rows


def _missing(subject: Subject, rows: list[dict[str, Any]]) -> Iterator[str]:
    failures = _failures(subject.running.logs())
    for name in sorted(subject.models):
        versions = [row for row in rows if row["name"] == name]
        ill = [row for row in versions if not _serves(row)]
        if not versions:
            yield f"{name} is not in the server's repository"
        elif ill or not any(row.get("state") == "READY" for row in versions):
            yield f"{name} is not ready: {_reason(ill or versions, failures.get(name))}"


def _serves(row: Mapping[str, Any]) -> bool:
    """Whether a version is up, or was put aside in good order: an older one that the policy does not want."""
    return row.get("state") == "READY" or row.get("reason") == "unloaded"


def _reason(rows: list[dict[str, Any]], logged: str | None) -> str:
    stated = next((row["reason"] for row in rows if row.get("reason")), None)
    return str(stated or logged or rows[0].get("state") or "it was not loaded, and the log does not say why")


def _unwanted(subject: Subject, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Models that nobody asked for. Those without a state are only known to the server, not loaded."""
    for name in sorted({row["name"] for row in rows if row.get("state")} - set(subject.models)):
        yield f"{name} is served, but not among the image's models"
