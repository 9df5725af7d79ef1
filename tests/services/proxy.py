"""A loopback proxy in front of a registry that counts what passes, and does to it what bad networks do.

    with Proxy(registry.port, rules=[Cut(every=60 << 20, method="GET", path="/blobs/sha256:")]) as proxy:
        ...  # talk to 127.0.0.1:{proxy.port} instead of the registry
        assert proxy.bytes_to_client < 2 * size

It speaks plain HTTP/1.1 to the registry, and to clients too unless it is given a certificate. A rule takes hold of
the requests that its `method` and `path` match; the first that has not run out (`times`) wins, besides `IgnoreRange`.
"""

from __future__ import annotations

import http.client
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from io import BufferedReader
from pathlib import Path
from types import TracebackType

PIECE = 1 << 16
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "proxy-connection"})


@dataclass(slots=True, kw_only=True)
class Rule:
    """What happens to which requests. `path` is searched as a pattern, query and all; `times` is how often."""

    method: str = "GET"
    path: str = "/blobs/sha256:"
    times: int | float = float("inf")
    after: int = 0
    """So many requests that match pass unharmed first."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def takes(self, method: str, path: str) -> bool:
        if not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        with self.lock:
            if self.after > 0:
                self.after -= 1
                return False
            self.times -= 1
            return self.times >= 0


@dataclass(slots=True, kw_only=True)
class Cut(Rule):
    """Close both connections after `at` bytes of the answer's body; with `reset` nothing in flight arrives."""

    at: int
    reset: bool = False


@dataclass(slots=True, kw_only=True)
class CutUpload(Rule):
    """Close both connections after `at` bytes of the request's body; the registry sees a body cut short."""

    method: str = "PATCH"
    path: str = "/blobs/uploads/"
    at: int
    reset: bool = False


@dataclass(slots=True, kw_only=True)
class Stall(Rule):
    """Say nothing more after `at` bytes of the answer's body, for as long as the client waits."""

    at: int


@dataclass(slots=True, kw_only=True)
class Flip(Rule):
    """Change one bit of byte `at` of the answer's body."""

    at: int


@dataclass(slots=True, kw_only=True)
class Answer(Rule):
    """Answer in the registry's stead. `retry_after` is a number of seconds.

    `dated` sends it as an HTTP date, by a clock that is an hour ahead.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    retry_after: int | None = None
    dated: bool = False


@dataclass(slots=True, kw_only=True)
class IgnoreRange(Rule):
    """Hide `Range` from the registry, as servers do that do not know it."""


@dataclass(slots=True, kw_only=True)
class Redirect(Rule):
    """Send readers to `port`, on another name of this host, with a query that is good for `lifetime` requests."""

    port: int
    lifetime: int = 1


@dataclass(slots=True, kw_only=True)
class Lose(Rule):
    """Pass the request on, and cut the client's connection instead of giving it the answer."""


@dataclass(slots=True, kw_only=True)
class Hold(Rule):
    """Pass the request on, and say nothing at all, for as long as the client waits."""


@dataclass(slots=True, kw_only=True)
class Short(Rule):
    """End the answer after `at` bytes as if that were all: its Content-Length says so too."""

    at: int


@dataclass(slots=True, kw_only=True)
class Swap(Rule):
    """Ask the registry for `instead`, and answer with that."""

    instead: str


@dataclass(slots=True, kw_only=True)
class Slow(Rule):
    """Give the answer's body at `rate` bytes a second, from byte `at` on in pieces of `piece` bytes."""

    rate: float
    at: int = 0
    piece: int = PIECE


@dataclass(slots=True, kw_only=True)
class StallUpload(Rule):
    """Take no more after `at` bytes of the request's body, for as long as the client waits; the registry has those."""

    method: str = "PATCH"
    path: str = "/blobs/uploads/"
    at: int


@dataclass(slots=True, kw_only=True)
class Drip(Rule):
    """Give the head of the answer byte by byte, one in `pause` seconds."""

    pause: float


Rules = Drip | (
    Cut | CutUpload | Stall | StallUpload | Flip | Answer | IgnoreRange | Redirect | Lose | Hold | Short | Swap | Slow
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked, in order of coming."""

    method: str
    path: str
    headers: dict[str, str]
    at: float


class Proxy:
    """A running proxy. Its counts may be read at any time."""

    def __init__(self, upstream_port: int, rules: Sequence[Rules] = (), *, certificate: Path | None = None) -> None:
        self.rules = list(rules)
        self.requests: list[Request] = []
        self.bytes_to_client = 0
        self.bytes_to_upstream = 0
        self.connections = 0
        self._passing = 0
        self._upstream = upstream_port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = threading.Event()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
        if self._tls and certificate:
            self._tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._tickets: dict[str, int] = {}

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def settled(self) -> int:
        """The bytes that went to the registry, once nothing is on its way any more."""
        sent = -1
        while self._passing or sent != self.bytes_to_upstream:
            sent = self.bytes_to_upstream
            time.sleep(0.1)
        return sent

    def count(self, method: str, path: str) -> int:
        """How many requests there were of this kind; `path` is searched as a pattern."""
        return sum(1 for request in self.requests if request.method == method and re.search(path, request.path))

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            # What waits here when a connection is reset was counted, and never arrives.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)
        with closing(upstream), suppress(OSError, http.client.HTTPException, ValueError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as reader:
                while not self._ended.is_set() and self._one(connection, reader, upstream):
                    pass
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _one(self, client: socket.socket, reader: BufferedReader, upstream: http.client.HTTPConnection) -> bool:
        line = reader.readline(1 << 16)
        if not line or not line[:1].isalpha():  # closed, or somebody speaks TLS
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        for name, value in http.client.parse_headers(reader).items():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        with self._lock:
            self.requests.append(Request(method=method, path=path, headers=headers, at=time.monotonic()))
            blind = any(isinstance(rule, IgnoreRange) and rule.takes(method, path) for rule in self.rules)
            rest = (rule for rule in self.rules if not isinstance(rule, IgnoreRange))
            rule = next((rule for rule in rest if rule.takes(method, path)), None)
        if blind:
            headers = {name: value for name, value in headers.items() if name.lower() != "range"}
        body = _Incoming(self, reader, int(headers.get("Content-Length", 0)))
        if not self._ticket_holds(path):
            rule = Answer(status=403)
        if isinstance(rule, Answer | Redirect):
            answered = self._answer(client, rule, path)
            body.drain()  # as nginx does: whoever does not listen while he talks sends it all for nothing
            return answered
        with self._lock:
            self._passing += 1
        try:
            return self._pass_on(client, upstream, rule, method, path, headers, body)
        finally:
            with self._lock:
                self._passing -= 1

    def _ticket_holds(self, path: str) -> bool:
        """URLs that came from a `Redirect` of another proxy are good for some requests only."""
        ticket = re.search(r"[?&]ticket=([^&]+)", path)
        if not ticket:
            return True
        with self._lock:
            left = self._tickets.setdefault(ticket[1], int(ticket[1].rpartition("-")[2]))
            self._tickets[ticket[1]] = left - 1
        return left > 0

    def _answer(self, client: socket.socket, rule: Answer | Redirect, path: str) -> bool:
        now = time.time()
        if isinstance(rule, Redirect):
            ticket = f"{time.monotonic_ns()}-{rule.lifetime}"
            mark = "&" if "?" in path else "?"
            headers = [("Location", f"http://localhost:{rule.port}{path}{mark}ticket={ticket}")]
            status = 307
        else:
            headers, status = list(rule.headers), rule.status
            now += 3600 if rule.dated else 0
            if rule.retry_after is not None:
                until = formatdate(now + rule.retry_after, usegmt=True)
                headers.append(("Retry-After", until if rule.dated else str(rule.retry_after)))
        headers += [("Date", formatdate(now, usegmt=True)), ("Content-Length", "0")]
        client.sendall(_head(status, headers))
        return True

    def _pass_on(
        self,
        client: socket.socket,
        upstream: http.client.HTTPConnection,
        rule: Rules | None,
        method: str,
        path: str,
        headers: dict[str, str],
        body: _Incoming,
    ) -> bool:
        asked = rule.instead if isinstance(rule, Swap) else path
        upstream.putrequest(method, asked, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                upstream.putheader(name, value)
        upstream.endheaders()
        for piece in body.pieces(rule.at if isinstance(rule, CutUpload | StallUpload) else None):
            upstream.send(piece)
        if isinstance(rule, StallUpload):
            self._wait_for_gone(client)
            return False
        if isinstance(rule, CutUpload):
            _forget(client, reset=rule.reset)
            return False
        with closing(upstream.getresponse()) as response:
            if isinstance(rule, Lose):
                return False
            if isinstance(rule, Hold):
                response.read()
                self._wait_for_end(client)
                return False
            return self._return(client, response, rule, method)

    def _return(
        self, client: socket.socket, response: http.client.HTTPResponse, rule: Rules | None, method: str
    ) -> bool:
        bodyless = method == "HEAD" or response.status in (204, 304)
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP]
        whole = int(response.getheader("Content-Length", 0))
        if short := isinstance(rule, Short) and not bodyless and rule.at < whole:
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(rule.at)))
        known = response.getheader("Content-Length") is not None or bodyless
        if not known:
            headers.append(("Connection", "close"))
        if isinstance(rule, Drip):
            return self._drip(client, _head(response.status, headers), rule.pause)
        client.sendall(_head(response.status, headers))
        sent = 0
        while not bodyless and (piece := response.read(PIECE)):
            if isinstance(rule, Flip) and sent <= rule.at < sent + len(piece):
                changed = bytearray(piece)
                changed[rule.at - sent] ^= 1
                piece = bytes(changed)
            if short and sent + len(piece) > rule.at:
                self._give(client, piece[: rule.at - sent])
                return False
            if isinstance(rule, Cut | Stall) and sent + len(piece) > rule.at:
                self._give(client, piece[: rule.at - sent])
                if isinstance(rule, Stall):
                    self._wait_for_end(client)
                elif rule.reset:
                    _forget(client, reset=True)
                return False
            self._give_slowly(client, piece, rule, sent) if isinstance(rule, Slow) else self._give(client, piece)
            sent += len(piece)
        return known

    def _drip(self, client: socket.socket, head: bytes, pause: float) -> bool:
        for place in range(len(head)):
            client.sendall(head[place : place + 1])
            if self._ended.wait(pause):
                break
        return False

    def _give_slowly(self, client: socket.socket, piece: bytes, rule: Slow, sent: int) -> None:
        fast = max(min(rule.at - sent, len(piece)), 0)
        self._give(client, piece[:fast])
        for start in range(fast, len(piece), rule.piece):
            self._give(client, piece[start : start + rule.piece])
            if self._ended.wait(len(piece[start : start + rule.piece]) / rule.rate):
                return

    def _give(self, client: socket.socket, piece: bytes) -> None:
        client.sendall(piece)
        with self._lock:
            self.bytes_to_client += len(piece)

    def _wait_for_gone(self, client: socket.socket) -> None:
        """Until the client is gone. What it has sent and nobody reads stands in the way of hearing that otherwise."""
        gone = select.poll()
        gone.register(client, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        while not self._ended.is_set() and not gone.poll(200):
            pass

    def _wait_for_end(self, client: socket.socket) -> None:
        client.settimeout(0.2)
        while not self._ended.is_set():
            try:
                if not client.recv(1):
                    return
            except TimeoutError:
                continue


class _Incoming:
    """The body of a request, as it comes."""

    def __init__(self, proxy: Proxy, reader: BufferedReader, length: int) -> None:
        self._proxy = proxy
        self._reader = reader
        self._left = length

    def pieces(self, limit: int | None) -> Iterator[bytes]:
        left = self._left if limit is None else min(limit, self._left)
        while left:
            piece = self._reader.read1(min(PIECE, left))
            if not piece:
                raise ConnectionError("the client cut its request")
            left -= len(piece)
            with self._proxy._lock:
                self._proxy.bytes_to_upstream += len(piece)
            yield piece

    def drain(self) -> None:
        for _ in self.pieces(None):
            pass


def _forget(client: socket.socket, *, reset: bool) -> None:
    """With `reset` the client hears so at once when its connection is closed, and loses what it has not read yet."""
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
