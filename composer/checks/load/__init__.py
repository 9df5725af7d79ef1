"""Many requests at once: how fast the server answers, whether it still answers right, and whether it batches.

What they are held to is in `objectives`; how they are sent, in `composer.load`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from composer.checks.inference import expected, requests_of
from composer.checks.load.batches import Batches, batches
from composer.checks.load.objectives import Run, evidence_of, hints, misses, named, told
from composer.checks.report import Result
from composer.checks.subject import Subject, fate, timed
from composer.errors import CheckFailed
from composer.events import Logged
from composer.load import Closed, GrpcWire, HttpWire, Open, Shape, Verify, Wire, measure
from composer.protocol import http
from composer.protocol.messages import NoAnswer, Refused, Request, Response

if TYPE_CHECKING:
    from composer.recipe_checks import Check
    from composer.recipe_proof import Load

_REQUESTS: Final = 100
_LOOKS: Final = 5
_REST: Final = 0.02


def load(subject: Subject) -> Iterator[Result]:
    """A result for each load of the recipe."""
    for wanted in subject.validation.load:
        yield timed(subject, wanted.id, "load", lambda wanted=wanted: _load(subject, wanted))  # type: ignore[misc]


def _load(subject: Subject, wanted: Load) -> Result:
    check = next(one for one in subject.validation.checks if one.id == wanted.check)
    if reason := _unseen(subject, wanted):
        return Result(id=wanted.id, kind="load", outcome="unverified", message=reason)
    wire, verify = _prepared(subject, wanted, check)
    runs: list[Run] = []
    for shape in _shapes(wanted):
        subject.emit(Logged(text=f"load: {wanted.id}: {named(shape)}", source="check"))
        runs.append(_run(subject, wanted, check, shape, wire, verify))
        if runs[-1].measured.stopped:
            break
    faults = [*misses(wanted, runs)]
    return Result(
        id=wanted.id,
        kind="load",
        outcome="failed" if faults else "passed",
        message="; ".join(faults) + fate(subject) if faults else told(runs),
        hint=hints(runs),
        evidence=evidence_of(wanted, runs),
    )


def _unseen(subject: Subject, wanted: Load) -> str:
    """Why this load cannot be made, or nothing."""
    if wanted.protocol in subject.terms.off:
        return f"no load over {wanted.protocol}: the server was told not to speak it"
    if wanted.protocol == "grpc" and not subject.running.grpc:
        return "no load over gRPC: where the server answers it is not known"
    if wanted.protocol == "http" and urlsplit(subject.running.http).scheme != "http":
        return "no load over https: it would measure the encryption of this machine"
    return ""


def _shapes(wanted: Load) -> list[Shape]:
    if wanted.rate:
        return [Open(rate=rate) for rate in wanted.rate]
    return [Closed(concurrency=number) for number in wanted.concurrency or (1,)]


# -- the request -------------------------------------------------------------------------------


def _prepared(subject: Subject, wanted: Load, check: Check) -> tuple[Wire, Verify]:
    """The request as bytes, and what its answers are verified by."""
    if check.request is None or check.mode == "stream" or check.expect is None or check.expect.status:
        raise CheckFailed(
            f"{check.id} is no check of one request and one answer, which a load is made of",
            hint="name another check, or add one",
        )
    (request,) = requests_of(subject, check)
    judge = expected(subject, check)
    if wanted.protocol == "grpc":
        return _over_grpc(subject, request, judge)
    return _over_http(subject, request, judge, binary=wanted.encoding == "binary")


Judge = Callable[[Response | Refused], Sequence[str]]


def _over_http(subject: Subject, request: Request, judge: Judge, *, binary: bool) -> tuple[Wire, Verify]:
    if not binary and (reason := http.unsendable(request)):
        raise CheckFailed(reason, hint="encoding: binary")
    path, headers, body = http.encode(request, binary)
    url = urlsplit(subject.running.http)
    wire = HttpWire(
        address=(url.hostname or "", url.port or 80),
        path=url.path.rstrip("/") + path,
        headers=headers,
        body=body,
    )
    return wire, lambda head, body: _wrong(judge, lambda: http.decode(200, _headers(head), body))


def _over_grpc(subject: Subject, request: Request, judge: Judge) -> tuple[Wire, Verify]:
    from composer.protocol import grpc
    from composer.protocol.service import INFER

    place = urlsplit(f"//{subject.running.grpc}")
    wire = GrpcWire(address=(place.hostname or "", place.port or 0), path=INFER, message=grpc.encode(request))
    return wire, lambda head, body: _wrong(judge, lambda: grpc.decode(body))


def _headers(head: bytes) -> dict[str, str]:
    """Headers by lower-case name, from the bytes before a body."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _wrong(judge: Judge, decode: Callable[[], Response | Refused]) -> str | None:
    """What is wrong with an answer, or None."""
    try:
        return "; ".join(judge(decode())) or None
    except ValueError as error:
        return f"the answer makes no sense: {error}"


# -- a run -------------------------------------------------------------------------------------


def _run(subject: Subject, wanted: Load, check: Check, shape: Shape, wire: Wire, verify: Verify) -> Run:
    assert check.request
    version = str(check.version or "")
    before: list[Batches | None] = []
    requests = None if wanted.duration else wanted.requests or _REQUESTS
    measured = measure(
        wire,
        shape,
        requests=requests,
        seconds=wanted.duration,
        warmup=wanted.warmup,
        timeout=check.request.timeout,
        verify_every=wanted.verify_every,
        verify=verify,
        warmed=lambda: before.append(_batches(subject, check.model, version)),
    )
    after = None if measured.stopped else _batches(subject, check.model, version)
    begun = before[0] if before else None
    return Run(shape=shape, measured=measured, batches=after.since(begun) if after and begun else None)


def _batches(subject: Subject, model: str, version: str) -> Batches | None:
    """The server's counts, once they rest: it counts an execution a moment after it has answered."""
    try:
        found = batches(subject, model, version)
        for _ in range(_LOOKS):
            time.sleep(_REST)
            before, found = found, batches(subject, model, version)
            if found == before:
                break
    except NoAnswer:
        return None
    return found
