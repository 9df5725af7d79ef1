"""A proxy on the loopback by which programs that go their own way go ours: uv, and the libraries of buckets.

    with Door(routes) as door:
        subprocess.run(["uv", ...], env=environment | door.environment)

Names, addresses and proxies are then those of the routes. TLS stays between the program and the host: the door sees
nothing of it, so whom to trust the program has to be told. Only who knows the login gets through, and that is made anew
for each door.

Source: RFC 9110, section 7.6.1; RFC 9112, section 3.2.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from composer.errors import Unreachable
from composer.network.addresses import Address, joined
from composer.network.names import CONNECT, Names
from composer.network.proxies import Proxy, address_for, from_environment, login_header, parse_proxy
from composer.network.routes import Routes
from composer.network.trust import Trust
from composer.network.tunnel import tunnel
from composer.oci.obstacles import Obstructed, Unconnected, Unresolved

_USER: Final = "tricompose"
_IDLE: Final = 300.0
"""Seconds after which a connection that nobody uses is closed."""

_HOPELESS: Final = ("nowhere", "proxy")

_LARGEST_HEAD: Final = 1 << 16
_PIECE: Final = 1 << 17
_HOPS: Final = frozenset({"proxy-authorization", "proxy-connection", "connection", "keep-alive"})


def needed(routes: Routes) -> bool:
    """Whether a program that goes its own way would go another one than we do."""
    proxies = from_environment(os.environ) if routes.proxies is None else routes.proxies
    return bool(routes.hosts or routes.dns or proxies)


class Door:
    """The proxy, from now until it is closed.

    `failures` are the hosts that could not be reached, and why; it is `hopeless` where another try would not help.
    """

    def __init__(self, routes: Routes) -> None:
        self.failures: dict[str, Unreachable] = {}
        self.hopeless = False
        self._names = Names(routes.hosts, routes.dns)
        self._proxies = routes.proxies
        self._trust = Trust(routes.ca_bundle, routes.certs)
        self._password = secrets.token_urlsafe(24)
        self._expected = "Basic " + base64.b64encode(f"{_USER}:{self._password}".encode()).decode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True, name="door").start()

    @property
    def url(self) -> str:
        """Its address, with the login: a secret."""
        return f"http://{_USER}:{self._password}@127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which programs find it. They are not seen by others, as a command line would be."""
        return {
            spelt: value
            for name, value in (("http_proxy", self.url), ("https_proxy", self.url), ("no_proxy", ""))
            for spelt in (name, name.upper())
        }

    def close(self) -> None:
        """Let nobody in any more."""
        # A thread that waits in accept() would keep the listener alive.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True, name="door").start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError):
            client.settimeout(_IDLE)
            head, rest = _head(client)
            request = _Request.of(head)
            if request is None:
                client.sendall(_answer("400 Bad Request"))
            elif not hmac.compare_digest(request.login.encode(), self._expected.encode()):
                client.sendall(_answer("407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="door"'))
            else:
                self._pass(client, request, rest)

    def _pass(self, client: socket.socket, request: _Request, rest: bytes) -> None:
        from composer.oci.trouble import Trouble, diagnose

        try:
            upstream, asking = self._reached(request)
        except (OSError, Unreachable) as error:
            if isinstance(error, Unreachable):
                trouble = Trouble(kind="proxy", error=error)
            else:
                trouble = diagnose(error, request.place)
            self.failures[request.place] = trouble.error
            self.hopeless |= trouble.kind in _HOPELESS
            client.sendall(_answer("502 Bad Gateway"))
            return
        with closing(upstream):
            if request.tunnel:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream.sendall(request.head(asking))
            upstream.sendall(rest)
            _join(client, upstream)

    def _reached(self, request: _Request) -> tuple[socket.socket, Proxy | None]:
        """A connection on which the host itself is, or else the proxy that is to be asked for it."""
        scheme = "https" if request.tunnel else "http"
        address = address_for(f"{scheme}://{request.place}/", self._proxies)
        if address is None:
            return self._names.connect(request.host, request.port), None
        proxy = parse_proxy(address)
        if not request.tunnel:
            return self._to_proxy(proxy), proxy
        goals = self._names.fixed(request.host, request.port) or ((request.host, request.port),)
        return self._tunnelled(proxy, goals), None

    def _tunnelled(self, proxy: Proxy, goals: Sequence[Address]) -> socket.socket:
        """A way through a proxy to the first address that it reaches."""
        *others, last = goals
        for goal in others:
            try:
                return tunnel(self._to_proxy(proxy), proxy, goal, timeout=CONNECT)
            except Obstructed as error:
                if error.status is None or error.status in (401, 403, 407):
                    raise
        return tunnel(self._to_proxy(proxy), proxy, last, timeout=CONNECT)

    def _to_proxy(self, proxy: Proxy) -> socket.socket:
        try:
            made = self._names.connect(proxy.host, proxy.port)
        except (Unresolved, Unconnected) as error:
            raise Obstructed(proxy.shown, error.why) from error
        if not proxy.secure:
            return made
        try:
            context = self._trust.context(proxy.host, proxy.port)
            return context.wrap_socket(made, server_hostname=proxy.host)
        except OSError as error:
            made.close()
            why = getattr(error, "verify_message", "") or type(error).__name__
            raise Obstructed(proxy.shown, f"TLS with it fails ({why})") from error


class _Request:
    """What a program asks for: a tunnel to a host, or one exchange in plain HTTP."""

    def __init__(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> None:
        self.tunnel = method == "CONNECT"
        parts = urlsplit(f"//{target}" if self.tunnel else target)
        if not parts.hostname or (not self.tunnel and parts.scheme != "http"):
            raise ValueError(target)
        self.host = parts.hostname
        self.port = parts.port or 80
        self._method, self._parts, self._headers = method, parts, headers
        self.login = next((value for name, value in headers if name.lower() == "proxy-authorization"), "")

    @classmethod
    def of(cls, head: bytes) -> Self | None:
        """Read one, or None where it makes no sense."""
        lines = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.[01]", lines[0])
        headers = [(name, value.strip()) for name, colon, value in (one.partition(":") for one in lines[1:]) if colon]
        try:
            return cls(found[1], found[2], headers) if found else None
        except ValueError:
            return None

    @property
    def place(self) -> str:
        """`host:port`."""
        return joined(self.host, self.port)

    def head(self, proxy: Proxy | None) -> bytes:
        """What is sent on, to the host or to a proxy. The connection is for this one exchange."""
        path = self._parts._replace(scheme="", netloc="").geturl() or "/"
        goal = self._parts.geturl() if proxy else path
        kept = [(name, value) for name, value in self._headers if name.lower() not in _HOPS]
        ours = [("Connection", "close"), *(login_header(proxy).items() if proxy else ())]
        lines = [f"{self._method} {goal} HTTP/1.1", *(f"{name}: {value}" for name, value in (*kept, *ours))]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The first lines of a request or an answer, and what came after them. Raises `OSError` where there is no end."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = client.recv(_LARGEST_HEAD)
        if not piece or len(found) > _LARGEST_HEAD:
            raise ConnectionError("no end of the head")
        found += piece
    head, _, rest = found.partition(b"\r\n\r\n")
    return head, rest


def _answer(status: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _join(one: socket.socket, other: socket.socket) -> None:
    """Pass on what comes from either, until one of them has nothing more to say."""
    one.settimeout(_IDLE)
    other.settimeout(_IDLE)
    ways = {one: other, other: one}
    while ready := list(_ready(tuple(ways))):
        for source in ready:
            piece = source.recv(_PIECE)
            if not piece:
                return
            ways[source].sendall(piece)


def _ready(sockets: Sequence[socket.socket]) -> Iterator[socket.socket]:
    """Those that have something to be read, of which TLS may have taken it in already; none when all are idle."""
    waiting = [one for one in sockets if isinstance(one, ssl.SSLSocket) and one.pending()]
    yield from waiting or select.select(sockets, (), (), _IDLE)[0]
