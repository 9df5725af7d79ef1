"""A registry on a loopback port that keeps what it has of an upload that was cut, as distribution 3 and olareg do.

Debian's distribution 2.8 forgets the session; this one is for the other half of the registries. It knows uploads and
blobs only, and has its moods: relative locations, requests that are too large, no PATCH at all.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit


@dataclass(slots=True, kw_only=True)
class Keeping:
    """A body is cut after `cut_at` bytes, `cuts` times; one of more than `largest` is answered 413."""

    cuts: int = 0
    cut_at: int = 0
    largest: int | None = None
    least: int | None = None
    patches: bool = True
    status: bool = True
    """Whether it says how much it has of an upload."""
    patched_with: int = 202
    """The status of a PATCH that was taken."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, bytearray] = field(default_factory=dict)
    received: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    patched: list[int] = field(default_factory=list)
    """How many bytes came with each PATCH that was taken whole."""
    server: ThreadingHTTPServer = field(init=False)

    def __enter__(self) -> Keeping:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def count(self, method: str) -> int:
        return sum(1 for asked, _ in self.requests if asked == method)


class _Cut(Exception):
    pass


def _handler(registry: Keeping) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (_Cut, ConnectionError):
                self.close_connection = True

        def do_HEAD(self) -> None:
            registry.requests.append(("HEAD", self.path))
            blob = registry.blobs.get(self.path.rpartition("/")[2])
            self.answer(200 if blob is not None else 404, length=len(blob or b""))

        def do_POST(self) -> None:
            registry.requests.append(("POST", self.path))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = str(len(registry.requests))
            registry.sessions[name] = bytearray()
            headers = {"Location": f"/upload/{name}?state=a%2Fb"}
            if registry.least:
                headers["OCI-Chunk-Min-Length"] = str(registry.least)
            self.answer(202, headers)

        def do_PATCH(self) -> None:
            registry.requests.append(("PATCH", self.path))
            data = self.session()
            begin = re.match(r"(\d+)-", self.headers.get("Content-Range", "0-"))
            if not registry.patches or data is None:
                self.refuse(404 if registry.patches else 405)
            elif registry.largest and int(self.headers["Content-Length"]) > registry.largest:
                self.refuse(413)
            elif begin is None or int(begin[1]) != len(data):
                self.refuse(416)
            else:
                self.take(data)
                registry.patched.append(int(self.headers["Content-Length"]))
                self.answer(registry.patched_with, {"Location": self.path, "Range": f"0-{max(len(data) - 1, 0)}"})

        def do_GET(self) -> None:
            registry.requests.append(("GET", self.path))
            data = self.session()
            if data is None or not registry.status:
                self.answer(404 if registry.status else 405)
            else:
                self.answer(204, {"Location": self.path, "Range": f"0-{max(len(data) - 1, 0)}"})

        def do_PUT(self) -> None:
            registry.requests.append(("PUT", self.path))
            data = self.session()
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            if data is None or "state=a%2Fb&" not in self.path:
                return self.refuse(404)
            self.take(data)
            if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
                return self.answer(400)
            registry.blobs[digest] = bytes(data)
            del registry.sessions[urlsplit(self.path).path.rpartition("/")[2]]
            return self.answer(201)

        def do_DELETE(self) -> None:
            registry.requests.append(("DELETE", self.path))
            registry.sessions.pop(urlsplit(self.path).path.rpartition("/")[2], None)
            self.answer(204)

        def session(self) -> bytearray | None:
            return registry.sessions.get(urlsplit(self.path).path.rpartition("/")[2])

        def take(self, data: bytearray) -> None:
            left = int(self.headers.get("Content-Length", 0))
            limit = registry.cut_at if registry.cuts and left > registry.cut_at else None
            while left:
                piece = self.rfile.read1(min(left, 1 << 16, left if limit is None else limit))
                if not piece:
                    raise _Cut
                data += piece
                left -= len(piece)
                registry.received += len(piece)
                if limit is not None and (limit := limit - len(piece)) == 0:
                    registry.cuts -= 1
                    raise _Cut

        def refuse(self, status: int) -> None:
            """Answer before the body has come, and hang up, as servers do with what they will not read."""
            self.close_connection = True
            self.answer(status)

        def answer(self, status: int, headers: dict[str, str] | None = None, *, length: int = 0) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(length))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *values: object) -> None:
            pass

    return Handler
