"""Prove that a server serves: its health, its models, its answers, its GPU, under load; once more after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from composer.checks.diagnosing import diagnosed
from composer.checks.gpu import baseline, gpu
from composer.checks.health import health, still_healthy
from composer.checks.health.logs import logs
from composer.checks.inference import inference, one_check
from composer.checks.load import load
from composer.checks.report import About, Report, Result
from composer.checks.subject import Subject, Terms
from composer.events import Emit, Logged
from composer.protocol.http import Client
from composer.protocol.messages import NoAnswer
from composer.runners import Running

__all__ = ["CHECKS", "About", "Report", "Result", "Terms", "announced", "prove"]


def prove(running: Running, terms: Terms, *, emit: Emit, clock: Callable[[], float] = time.monotonic) -> Report:
    """Run every check against a server that was started just now. Never raises for what a server does."""
    client = Client(running.http)
    try:
        subject = Subject(running=running, terms=terms, client=client, emit=emit, clock=clock)
        results = tuple(announced(_all(subject), emit))
        return diagnosed(Report(results=results, about=About(server=_server(client))), subject)
    finally:
        client.close()


def announced(results: Iterator[Result], emit: Emit) -> Iterator[Result]:
    """Results, each told as it comes."""
    for result in results:
        emit(Logged(text=f"{result.outcome}: {result.id}: {result.message}", source="check"))
        yield result


def _all(subject: Subject) -> Iterator[Result]:
    up = True
    for name, check in CHECKS.items():
        if not up:
            yield Result(id=name, kind="health", outcome="skipped", message="the server is not ready")
            continue
        for result in check(subject):
            up = up and (result.id != "ready" or result.ok)
            yield result
        if name == "health" and up:
            subject = replace(subject, before=baseline(subject))


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

CHECKS: Final[Mapping[str, Checking]] = {
    "health": health,
    "inference": inference,
    "load": load,
    "gpu": gpu,
    "after": _after,
    "logs": logs,
}
"""Every kind of check, in the order in which they run: the GPU's is judged by what ran before it."""

AGAIN: Final[Mapping[str, Checking]] = {"health": still_healthy, "gpu": gpu}
"""What `after` can name besides the checks of the recipe."""
