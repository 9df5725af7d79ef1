"""A folder on the web: plain HTTP or TLS, on an address of choice, with a list of what was asked."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Web:
    """A server that runs. `asked` are the paths of all requests, in order."""

    folder: Path
    address: str
    port: int
    scheme: str
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.at(self.address)

    def at(self, host: str) -> str:
        """Its URL under another name of the same machine."""
        return f"{self.scheme}://{host}:{self.port}"


@contextmanager
def web(folder: Path, *, address: str = "127.0.0.1", port: int = 0, certificate: Path | None = None) -> Iterator[Web]:
    """Serve a folder. `certificate` is a PEM file with its key beside it (`.key`): then it speaks TLS only."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: object = "-", size: object = "-") -> None:
            asked.append(self.path)

        def log_message(self, *values: object) -> None:
            pass

    server = ThreadingHTTPServer((address, port), partial(Handler, directory=str(folder)))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        # The handshake is the connection's own business: done in accept() it would keep all others waiting.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        scheme = "https" if certificate else "http"
        yield Web(folder=folder, address=address, port=server.server_port, scheme=scheme, asked=asked)
    finally:
        server.shutdown()
        server.server_close()
