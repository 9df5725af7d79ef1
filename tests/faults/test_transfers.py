"""What bad networks and strained registries do to a transfer. Nothing wrong may arrive, and little comes twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread

import pytest

from composer import network
from composer.errors import Corrupt, Denied, NotFound, Unreachable
from composer.events import Event, Logged
from composer.network.routes import Routes
from composer.oci.copy import copy
from composer.oci.image import OCI_LAYER, Descriptor
from composer.oci.store import verified
from tests.conftest import require
from tests.images import Picture, picture, put
from tests.services.keeping import Keeping
from tests.services.proxy import Answer, Cut, CutUpload, Flip, IgnoreRange, Lose, Proxy, Redirect, Rules, Stall, Swap
from tests.services.registry import Registry, running_registry, store_at

pytestmark = pytest.mark.registry

MIB = 1 << 20
SIZE = 24 * MIB
DATA = random.Random(0).randbytes(SIZE)
BLOB = Descriptor.of(DATA, f"{OCI_LAYER}+gzip")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Holds the blob in `source/blob` and an image of it in `source/image`."""
    require("docker-registry")
    with running_registry(tmp_path_factory.mktemp("source")) as running:
        store_at(f"{running.host}/source/blob").write(BLOB, content)
        put(store_at(f"{running.host}/source/image"), IMAGE, "1")
        yield running


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("target")) as running:
        yield running


IMAGE: Picture = picture(layers=3, filler=4 * MIB, seed=9)


def content() -> Iterator[bytes]:
    for start in range(0, SIZE, MIB):
        yield DATA[start : start + MIB]


def read_through(proxy: Proxy, **options: float | Callable[[Event], None]) -> None:
    """Read the blob; that its bytes are right is what `read` itself makes sure of."""
    store = store_at(f"{proxy.host}/source/blob", **options)  # type: ignore[arg-type]
    assert sum(map(len, store.read(BLOB))) == SIZE


@pytest.mark.parametrize(
    ("rules", "share"),
    [
        pytest.param([Cut(at=3 * MIB)], 1.02, id="cut-every-3-MiB"),
        pytest.param([Cut(at=600_000)], 1.02, id="cut-every-600-kB"),
        pytest.param([Cut(at=12 * MIB, times=1)], 1.02, id="cut-once"),
        pytest.param([Cut(at=8 * MIB, times=1), IgnoreRange()], 1.6, id="cut-once-and-no-ranges"),
        pytest.param([Answer(status=503, times=2)], 1.0, id="503-twice"),
        pytest.param([Cut(at=6 * MIB, times=2), Answer(status=502, times=2)], 1.02, id="cut-and-502"),
    ],
)
def test_a_download_that_is_cut_goes_on(registry: Registry, rules: Sequence[Rules], share: float) -> None:
    with Proxy(registry.port, rules) as proxy:
        started = time.monotonic()
        read_through(proxy)
        assert proxy.bytes_to_client <= share * SIZE
        assert time.monotonic() - started < 15


@pytest.mark.parametrize("kind", ["shorter", "longer"])
def test_an_answer_of_another_size_is_asked_for_again(registry: Registry, kind: str) -> None:
    """It is not the blob, so it need not be read. Only one that stays shorter is, as the rest may follow."""
    other = next(layer for layer in IMAGE.manifest.layers if layer.size > MIB)
    wanted, given = (BLOB, other) if kind == "shorter" else (other, BLOB)
    repository, instead = ("blob", "image") if kind == "shorter" else ("image", "blob")
    swap = Swap(path=wanted.digest, instead=f"/v2/source/{instead}/blobs/{given.digest}", times=1)
    with Proxy(registry.port, [swap]) as proxy:
        store = store_at(f"{proxy.host}/source/{repository}")
        assert sum(map(len, store.read(wanted))) == wanted.size
        assert proxy.bytes_to_client < wanted.size + given.size
        assert proxy.count("GET", wanted.digest) == 2
        swap.times = float("inf")
        with pytest.raises(Corrupt, match=f"{given.size}|{wanted.size}"):
            list(store.read(wanted))
        assert proxy.count("GET", wanted.digest) <= 5


def test_a_server_that_ignores_ranges_is_named(registry: Registry) -> None:
    events: list[Event] = []
    with Proxy(registry.port, [Cut(at=8 * MIB, times=1), IgnoreRange()]) as proxy:
        read_through(proxy, emit=events.append)
    assert any(isinstance(event, Logged) and "cannot continue a download" in event.text for event in events)


def test_the_same_cut_without_ranges_is_given_up_after_a_few_tries(registry: Registry) -> None:
    with Proxy(registry.port, [Cut(at=2 * MIB), IgnoreRange()]) as proxy:
        with pytest.raises(Unreachable):
            read_through(proxy)
        assert proxy.count("GET", "/blobs/") < 10


def test_a_connection_that_stalls_is_left(registry: Registry) -> None:
    with Proxy(registry.port, [Stall(at=5 * MIB + 500_000, times=1)]) as proxy:
        started = time.monotonic()
        read_through(proxy, stall=1)
        assert time.monotonic() - started < 6
        assert proxy.bytes_to_client == SIZE  # what had come before the silence is kept


def test_a_registry_that_goes_away_is_unreachable_in_the_end(registry: Registry) -> None:
    with Proxy(registry.port, [Answer(status=503, after=0)]) as proxy:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="answers 503"):
            read_through(proxy, patience=2)
        assert time.monotonic() - started < 6


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
def test_a_registry_that_asks_for_a_pause_gets_it(registry: Registry, dated: bool) -> None:
    with Proxy(registry.port, [Answer(status=429, times=3, retry_after=1, dated=dated)]) as proxy:
        started = time.monotonic()
        read_through(proxy)
        assert 2 < time.monotonic() - started < 8
        assert proxy.count("GET", "/blobs/") == 4


def test_a_pause_that_is_longer_than_our_patience_is_named(registry: Registry) -> None:
    with Proxy(registry.port, [Answer(status=429, retry_after=3600)]) as proxy:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="429 Too Many Requests and asks to wait 3600 s"):
            read_through(proxy)
        assert time.monotonic() - started < 2


def test_a_flipped_byte_is_healed_by_fetching_once_more(registry: Registry, target: Registry) -> None:
    with Proxy(registry.port, [Flip(at=1 * MIB, times=1, path=IMAGE.manifest.layers[0].digest)]) as proxy:
        source, sink = store_at(f"{proxy.host}/source/image"), store_at(f"{target.host}/flip/once")
        copy(source, "1", sink, "1", platforms=None, emit=lambda event: None, jobs=3)
        assert proxy.count("GET", IMAGE.manifest.layers[0].digest) == 2
    assert b"".join(sink.read(IMAGE.manifest.layers[0])) == IMAGE.data[IMAGE.manifest.layers[0].digest]


def test_a_byte_that_stays_flipped_never_arrives(registry: Registry, target: Registry) -> None:
    layer = IMAGE.manifest.layers[0]
    with Proxy(registry.port, [Flip(at=1 * MIB, path=layer.digest)]) as proxy:
        source, sink = store_at(f"{proxy.host}/source/image"), store_at(f"{target.host}/flip/always")
        with pytest.raises(Corrupt, match=rf"{source.label} sent sha256:[0-9a-f]+ where {layer.digest}"):
            copy(source, "1", sink, "1", platforms=None, emit=lambda event: None, jobs=3)
    assert not sink.has(layer)
    assert not (target.storage / "docker/registry/v2/repositories/flip/always/_manifests").exists()


def test_a_flipped_byte_in_a_manifest_is_healed(registry: Registry) -> None:
    with Proxy(registry.port, [Flip(at=10, times=1, path="/manifests/")]) as proxy:
        store = store_at(f"{proxy.host}/source/image")
        assert store.manifest(IMAGE.root) == IMAGE.manifest.raw


def test_a_manifest_comes_after_its_blobs(registry: Registry, target: Registry) -> None:
    with Proxy(target.port, [Answer(method="PATCH", path="/order/", status=400)]) as proxy:
        source, sink = store_at(f"{registry.host}/source/image"), store_at(f"{proxy.host}/order/blobs")
        with pytest.raises(Denied):
            copy(source, "1", sink, "1", platforms=None, emit=lambda event: None, jobs=3)
        assert proxy.count("PUT", "/manifests/") == 0


@pytest.mark.parametrize("lifetime", [1, 2])
def test_a_redirect_that_runs_out_is_asked_for_again(registry: Registry, lifetime: int) -> None:
    """A signed URL is good for one or two requests; the registry is asked anew after each cut."""
    elsewhere = Proxy(registry.port, [Cut(at=5 * MIB)])
    with elsewhere, Proxy(registry.port, [Redirect(port=elsewhere.port, lifetime=lifetime)]) as proxy:
        read_through(proxy)
        assert proxy.count("GET", "/blobs/") == 5
        assert elsewhere.bytes_to_client <= 1.02 * SIZE


def test_a_redirect_that_is_refused_at_first_is_tried_again(registry: Registry) -> None:
    elsewhere = Proxy(registry.port, [Answer(status=403, times=1)])
    with elsewhere, Proxy(registry.port, [Redirect(port=elsewhere.port)]) as proxy:
        read_through(proxy)
        assert proxy.count("GET", "/blobs/") == 2


def test_an_upload_that_is_cut_begins_again_where_the_registry_forgets(target: Registry) -> None:
    """distribution 2.8 cancels the session of a PATCH that was cut."""
    with Proxy(target.port, [CutUpload(at=10 * MIB, times=1)]) as proxy:
        store = store_at(f"{proxy.host}/upload/cut")
        opened: list[Iterator[bytes]] = []

        def reopened() -> Iterator[bytes]:
            opened.append(content())
            return opened[-1]

        store.write(BLOB, reopened)
        assert store.has(BLOB)
        assert len(opened) == 2
        assert proxy.bytes_to_upstream <= SIZE + 11 * MIB


def test_an_upload_that_is_cut_again_and_again_is_given_up(target: Registry) -> None:
    with Proxy(target.port, [CutUpload(at=1 * MIB)]) as proxy:
        store = store_at(f"{proxy.host}/upload/never")
        with pytest.raises(Unreachable):
            store.write(BLOB, content)
        assert proxy.count("PATCH", "/uploads/") == 6
        assert not store.has(BLOB)


def test_an_upload_whose_last_answer_is_lost_is_looked_for(target: Registry) -> None:
    with Proxy(target.port, [Lose(method="PUT", path="/uploads/", times=1)]) as proxy:
        store = store_at(f"{proxy.host}/upload/last")
        store.write(BLOB, content)
        assert store.has(BLOB)
        assert proxy.count("PATCH", "/uploads/") == proxy.count("PUT", "/uploads/") == 1


def test_an_upload_goes_on_where_the_registry_keeps_what_it_has() -> None:
    with Keeping(cuts=3, cut_at=5 * MIB) as keeper:
        store = store_at(f"{keeper.host}/a/b")
        store.write(BLOB, content)
        assert keeper.blobs[BLOB.digest] == DATA
        assert keeper.received == SIZE
        assert keeper.count("POST") == 1
        assert keeper.sessions == {}


def test_an_upload_is_sent_in_steps_where_the_whole_is_too_much() -> None:
    with Keeping(largest=16 * MIB) as keeper:
        store_at(f"{keeper.host}/a/b").write(BLOB, content)
        assert keeper.blobs[BLOB.digest] == DATA
        assert keeper.patched == [16 * MIB, 8 * MIB]
        assert keeper.sessions == {}


def test_steps_are_not_shorter_than_the_registry_wants() -> None:
    with Keeping(largest=20 * MIB, least=18 * MIB) as keeper:
        store_at(f"{keeper.host}/a/b").write(BLOB, content)
        assert keeper.blobs[BLOB.digest] == DATA
        assert keeper.patched == [18 * MIB, 6 * MIB]


def test_a_registry_without_patch_gets_the_blob_whole() -> None:
    with Keeping(patches=False) as keeper:
        store = store_at(f"{keeper.host}/a/b")
        store.write(BLOB, content)
        assert keeper.blobs[BLOB.digest] == DATA
        small = Descriptor.of(b"small", f"{OCI_LAYER}+gzip")
        store.write(small, lambda: iter([b"small"]))
        assert keeper.count("PATCH") == 1
        assert keeper.sessions == {}


def test_a_whole_upload_with_wrong_bytes_is_corrupt() -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    with Keeping(patches=False) as keeper:
        store = store_at(f"{keeper.host}/a/b")
        with pytest.raises(Corrupt):
            store.write(BLOB, lambda: verified(iter([wrong]), BLOB, origin="a bad disk"))
        assert keeper.blobs == {}
        assert keeper.sessions == {}


def test_a_store_that_is_closed_stops_waiting(registry: Registry) -> None:
    with Proxy(registry.port, [Answer(status=429, retry_after=15)]) as proxy:
        store = store_at(f"{proxy.host}/source/blob")
        failures: list[BaseException] = []

        def read() -> None:
            try:
                list(store.read(BLOB))
            except Unreachable as error:
                failures.append(error)

        reader = Thread(target=read)
        reader.start()
        time.sleep(0.5)
        store.close()
        reader.join(3)
        assert len(failures) == 1


def test_a_bundle_of_certificates_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(NotFound, match="no certificates could be read"):
            network.session(Routes(ca_bundle=tmp_path / name))
