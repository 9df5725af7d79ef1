"""HTTP/1.1 on a connection that is kept: one request at a time, each of the same bytes.

Source: RFC 9112, sections 6 (how long a body is) and 9.3 (whether a connection is kept).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from composer.load.connection import Address, Connection, Done

SAID: Final = 300
"""Bytes of a refusal's body that are kept."""

_MOST: Final = 1 << 28
"""Bytes of an answer, of which each client may hold one: what has no end does not take all memory."""

_KNOWN: Final = 1000
"""Headers of which the meaning is kept. A server has a handful, but for those that tell the time."""

_NONE: Final = "the server does not speak HTTP/1.1"
_ENDLESS: Final = f"the answer is larger than {_MOST >> 20} MiB"
_CHUNKED: Final = -1
_TO_THE_END: Final = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the headers of an answer say of it: its status, how long its body is, whether the connection stays."""

    status: int
    length: int
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpWire:
    """A POST of `body` to `path`."""

    address: tuple[str, int]
    path: str
    headers: Mapping[str, str]
    body: bytes
    places: int = 1
    _heads: dict[bytes, Head] = field(default_factory=dict, repr=False)

    def connect(self, address: Address) -> Connection:
        """Begin to make a connection."""
        return _HttpConnection(address, self._request(), self._heads)

    def _request(self) -> bytes:
        host, port = self.address
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {f'[{host}]' if ':' in host else host}:{port}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"Content-Length: {len(self.body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class _HttpConnection(Connection):
    """Carries one request at a time."""

    def __init__(self, address: Address, request: bytes, heads: dict[bytes, Head]) -> None:
        super().__init__(address, b"")
        self._request = request
        self._heads = heads
        self._started: float | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    def send(self, started: float) -> None:
        self._started = started
        self._unsent = self._request

    def expire(self, before: float, reason: str) -> Sequence[Done]:
        if self._started is None or self._started > before:
            return ()
        # The answer may still come, and would be taken for that of the next request.
        self.broken = reason
        return [self._over(reason, b"", b"")]

    def pending(self) -> Sequence[float]:
        return () if self._started is None else (self._started,)

    def _greeted(self) -> None:
        self.open = True

    def _take(self, data: bytes) -> Sequence[Done]:
        if self._started is None:
            self.broken = "the server closed the connection" if not data else "the server answers what was not asked"
            return ()
        if not data:
            return self._ended()
        self._missing -= len(data)
        if self._missing > 0:
            self._parts.append(data)
            return ()
        if self._parts:
            data = b"".join((*self._parts, data))
            if len(data) > _MOST:
                self.broken = _ENDLESS
                return ()
        end = data.find(b"\r\n\r\n") + 4
        done = self._answer(data[:end], data, end) if end > 3 else ()
        if not done:
            self._parts = [data]
        return done

    def _answer(self, text: bytes, data: bytes, end: int) -> Sequence[Done]:
        head = self._heads.get(text)
        if head is None:
            try:
                head = read_head(text)
            except ValueError:
                self.broken = _NONE
                return ()
            if len(self._heads) < _KNOWN:
                self._heads[text] = head
        if head.length == _CHUNKED:
            return self._chunked(head, text, data[end:])
        if head.length == _TO_THE_END:
            return ()
        self._missing = end + head.length - len(data)
        if self._missing > 0:
            if head.length > _MOST:
                self.broken = _ENDLESS
            return ()
        if self._missing < 0:
            self.broken = "the server sends more than it announces"
            return ()
        return [self._whole(head, text, data[end:])]

    def _chunked(self, head: Head, text: bytes, data: bytes) -> Sequence[Done]:
        try:
            body = dechunk(data)
        except ValueError:
            self.broken = _NONE
            return ()
        return () if body is None else [self._whole(head, text, body)]

    def _ended(self) -> Sequence[Done]:
        """The server closed the connection: the answer is over, if that was to be its end."""
        text, mark, body = b"".join(self._parts).partition(b"\r\n\r\n")
        with suppress(ValueError):
            head = read_head(text + mark)
            if mark and head.length == _TO_THE_END:
                return [self._whole(head, text + mark, body)]
        self.broken = f"the server closed the connection {'within' if text else 'without'} an answer"
        return ()

    def _whole(self, head: Head, text: bytes, body: bytes) -> Done:
        if not head.kept or self._unsent:
            self.broken = "the server closes the connection after each answer"
        if head.status == 200:
            return self._over("", text, body)
        return self._over(f"HTTP {head.status}: {body[:SAID].decode(errors='replace')}", text, body)

    def _over(self, failure: str, head: bytes, body: bytes) -> Done:
        assert self._started is not None
        done = (self._started, failure, head, body)
        self._started, self._missing = None, 0
        if self._parts:
            self._parts = []
        return done


def read_head(text: bytes) -> Head:
    """What status line and headers say. Raises `ValueError` for what is none of HTTP/1."""
    first, *lines = text.decode("latin-1").split("\r\n")
    version, status, *_ = [*first.split(" ", 2), ""]
    if not version.startswith("HTTP/1."):
        raise ValueError(first)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = _length(headers)
    kept = headers.get("connection", "").lower() != "close" and length != _TO_THE_END
    return Head(status=int(status), length=length, kept=kept and version != "HTTP/1.0")


def _length(headers: Mapping[str, str]) -> int:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _CHUNKED
    if "content-length" not in headers:
        return _TO_THE_END
    if not headers["content-length"].isdecimal():
        raise ValueError(f"a body of {headers['content-length']} bytes")
    return int(headers["content-length"])


def dechunk(data: bytes) -> bytes | None:
    """A body that came in chunks, or None while it is not whole. Raises `ValueError` if it is none."""
    parts: list[bytes] = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].split(b";")[0], 16)
        if size < 0:
            raise ValueError(data[at:end])
        if size == 0:
            return b"".join(parts) if data.endswith(b"\r\n\r\n") else None
        at = end + 2 + size + 2
        parts.append(data[end + 2 : at - 2])
    return None
