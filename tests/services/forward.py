"""A forward proxy: absolute addresses and CONNECT, with a login if wanted. It knows names that nobody else does."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(slots=True, kw_only=True)
class Forward:
    """A proxy that runs. `passed` are the methods and addresses of the requests that it passed on."""

    address: str
    port: int
    login: str | None
    scheme: str = "http"
    passed: list[str] = field(default_factory=list)
    refused: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.login + '@' if self.login else ''}{self.address}:{self.port}"


@contextmanager
def forward_proxy(
    names: Mapping[str, tuple[str, int]],
    *,
    address: str = "127.0.0.1",
    login: str | None = None,
    certificate: Path | None = None,
) -> Iterator[Forward]:
    """Pass on what is for hosts among `names`, to their addresses. `login` is `user:password`, as a client sends it.

    `certificate` is a PEM file with its key beside it (`.key`): then it is itself spoken to with TLS.
    """
    expected = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            goal = self.goal(parts.hostname)
            if goal:
                with closing(http.client.HTTPConnection(*goal, timeout=20)) as upstream:
                    path = parts.path + (f"?{parts.query}" if parts.query else "")
                    upstream.request("GET", path, headers={"Host": parts.netloc})
                    answer = upstream.getresponse()
                    body = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Type", "Last-Modified", "Location"):
                    if value := answer.getheader(name):
                        self.send_header(name, value)
                self.finish_with(body)

        def do_CONNECT(self) -> None:
            goal = self.goal(self.path.rpartition(":")[0])
            if goal:
                with socket.create_connection(goal, timeout=20) as upstream:
                    self.send_response(200)
                    self.end_headers()
                    _join(self.connection, upstream)
                self.close_connection = True

        def goal(self, host: str | None) -> tuple[str, int] | None:
            if expected and self.headers.get("Proxy-Authorization") != expected:
                proxy.refused += 1
                self.send_response(407)
                self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
                self.finish_with(b"")
                return None
            if host not in names:
                self.send_response(502)
                self.finish_with(b"")
                return None
            proxy.passed.append(f"{self.command} {self.path}")
            return names[host]

        def finish_with(self, body: bytes) -> None:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *values: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    proxy = Forward(address=address, port=server.server_port, login=login, scheme="https" if certificate else "http")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side is done."""
    peers = {one: other, other: one}
    with suppress(OSError):
        while True:
            pending = [one for one in peers if isinstance(one, ssl.SSLSocket) and one.pending()]
            for ready in pending or select.select(list(peers), [], [], 20)[0] or [None]:
                data = ready.recv(1 << 16) if ready else b""
                if not data:
                    return
                peers[ready].sendall(data)
