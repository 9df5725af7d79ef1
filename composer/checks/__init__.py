"""Prove that a server serves: its health, its models, its answers, its GPU; once more after the load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.checks.client import Client, NoAnswer
from composer.checks.gpu import gpu
from composer.checks.health import health, still_healthy
from composer.checks.inference import inference, one_check
from composer.checks.report import Report, Result
from composer.checks.subject import Subject
from composer.events import Emit, Logged
from composer.runners import Running

if TYPE_CHECKING:
    from composer.recipe import Validate

__all__ = ["CHECKS", "Report", "Result", "prove"]


def prove(
    running: Running,
    validation: Validate,
    models: Sequence[str],
    *,
    base: Path,
    emit: Emit,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Run every check against a server that was started just now. Never raises for what a server does.

    `models` are the names that it must serve, no more and no fewer. Paths in the checks start from `base`.
    """
    client = Client(running.http)
    try:
        subject = Subject(
            running=running, validation=validation, models=models, base=base, client=client, emit=emit, clock=clock
        )
        results = tuple(_announced(_all(subject), emit))
        return Report(results=results, server=_server(client))
    finally:
        client.close()


def _announced(results: Iterator[Result], emit: Emit) -> Iterator[Result]:
    for result in results:
        emit(Logged(text=f"{result.outcome}: {result.id}: {result.message}", source="check"))
        yield result


def _all(subject: Subject) -> Iterator[Result]:
    up = True
    for name, check in CHECKS.items():
        if not up:
            yield Result(id=name, outcome="skipped", message="the server is not ready")
            continue
        for result in check(subject):
            up = up and (result.id != "ready" or result.ok)
            yield result


def _after(subject: Subject) -> Iterator[Result]:
    """What the recipe wants to see again: the server's health, or a check."""
    for name in subject.validation.after:
        for result in _again(subject, name):
            yield replace(result, id=f"after:{result.id}")


def _again(subject: Subject, name: str) -> Iterator[Result]:
    if name in AGAIN:
        return AGAIN[name](subject)
    return (one_check(subject, check) for check in subject.validation.checks if check.id == name)


def _server(client: Client) -> str:
    try:
        about = client.get("/v2").json()
        return f"{about['name']} {about['version']}"
    except (NoAnswer, ValueError, KeyError, TypeError):
        return ""


Checking = Callable[[Subject], Iterator[Result]]

CHECKS: Final[Mapping[str, Checking]] = {"health": health, "inference": inference, "gpu": gpu, "after": _after}
"""Every kind of check, in the order in which they run: the GPU's is judged by what ran before it."""

AGAIN: Final[Mapping[str, Checking]] = {"health": still_healthy, "gpu": gpu}
"""What `after` can name besides the checks of the recipe."""
