"""Where models are fetched from, on loopback ports: a web server of objects with moods, S3, Google Storage, a Hub.

The S3 service is moto's, Google Storage an emulator; the Hub answers what the documented API of Hugging Face's does,
and a Git LFS server what the batch API says.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from composer.oci.image import Descriptor, canonical_json, make_manifest, sha256
from tests.images import Picture, layer_tar, picture
from tests.services.registry import free_port


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request that came: `path` with its query, and what was said with it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True, kw_only=True)
class Objects:
    """A web server of `objects` by path. What it sends is cut after `cut_at` bytes, `cuts` times.

    `ranges`: whether it can begin in the middle. `tags` are strong ETags, `weak` weak ones; `dated` adds Last-Modified.
    `login` is the Authorization that it wants. `answers` are other paths: what they do with a request.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    cuts: int = 0
    cut_at: int = 1 << 20
    ranges: bool = True
    tags: bool = True
    weak: bool = False
    dated: bool = False
    login: str | None = None
    busy: int = 0
    kind: str = "application/octet-stream"
    moved: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Callable[[Asked], tuple[int, Any, Mapping[str, str]]]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    server: ThreadingHTTPServer = field(init=False)

    def __enter__(self) -> Objects:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def port(self) -> int:
        return self.server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self, name: str) -> list[str | None]:
        """A header of all requests, in order."""
        return [one.headers.get(name) for one in self.asked]


def _handler(store: Objects) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.take("GET")

        def do_POST(self) -> None:
            self.take("POST")

        def take(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(method=method, path=self.path, headers=dict(self.headers), body=body)
            with store.lock:
                store.asked.append(asked)
                busy, store.busy = store.busy > 0, max(store.busy - 1, 0)
            path = unquote(urlsplit(self.path).path)
            if busy:
                self.answer(503, b"", {})
            elif path in store.moved:
                self.answer(302, b"", {"Location": store.moved[path]})
            elif store.login and self.headers.get("Authorization") != store.login:
                self.answer(401, b"who are you?", {})
            elif found := next((do for name, do in store.answers.items() if re.fullmatch(name, path)), None):
                status, said, headers = found(asked)
                self.answer(status, json.dumps(said).encode(), {"Content-Type": "application/json", **headers})
            elif path in store.objects:
                self.file(store.objects[path])
            else:
                self.answer(404, b"no such file", {})

        def file(self, data: bytes) -> None:
            tag = '"' + hashlib.md5(data).hexdigest() + '"'
            headers = {"Content-Type": store.kind}
            if store.tags:
                headers["ETag"] = f"W/{tag}" if store.weak else tag
            if store.dated:
                headers["Last-Modified"] = formatdate(1_000_000_000 + len(data), usegmt=True)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range") in (None, headers.get("ETag"), headers.get("Last-Modified"))
            if not (wanted and store.ranges and same):
                return self.answer(200, data, headers)
            start = int(wanted[1])
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[start:], headers)

        def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with store.lock:
                cut = status in (200, 206) and store.cuts > 0 and len(body) > store.cut_at
                store.cuts -= cut
            body = body[: store.cut_at] if cut else body
            self.wfile.write(body)
            with store.lock:
                store.sent += len(body)
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *values: object) -> None:
            pass

    return Handler


# -- buckets ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that runs."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_s3() -> Iterator[Service]:
    """moto's S3, in threads of this process. Objects go in by plain PUT, as it checks no signatures."""
    from moto.server import ThreadedMotoServer

    service = Service(port=free_port())
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=service.port, verbose=False)
    server.start()
    try:
        yield service
    finally:
        server.stop()


@contextmanager
def running_google_storage() -> Iterator[Service]:
    """An emulator of Google Storage, in a thread of this process; what it holds is in memory."""
    from gcp_storage_emulator.server import create_server

    service = Service(port=free_port())
    server = create_server("127.0.0.1", service.port, in_memory=True, default_bucket="models")
    server.start()
    try:
        yield service
    finally:
        server.stop()


# -- the Hub ------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub(store: Objects, repository: str, files: Mapping[str, bytes], *, large: int = 1000, page: int = 2) -> None:
    """Have a server answer as the Hub does for one repository: files of `large` bytes and more are kept in LFS.

    Source: https://huggingface.co/docs/hub/api, and the Hub's OpenAPI description.
    """
    entries = [_entry(path, data, large) for path, data in sorted(files.items())]
    folders = {path.rpartition("/")[0] for path in files if "/" in path}

    def revision(asked: Asked) -> tuple[int, Any, Mapping[str, str]]:
        name = unquote(asked.path.rpartition("/")[2])
        return (200, {"sha": COMMIT}, {}) if name in ("main", "v1", "refs/pr/1", COMMIT) else (404, {}, {})

    def paths_info(asked: Asked) -> tuple[int, Any, Mapping[str, str]]:
        wanted = json.loads(asked.body)["paths"]
        found = [entry for entry in entries if entry["path"] in wanted]
        return 200, found + [{"type": "directory", "path": path} for path in wanted if path in folders], {}

    def tree(asked: Asked) -> tuple[int, Any, Mapping[str, str]]:
        below = unquote(urlsplit(asked.path).path).partition(f"/tree/{COMMIT}")[2].strip("/")
        found = [entry for entry in entries if entry["path"].startswith(f"{below}/" if below else "")]
        start = int(re.search(r"cursor=(\d+)|$", asked.path)[1] or 0)  # type: ignore[index]
        follows = f'<{store.url}{urlsplit(asked.path).path}?recursive=true&cursor={start + page}>; rel="next"'
        return 200, found[start : start + page], {"Link": follows} if len(found) > start + page else {}

    api = f"/api/models/{re.escape(repository)}"
    store.answers[f"{api}/revision/.+"] = revision
    store.answers[f"{api}/paths-info/{COMMIT}"] = paths_info
    store.answers[f"{api}/tree/{COMMIT}.*"] = tree
    for path, data in files.items():
        store.objects[f"/{repository}/resolve/{COMMIT}/{path}"] = data


def _entry(path: str, data: bytes, large: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if len(data) >= large:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


# -- Git LFS ------------------------------------------------------------------------------------------------------


def pointer(data: bytes) -> bytes:
    """What Git LFS leaves in the place of a file."""
    oid = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()


def lfs(store: Objects, repository: str, *files: bytes) -> None:
    """Have a server answer the batch API for a repository. Source: Git LFS, docs/api/batch.md."""
    known = {hashlib.sha256(data).hexdigest(): data for data in files}
    store.objects |= {f"/lfs/{oid}": data for oid, data in known.items()}

    def batch(asked: Asked) -> tuple[int, Any, Mapping[str, str]]:
        one = json.loads(asked.body)["objects"][0]
        if one["oid"] not in known:
            return 200, {"objects": [one | {"error": {"code": 404, "message": "not here"}}]}, {}
        where = {"href": f"{store.url}/lfs/{one['oid']}?sig=SIGNED", "header": {"X-Ticket": "TICKET"}}
        return 200, {"transfer": "basic", "objects": [one | {"actions": {"download": where}}]}, {}

    store.answers[f"/{re.escape(repository)}/info/lfs/objects/batch"] = batch


# -- images -------------------------------------------------------------------------------------------------------

TITLE = "org.opencontainers.image.title"
"""The annotation of a layer that is a file of an ORAS artifact."""


def modelcar(*layers: Mapping[str, bytes]) -> Picture:
    """An image whose layers hold these files."""
    base = picture(layers=1)
    tars = [layer_tar(files) for files in layers]
    blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    config = canonical_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
        }
    )
    media = base.manifest.layers[0].media_type
    manifest = make_manifest(
        base.manifest.media_type,
        Descriptor.of(config, base.manifest.config.media_type),
        [Descriptor.of(blob, media) for blob in blobs],
    )
    return Picture(manifest=manifest, data={sha256(raw): raw for raw in (config, manifest.raw, *blobs)})
