"""The ways in which a model can be asked, and what is heard on each: `http-binary`, `grpc`, `http-json`.

All of them ask the same, and must get the same answers. Those that carry every number exactly come first: others are
compared with them, and what is recorded is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from composer.checks.subject import Subject
from composer.protocol import grpc, http
from composer.protocol.messages import NoAnswer, Refused, Request, Response
from composer.protocol.tensors import NOT_IN_JSON

if TYPE_CHECKING:
    from composer.recipe_checks import Check

Way = str
"""One of `WAYS`."""

BINARY: Final = "http-binary"
GRPC: Final = "grpc"
JSON: Final = "http-json"
WAYS: Final = (BINARY, GRPC, JSON)

Answer = Response | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What came back for one request: one answer, or those of a stream; and why no more came, where more should have.

    `seconds` are from the sending to the last of it, without what this side takes to make and read the bytes; `first`
    are those to the first answer.
    """

    answers: Sequence[Answer]
    silence: NoAnswer | None = None
    seconds: float = 0.0
    first: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The ways that a check is asked in, and why others are left out."""

    ways: Sequence[Way]
    left_out: Mapping[Way, str] = field(default_factory=dict)


# -- choosing ----------------------------------------------------------------------------------


def choose(subject: Subject, check: Check, requests: Sequence[Request], outputs: Mapping[str, str]) -> Choice:
    """The ways for a check: those that the recipe wants, without those that cannot carry it.

    `outputs` are the datatypes of what is asked for, by name.
    """
    wanted = set(_wanted(subject, check))
    reasons = {way: _obstacle(subject, way, requests, outputs) for way in WAYS if way in wanted}
    return Choice(
        ways=tuple(way for way, reason in reasons.items() if reason is None),
        left_out={way: reason for way, reason in reasons.items() if reason},
    )


def _wanted(subject: Subject, check: Check) -> Iterator[Way]:
    if check.mode == "stream":
        yield GRPC
        return
    protocols = check.protocols or subject.validation.protocols
    if "http" in protocols:
        yield from (way for encoding, way in (("json", JSON), ("binary", BINARY)) if encoding in check.encoding)
    if "grpc" in protocols:
        yield GRPC


def _obstacle(subject: Subject, way: Way, requests: Sequence[Request], outputs: Mapping[str, str]) -> str | None:
    protocol = way.partition("-")[0]
    if protocol in subject.terms.off:
        return f"the server was told not to speak {protocol}"
    if way == GRPC and not subject.running.grpc:
        return "it is not known where the server speaks gRPC"
    return _not_in_json(requests, outputs) if way == JSON else None


def _not_in_json(requests: Sequence[Request], outputs: Mapping[str, str]) -> str | None:
    sent = (http.unsendable(request) for request in requests)
    back = (f"output {name}: JSON cannot carry {kind}" for name, kind in outputs.items() if kind in NOT_IN_JSON)
    return next((reason for reason in (*sent, *back) if reason), None)


# -- asking ------------------------------------------------------------------------------------


class Asker:
    """Asks a server in any way. What it opened it closes."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._grpc = grpc.Client(subject.running.grpc)

    def close(self) -> None:
        """Let go of the connections."""
        self._grpc.close()

    def ask(self, way: Way, request: Request) -> Heard:
        """Ask, and hear one answer. Raises `ValueError` for an answer that makes no sense."""
        send, read = self._grpc_call(request) if way == GRPC else self._http_call(request, binary=way == BINARY)
        begun = self._subject.clock()
        try:
            raw = send()
        except NoAnswer as error:
            return Heard(answers=(), silence=error, seconds=self._subject.clock() - begun)
        seconds = self._subject.clock() - begun
        return Heard(answers=(read(raw),), seconds=seconds, first=seconds)

    def ask_stream(self, request: Request, most: int | None) -> Heard:
        """Ask on a stream, and hear all that comes, or one more than `most`: then it need not go on."""
        begun = self._subject.clock()
        answers: list[Answer] = []
        first, silence = 0.0, None
        try:
            data = grpc.encode_for_stream(request)
            with closing(self._grpc.stream(data, timeout=request.timeout)) as stream:
                for raw in stream:
                    answers.append(raw if isinstance(raw, Refused) else grpc.decode_from_stream(raw))
                    first = first or self._subject.clock() - begun
                    if most is not None and len(answers) > most + 1:
                        break
        except NoAnswer as error:
            silence = error
        return Heard(answers=answers, silence=silence, seconds=self._subject.clock() - begun, first=first)

    def _http_call(self, request: Request, binary: bool) -> tuple[Callable[[], Any], Callable[[Any], Answer]]:
        path, headers, body = http.encode(request, binary)

        def send() -> http.Answer:
            return self._subject.client.post(path, body, headers, timeout=request.timeout)

        return send, read_http

    def _grpc_call(self, request: Request) -> tuple[Callable[[], Any], Callable[[Any], Answer]]:
        data = grpc.encode(request)

        def send() -> bytes | Refused:
            return self._grpc.infer(data, timeout=request.timeout)

        return send, lambda answer: answer if isinstance(answer, Refused) else grpc.decode(answer)


def read_http(answer: http.Answer) -> Answer:
    """What an answer over HTTP says. Raises `ValueError` for one that makes no sense."""
    return http.decode(answer.status, answer.headers, answer.body)
