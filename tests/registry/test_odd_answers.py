"""Registries that say odd things, by malice or by a proxy before them: each comes to an error in words, soon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unreachable
from composer.oci.image import OCI_MANIFEST, Descriptor
from tests.images import picture
from tests.services.registry import store_at

IMAGE = picture(filler=100_000)
LARGEST = max(IMAGE.manifest.layers, key=lambda layer: layer.size)
DEEP = b"[" * 60_000
DIGITS = "9" * 5_000
NOT_A_DIGIT = "\u00b2"

Answer = tuple[int, Mapping[str, str], bytes]
Say = Callable[[str, str], Answer | None]


@dataclass(slots=True)
class Odd:
    """A registry that has IMAGE, takes uploads, and says what `say` gives for a method and a path, if anything."""

    say: Say
    port: int = 0
    asked: list[str] = field(default_factory=list)
    endless: bool = False

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}/a/b"

    def answer(self, method: str, path: str) -> Answer:
        self.asked.append(f"{method} {path}")
        if odd := self.say(method, path):
            return odd
        name = path.partition("?")[0].rpartition("/")[2]
        if "/manifests/" in path:
            return 200, {"Content-Type": OCI_MANIFEST}, IMAGE.manifest.raw
        if "/uploads/" in path:
            return {"POST": 202, "PATCH": 202, "PUT": 201}.get(method, 204), {"Location": "/v2/a/b/uploads/one"}, b""
        return (200, {}, IMAGE.data[name]) if name in IMAGE.data and method == "GET" else (404, {}, b"")


@contextmanager
def odd(say: Say, *, endless: bool = False) -> Iterator[Odd]:
    registry = Odd(say, endless=endless)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = registry.answer(self.command, self.path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            if not registry.endless:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            while registry.endless:
                self.wfile.write(b"x" * 65536)

        do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = handle_one  # noqa: N815

        def log_message(self, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        registry.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield registry
        server.shutdown()


def pull(registry: Odd) -> None:
    with_it = store_at(registry.place, patience=0.3, stall=3)
    root = with_it.resolve("1")
    with_it.manifest(root)
    for _ in with_it.read(LARGEST):
        pass


def push(registry: Odd) -> None:
    store_at(registry.place, patience=0.3, stall=3).write(LARGEST, lambda: iter([IMAGE.data[LARGEST.digest]]))


def on(part: str, status: int, body: bytes = b"", **headers: str) -> Say:
    spelt = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda method, path: (status, spelt, body) if part in path else None


NOWHERE = ["file:///etc/passwd", "http://127.0.0.1:99999999/", "http://[::1", "http://h:abc/", "ftp://h/x", "data:,x"]


@pytest.mark.parametrize("location", NOWHERE)
def test_we_are_sent_nowhere(location: str) -> None:
    for part, action in (("/manifests/", pull), ("/blobs/sha256", pull), ("/uploads/", push)):
        with odd(on(part, 307, Location=location)) as registry, pytest.raises(Unreachable) as caught:
            action(registry)
        assert "sends us to an address that is none" in caught.value.message
    with odd(on("/uploads/", 202, Location=location)) as registry, pytest.raises(Unreachable) as caught:
        push(registry)
    assert "sends us to an address that is none" in caught.value.message


@pytest.mark.parametrize("realm", [*NOWHERE, "/token"])
def test_a_token_service_that_is_nowhere(realm: str) -> None:
    say = on("/v2/", 401, WWW_Authenticate=f'Bearer realm="{realm}",service="x"')
    with odd(say) as registry, pytest.raises(Unreachable, match="sends us to an address that is none"):
        pull(registry)


TOKENS = [DEEP, b'{"token": "a\\nb: c"}', b'{"token": "\\u2603"}', b'{"token": "\\ud800"}', b"[]", b"\xff"]


@pytest.mark.parametrize("body", TOKENS, ids=["deep", "lines", "letters", "half", "list", "bytes"])
def test_a_token_that_is_none(body: bytes) -> None:
    def say(method: str, path: str) -> Answer:
        if path.startswith("/token"):
            return 200, {}, body
        return 401, {"WWW-Authenticate": f'Bearer realm="http://127.0.0.1:{registry.port}/token"'}, b""

    with odd(say) as registry, pytest.raises(Corrupt, match="without a token"):
        pull(registry)


@pytest.mark.parametrize(
    "wait", [NOT_A_DIGIT, DIGITS, "-5", "Mon, 01 Jan 99999 00:00:00 GMT", "Mon, 1 Jan 2024 0:0:0 +99999999999999"]
)
def test_a_wait_that_is_none(wait: str) -> None:
    for status in (429, 503):
        with odd(on("/manifests/", status, Retry_After=wait)) as registry, pytest.raises(Unreachable):
            pull(registry)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_error_that_is_too_deep_to_read(status: int) -> None:
    for action in (pull, push):
        with odd(on("/v2/", status, DEEP)) as registry, pytest.raises((Denied, NotFound)):
            action(registry)


@pytest.mark.parametrize("digest", ["sha256:zz", "sha256:../../x", NOT_A_DIGIT])
def test_a_digest_that_is_none_is_not_believed(digest: str) -> None:
    with odd(on("/manifests/", 200, IMAGE.manifest.raw, Docker_Content_Digest=digest)) as registry:
        assert store_at(registry.place).resolve("1").digest == IMAGE.root.digest


@pytest.mark.parametrize("place", [f"bytes 0-5/{DIGITS}", f"bytes {DIGITS}-5/10", f"bytes {NOT_A_DIGIT}-5/10"])
def test_a_part_of_a_blob_that_is_nowhere(place: str) -> None:
    with odd(on("/blobs/sha256", 206, b"x", Content_Range=place)) as registry, pytest.raises(TricomposeError):
        pull(registry)


@pytest.mark.parametrize("held", [f"0-{DIGITS}", f"0-{NOT_A_DIGIT}", "0-99999999999"])
def test_a_registry_that_holds_an_odd_part_of_an_upload(held: str) -> None:
    def say(method: str, path: str) -> Answer | None:
        if method == "PATCH":
            return 500, {}, b""
        return (204, {"Range": held}, b"") if method == "GET" and "/uploads/" in path else None

    with odd(say) as registry, pytest.raises(Unreachable):
        push(registry)


def test_an_upload_that_is_taken_and_lost_each_time_ends() -> None:
    """As where several registries stand behind one name and do not share what they have."""
    with (
        odd(lambda method, path: (404, {}, b"") if method == "PUT" else None) as registry,
        pytest.raises(Unreachable, match="lost an upload"),
    ):
        push(registry)
    assert sum(one.startswith("PATCH") for one in registry.asked) <= 7


def test_the_body_of_a_redirect_is_not_read() -> None:
    """It may be of any size, and has no end here."""
    say = on("/manifests/", 307, Location="http://[::1")
    with odd(say, endless=True) as registry, pytest.raises(Unreachable, match="sends us to an address that is none"):
        pull(registry)


def test_a_place_to_push_to_that_is_not_there() -> None:
    with odd(on("/uploads/", 404)) as registry, pytest.raises(NotFound, match="has no place for an upload") as caught:
        push(registry)
    assert "project" in (caught.value.hint or "")


def test_what_is_not_there_is_told_in_words() -> None:
    blob = Descriptor(media_type="", digest="sha256:" + "a" * 64, size=5)
    with odd(lambda method, path: None) as registry, pytest.raises(NotFound, match="has no blob sha256:aaa"):
        list(store_at(registry.place).read(blob))
