"""The server's own log as a check: lines that should not be there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from composer.checks.report import Result
from composer.checks.subject import Subject, timed
from composer.diagnosis import harmless
from composer.diagnosis.logs import Line, records

if TYPE_CHECKING:
    from composer.recipe import StrictLogs

MOST: Final = 20
"""Lines that go into a report."""

_GPU_SEEN: Final = re.compile(r"Collecting metrics for GPU \d|cuda_memory_pool_byte_size\{\d")


def logs(subject: Subject) -> Iterator[Result]:
    """One result where the recipe wants strict logs, else none."""
    strict = subject.validation.strict_logs
    if strict is not None:
        yield timed(subject, "logs", "logs", lambda: _logs(subject, strict))


def _logs(subject: Subject, strict: StrictLogs) -> Result:
    log = subject.running.logs()
    if not log:
        return Result(id="logs", kind="logs", outcome="unverified", message="the server's log cannot be seen from here")
    bad = unexcused(log, strict)
    levels = ", ".join(strict.fail_on)
    if not bad:
        message = f"no line of level {levels} that is not allowed"
        return Result(id="logs", kind="logs", outcome="passed", message=message)
    count = "a line" if len(bad) == 1 else f"{len(bad)} lines"
    return Result(
        id="logs",
        kind="logs",
        outcome="failed",
        message=f"{count} of level {levels} that nothing allows: {_short(bad[0].message)}",
        hint=f"strict_logs: {{allow: ['{_pattern(bad[0])}']}}   (if it is harmless)",
        evidence={"lines": [line.raw for line in bad[:MOST]], "count": len(bad)},
    )


def unexcused(log: str, strict: StrictLogs) -> list[Line]:
    """The lines of a log that are failures."""
    allowed, gpu = [re.compile(pattern) for pattern in strict.allow], sees_gpu(log)
    counting = [line for line in records(log) if line.level in strict.fail_on and not harmless(line, gpu_wanted=gpu)]
    return [line for line in counting if not any(one.search(line.message) or one.search(line.raw) for one in allowed)]


def sees_gpu(log: str) -> bool:
    """Whether a server's log tells of a GPU."""
    return _GPU_SEEN.search(log) is not None


def _short(message: str) -> str:
    first = message.strip().partition("\n")[0]
    return first if len(first) <= 200 else f"{first[:200]}..."


def _pattern(line: Line) -> str:
    """A regular expression for lines like one, that can be pasted between single quotes."""
    words = re.split(r"['\"\d/]", _short(line.message))
    return re.escape(max(words, key=len).strip()).replace("\\ ", " ").replace("\\-", "-")
