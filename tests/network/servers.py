"""TLS servers on the loopback that tell what they saw: the name in the handshake, `Host`, who the client is."""

from __future__ import annotations

import json
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Seen:
    """A server that runs. `names` are those that clients asked for in TLS, `hosts` the `Host` of each request."""

    port: int
    names: list[str | None] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def server(certificate: Path | None, *, address: str = "127.0.0.1", clients: Path | None = None) -> Iterator[Seen]:
    """Answer every GET with `{}`. `clients` is the authority that the certificates of clients must be from."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.hosts.append(self.headers["Host"])
            seen.headers.append(dict(self.headers))
            if clients and isinstance(self.connection, ssl.SSLSocket):
                shown = self.connection.getpeercert() or {}
                seen.clients += [value for part in shown["subject"] for _, value in part]
            body = json.dumps({"path": self.path}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *values: object) -> None:
            pass

    made = ThreadingHTTPServer((address, 0), Handler)
    seen = Seen(port=made.server_port)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        context.sni_callback = lambda _socket, name, _context: seen.names.append(name)
        if clients:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    made.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield seen
    finally:
        made.shutdown()
        made.server_close()


@dataclass(slots=True, kw_only=True)
class Front:
    """TLS before a server that speaks none. `heard` is all that clients sent, as they meant it."""

    port: int
    heard: bytearray = field(default_factory=bytearray)


@contextmanager
def tls_front(certificate: Path, goal: tuple[str, int]) -> Iterator[Front]:
    """Take TLS off, and pass on what comes to `goal` and back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(goal, timeout=20) as behind,
            ):
                while True:
                    waiting = [client] if client.pending() else select.select([client, behind], (), (), 60)[0]
                    for one in waiting or [None]:
                        data = one.recv(1 << 17) if one else b""
                        if not data:
                            return
                        if one is client:
                            front.heard += data
                        (behind if one is client else client).sendall(data)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Handler) as made:
        front = Front(port=made.server_address[1])
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield front
        finally:
            made.shutdown()


@dataclass(slots=True, kw_only=True)
class Talkative:
    """A server that answers a POST, and interrupts a PATCH before it has read its body: with a status, or with 100."""

    url: str
    interrupts_with: str = ""
    connections: int = 0

    @classmethod
    @contextmanager
    def running(cls, certificate: Path | None) -> Iterator[Talkative]:
        """It runs until the block ends."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if certificate:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                made.connections += 1
                with suppress(OSError):
                    made._serve(context.wrap_socket(self.request, server_side=True) if certificate else self.request)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True

        with Listener(("127.0.0.1", 0), Handler) as listener:
            made = cls(url=f"http{'s' if certificate else ''}://talk.test:{listener.server_address[1]}/v2/")
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
            try:
                yield made
            finally:
                listener.shutdown()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader:
            while line := reader.readline():
                length = 0
                while (header := reader.readline()).strip():
                    name, _, value = header.decode("latin-1").partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                if line.startswith(b"PATCH"):
                    _say(client, self.interrupts_with)
                    while length and (piece := reader.read(min(length, 1 << 16))):
                        length -= len(piece)
                    _say(client, "201 Created") if self.interrupts_with.startswith("100") and not length else None
                else:
                    _say(client, "202 Accepted")


def _say(client: socket.socket, status: str) -> None:
    length = "" if status.startswith("100") else "Content-Length: 0\r\n"
    client.sendall(f"HTTP/1.1 {status}\r\n{length}\r\n".encode())
