"""Hosts that take a connection and say nothing, or next to nothing: every wait has an end, and most are healed.

The time limit of a read is a second here and 30 in earnest: what takes so many seconds here takes 30 times as long.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from composer import network
from composer.errors import Unreachable
from composer.network.routes import Routes
from composer.oci import wire
from composer.oci.gates import Gates
from composer.oci.image import OCI_LAYER, Descriptor
from composer.oci.store import Store
from tests.command import tricompose
from tests.conftest import require
from tests.services.proxy import Answer, Drip, Hold, Proxy, Rules, Slow, Stall
from tests.services.registry import Registry, free_port, running_registry, store_at

pytestmark = pytest.mark.registry

MIB = 1 << 20
SIZE = 12 * MIB
DATA = random.Random(2).randbytes(SIZE)
BLOB = Descriptor.of(DATA, f"{OCI_LAYER}+gzip")
SOON = 5.0
"""Seconds of which one is the time limit: in earnest that is 30 + 4."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require("docker-registry")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        store = store_at(f"{running.host}/a/b")
        store.write(BLOB, lambda: iter((DATA,)))
        store.publish(b'{"schemaVersion":2,"config":' + json.dumps(BLOB.to_json()).encode() + b',"layers":[]}',
                      "application/vnd.oci.image.manifest.v1+json", "1")  # fmt: skip
        yield running


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes every connection and never says a word; not even TLS gets an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for one in taken:
            one.close()


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(Stall(at=5 * MIB, times=1), id="in-the-middle"),
        pytest.param(Stall(at=0, times=1), id="before-the-body"),
        pytest.param(Hold(times=1), id="before-the-head"),
        pytest.param(Drip(times=1, pause=0.4), id="a-head-that-drips"),
        pytest.param(Hold(method="HEAD", path="/manifests/", times=1), id="of-a-tag"),
        pytest.param(Hold(method="GET", path="/manifests/", times=1), id="of-a-manifest"),
        pytest.param(Stall(path="/manifests/", at=20, times=1), id="in-a-manifest"),
    ],
)
def test_a_silence_while_reading_is_healed(registry: Registry, rule: Rules) -> None:
    with Proxy(registry.port, [rule]) as proxy:
        store = store_at(f"{proxy.host}/a/b", stall=1)
        began = time.monotonic()
        store.manifest(store.resolve("1"))
        assert b"".join(store.read(BLOB)) == DATA
        assert time.monotonic() - began < SOON
        assert rule.times <= 0
        assert proxy.bytes_to_client <= SIZE + 2000


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(Hold(method="POST", path="/uploads/", times=1), id="to-the-beginning"),
        pytest.param(Hold(method="PATCH", path="/uploads/", times=1), id="to-the-bytes"),
        pytest.param(Hold(method="PUT", path="/uploads/", times=1), id="to-the-end"),
        pytest.param(Hold(method="PUT", path="/manifests/", times=1), id="to-a-manifest"),
    ],
)
def test_a_silence_in_answer_to_an_upload_is_healed(
    registry: Registry, rule: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("composer.oci.upload._ANSWER", 1.0)
    data = DATA[: 3 * MIB] + rule.method.encode() + rule.path.encode()
    blob = Descriptor.of(data, f"{OCI_LAYER}+gzip")
    with Proxy(registry.port, [rule]) as proxy:
        store = store_at(f"{proxy.host}/up/{rule.method.lower()}", stall=1)
        began = time.monotonic()
        store.write(blob, lambda: iter((data,)))
        document = {"schemaVersion": 2, "config": blob.to_json(), "layers": []}
        store.publish(json.dumps(document).encode(), "application/vnd.oci.image.manifest.v1+json", "1")
        assert time.monotonic() - began < SOON + 2
        assert store.has(blob)
        assert rule.times <= 0


def test_a_handshake_that_is_never_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "CONNECT", 1.0)
    with silent() as port:
        pinned = network.session(Routes(hosts={"far.example.com": ("127.0.0.1",)}), stall=1)
        store = store_at(f"far.example.com:{port}/a/b", session=pinned, patience=3)
        began = time.monotonic()
        with pytest.raises(Unreachable, match=f"far.example.com:{port}"):
            store.resolve("1")
        assert time.monotonic() - began < SOON


def test_a_token_service_that_says_nothing_ends(tmp_path: Path) -> None:
    with silent() as port, Proxy(free_port(), [_challenge(port)]) as proxy:
        store = store_at(f"{proxy.host}/a/b", stall=1, patience=3)
        began = time.monotonic()
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port} sent nothing for too long"):
            store.resolve("1")
        assert time.monotonic() - began < 10


def _challenge(port: int) -> Answer:
    header = ("WWW-Authenticate", f'Bearer realm="http://127.0.0.1:{port}/token",service="x"')
    return Answer(method=".*", path="/", status=401, headers=(header,))


def test_a_line_that_only_drips_is_not_alive(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps any time limit away; a minute of it is a second here."""
    monkeypatch.setattr(wire, "DRIP", 1.0)
    with Proxy(registry.port, [Slow(at=4 * MIB, rate=10, piece=1, times=1)]) as proxy:
        began = time.monotonic()
        store = store_at(f"{proxy.host}/a/b", stall=1)
        assert b"".join(store.read(BLOB)) == DATA
        assert 0.9 < time.monotonic() - began < SOON
        assert proxy.bytes_to_client <= SIZE + 1000
    with Proxy(registry.port, [Slow(at=4 * MIB, rate=10, piece=1, times=1), Slow(rate=10, piece=1)]) as proxy:
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"sent only \d+ bytes in 1 s; given up after \d+ s without progress"):
            list(store_at(f"{proxy.host}/a/b", stall=1, patience=2).read(BLOB))
        assert time.monotonic() - began < SOON + 2


def test_a_line_that_is_merely_slow_is_alive(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "DRIP", 1.0)
    with Proxy(registry.port, [Slow(at=SIZE - 12_000, rate=4000, piece=1000)]) as proxy:
        assert b"".join(store_at(f"{proxy.host}/a/b", stall=1, patience=1).read(BLOB)) == DATA
        assert proxy.count("GET", "/blobs/") == 1


# -- pauses that were asked for --------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "pause", "limit", "dated"), [(6, 1, 8.0, False), (2, 2, 6.0, True)])
def test_many_at_once_get_along_with_a_registry_that_is_asked_too_often(
    registry: Registry, times: int, pause: int, limit: float, dated: bool
) -> None:
    """Four stores of one session: while it refuses there is one request after each pause; then all of them go on."""
    rule = Answer(path="/blobs/", status=429, times=times, retry_after=pause, dated=dated)
    gates = Gates()
    with Proxy(registry.port, [rule]) as proxy:
        began = time.monotonic()
        read_all([store_at(f"{proxy.host}/a/b", gates=gates) for _ in range(4)])
        assert time.monotonic() - began < limit
        asked = [request.at for request in proxy.requests if "/blobs/" in request.path]
        assert len(asked) == times + 4
        # The first few were on their way together.
        later = [at for at in asked[:times] if at > asked[0] + 0.5]
        assert all(after - before >= pause * 0.95 for before, after in pairwise(later))


def read_all(stores: Sequence[Store]) -> None:
    done: list[bytes] = []
    readers = [threading.Thread(target=lambda s=store: done.append(b"".join(s.read(BLOB)))) for store in stores]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert done == [DATA] * len(stores)


def test_patience_is_what_the_command_line_says(registry: Registry, tmp_path: Path) -> None:
    """12 refusals with a pause of a second each are more than 2 seconds; the message says how long it waited."""
    with Proxy(registry.port, [Answer(path="/", method="HEAD|GET", status=429, times=12, retry_after=1)]) as proxy:
        began = time.monotonic()
        said = tricompose("copy", f"docker://{proxy.host}/a/b:1", "oci:layout:1", "--max-wait", "2", cwd=tmp_path)
        took = time.monotonic() - began
    assert said.returncode == 9
    assert "asks to wait 1 s; given up after" in said.stderr
    assert "(--max-wait 2)" in said.stderr
    assert "hint: " in said.stderr
    assert "waiting 1 s for" in said.stderr
    assert took < 8


def test_a_black_hole_ends_within_the_time_to_connect(tmp_path: Path) -> None:
    """192.0.2.1 is nobody's: what is sent there is lost, or refused by the first router that knows."""
    began = time.monotonic()
    said = tricompose("copy", "docker://192.0.2.1:5000/a/b:1", "oci:layout:1", "--json", cwd=tmp_path)
    assert said.returncode == 9
    assert time.monotonic() - began < 25
    assert "192.0.2.1" in json.loads(said.stdout)["error"]["message"]
