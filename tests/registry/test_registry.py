"""The `docker://` transport against a real registry, with nothing in the way."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from composer import network
from composer.errors import Corrupt, Denied, NotFound, Unplannable, Unreachable
from composer.events import Event, Transferred
from composer.oci.copy import copy
from composer.oci.image import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor, Platform, sha256
from composer.oci.registry import RegistryStore
from composer.oci.store import verified
from tests.conftest import require
from tests.images import AMD64, entry, index_of, picture, put
from tests.services.proxy import Answer, Proxy
from tests.services.registry import Registry, free_port, store_at

pytestmark = pytest.mark.registry


@pytest.fixture
def store(registry: Registry, repository: str) -> Iterator[RegistryStore]:
    made = store_at(f"{registry.host}/{repository}")
    yield made
    made.close()


def blob_of(size: int, seed: int = 0) -> tuple[Descriptor, bytes]:
    data = random.Random(seed).randbytes(size)
    return Descriptor.of(data, f"{OCI_LAYER}+gzip"), data


def source_of(*pieces: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(pieces)


@pytest.mark.parametrize("size", [0, 1, 2, 100_000, 5_000_000])
def test_a_blob_comes_back_as_it_went(store: RegistryStore, size: int) -> None:
    blob, data = blob_of(size, seed=size)
    assert not store.has(blob)
    store.write(blob, source_of(data[:7], b"", data[7:]))
    assert store.has(blob)
    assert b"".join(store.read(blob)) == data


def test_an_image_is_read_by_skopeo_and_back(store: RegistryStore, registry: Registry) -> None:
    require("skopeo")
    image = picture(filler=300_000)
    put(store, image, "1")
    place = f"docker://{registry.host}/{store.repository}"
    seen = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"{place}:1"], capture_output=True, check=True
    ).stdout
    assert seen == image.manifest.raw
    copied = ["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*copied, f"{place}:1", f"{place}:2"], check=True)
    assert store.resolve("2") == image.root
    assert store.manifest(image.root) == image.manifest.raw


def test_a_tag_is_resolved_once(store: RegistryStore, registry: Registry) -> None:
    first, second, third = (picture(seed=seed) for seed in (1, 2, 3))
    put(store, first, "moving")
    reader = store_at(f"{registry.host}/{store.repository}")
    assert reader.resolve("moving") == first.root
    put(store, second, "moving")
    assert reader.resolve("moving") == first.root
    put(reader, third, "moving")
    assert reader.resolve("moving") == third.root


def test_docker_and_oci_manifests_and_indexes_keep_their_types(store: RegistryStore) -> None:
    for family in ("docker", "oci"):
        image = picture(family=family)
        put(store, image, None)
        index = index_of((image, AMD64), family=family)
        store.publish(index.raw, index.media_type, family)
        assert store.resolve(family).media_type == index.media_type
        assert store.resolve(image.root.digest) == image.root


def test_without_a_digest_header_the_manifest_itself_is_hashed(registry: Registry, store: RegistryStore) -> None:
    image = picture(seed=3)
    put(store, image, "1")
    with Proxy(registry.port, [Answer(method="HEAD", path="/manifests/1", status=405)]) as proxy:
        through = store_at(f"{proxy.host}/{store.repository}")
        assert through.resolve("1") == image.root


def test_a_missing_tag_names_the_nearest(store: RegistryStore) -> None:
    put(store, picture(), "24.09-py3")
    with pytest.raises(NotFound, match=r"has no image .*:24\.9-py3") as caught:
        store.resolve("24.9-py3")
    assert caught.value.hint == f"{store.label}:24.09-py3"


def test_a_missing_repository_has_no_tag_to_hint_at(store: RegistryStore) -> None:
    with pytest.raises(NotFound) as caught:
        store.resolve("latest")
    assert (caught.value.hint or "").startswith(f"skopeo list-tags {store.label} ")


def test_a_missing_blob_is_not_found_before_the_first_piece(store: RegistryStore) -> None:
    blob, _ = blob_of(10, seed=99)
    with pytest.raises(NotFound, match=blob.digest):
        next(store.read(blob))


@pytest.mark.parametrize("change", ["flipped", "longer"])
def test_bytes_that_are_not_what_was_said_do_not_arrive(store: RegistryStore, registry: Registry, change: str) -> None:
    blob, data = blob_of(100_000, seed=4)
    wrong = data[:-1] + bytes([data[-1] ^ 1]) if change == "flipped" else data + b"x"
    with pytest.raises(Corrupt):
        store.write(blob, lambda: verified(iter([wrong]), blob, origin="a bad disk"))
    assert not store.has(blob)
    assert registry.sessions(store.repository) == []


def test_a_source_that_ends_early_is_corrupt_and_its_session_is_given_up(registry: Registry, repository: str) -> None:
    blob, data = blob_of(100_000, seed=5)
    with Proxy(registry.port) as proxy:
        store = store_at(f"{proxy.host}/{repository}")
        with pytest.raises(Corrupt, match="only 99999 of the 100000"):
            store.write(blob, source_of(data[:-1]))
        assert not store.has(blob)
        # distribution 2.8 answers 404 and forgets it by itself after some days.
        assert proxy.count("DELETE", "/blobs/uploads/") == 1


def test_a_source_that_fails_says_so_and_its_session_is_given_up(registry: Registry, repository: str) -> None:
    blob, data = blob_of(100_000, seed=6)

    def broken() -> Iterator[bytes]:
        yield data[:50_000]
        raise PermissionError("our own disk")

    with Proxy(registry.port) as proxy:
        store = store_at(f"{proxy.host}/{repository}")
        with pytest.raises(PermissionError, match="our own disk"):
            store.write(blob, broken)
        assert proxy.count("PATCH", "/blobs/uploads/") == 1
        assert proxy.count("DELETE", "/blobs/uploads/") == 1


def test_a_blob_that_lost_bytes_in_storage_is_corrupt(store: RegistryStore, registry: Registry) -> None:
    blob, data = blob_of(100_000, seed=6)
    store.write(blob, source_of(data))
    name = blob.digest.removeprefix("sha256:")
    stored = registry.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    stored.write_bytes(data[:60_000])
    assert not store.has(blob)
    with pytest.raises(Corrupt, match="60000 of the 100000"):
        list(store.read(blob))


def test_a_manifest_with_other_bytes_is_refused(store: RegistryStore, registry: Registry) -> None:
    image = picture(seed=7)
    put(store, image, "1")
    name = image.root.digest.removeprefix("sha256:")
    stored = registry.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    stored.write_bytes(
        image.manifest.raw.replace(b"application/vnd.oci.image.config", b"application/vnd.oci.image.CONFIG")
    )
    with pytest.raises(Corrupt):
        store.manifest(image.root)


def test_foreign_layers_are_refused(store: RegistryStore) -> None:
    blob = Descriptor(media_type="foreign", digest=sha256(b"x"), size=1, urls=("https://example.com/x",))
    with pytest.raises(Unplannable, match="may not be pushed"):
        store.write(blob, source_of(b"x"))


def test_a_copy_within_a_registry_mounts(registry: Registry, store: RegistryStore) -> None:
    image = picture(filler=2_000_000, seed=8)
    put(store, image, "1")
    with Proxy(registry.port) as proxy:
        events: list[Event] = []
        source = store_at(f"{proxy.host}/{store.repository}")
        target = store_at(f"{proxy.host}/{store.repository}-copy")
        copy(source, "1", target, "2", platforms=None, emit=events.append, jobs=4)
        assert proxy.bytes_to_upstream == len(image.manifest.raw)
        assert proxy.bytes_to_client < 10_000
        assert b"".join(target.read(image.manifest.layers[0])) == image.data[image.manifest.layers[0].digest]
    assert {event.action for event in events if isinstance(event, Transferred)} == {"mounted"}


@pytest.mark.parametrize("status", [202, 401, 403, 404, 405, 500])
def test_a_mount_that_is_refused_becomes_a_copy(registry: Registry, store: RegistryStore, status: int) -> None:
    blob, data = blob_of(200_000, seed=status)
    store.write(blob, source_of(data))
    path = r"mount="
    rule = Answer(method="POST", path=path, status=status)
    if status == 202:  # as the registry itself says when it does not know the other repository
        source_name, rules = f"{store.repository}-missing", []
    else:
        source_name, rules = store.repository, [rule]
    with Proxy(registry.port, rules) as proxy:
        source = store_at(f"{proxy.host}/{source_name}")
        target = store_at(f"{proxy.host}/{store.repository}-to-{status}")
        assert not target.mount(blob, source)
        target.write(blob, source_of(data))
        assert target.has(blob)
        assert proxy.count("POST", "/blobs/uploads/") == (1 if status == 202 else 2)
        assert registry.sessions(target.repository) == []


def test_a_session_that_a_mount_left_is_given_up_on_close(registry: Registry, repository: str) -> None:
    blob, _ = blob_of(10, seed=20)
    target = store_at(f"{registry.host}/{repository}")
    assert not target.mount(blob, store_at(f"{registry.host}/{repository}-missing"))
    assert len(registry.sessions(repository)) == 1
    target.close()
    assert registry.sessions(repository) == []


def test_an_index_moves_whole(registry: Registry, store: RegistryStore) -> None:
    arm = Platform(os="linux", architecture="arm64")
    images = [(picture(seed=30), AMD64), (picture(seed=31, platform=arm), arm)]
    for image, _ in images:
        put(store, image, None)
    index = index_of(*images)
    store.publish(index.raw, index.media_type, "all")
    target = store_at(f"{registry.host}/{store.repository}-copy")
    moved = copy(store, "all", target, "all", platforms=None, emit=lambda event: None, jobs=2)
    assert moved == target.resolve("all") == index.descriptor
    assert moved.media_type == OCI_INDEX
    assert entry(*images[1]).digest in {part.digest for part in index.manifests}


def test_an_unchanged_image_costs_few_requests(registry: Registry, store: RegistryStore) -> None:
    image = picture(seed=40)
    put(store, image, "1")
    with Proxy(registry.port) as proxy:
        through = store_at(f"{proxy.host}/{store.repository}")
        assert through.resolve("1") == image.root
        assert [request.method for request in proxy.requests] == ["HEAD"]


def test_one_connection_serves_many_requests(registry: Registry, store: RegistryStore) -> None:
    with Proxy(registry.port) as proxy:
        through = store_at(f"{proxy.host}/{store.repository}")
        put(through, picture(seed=41, filler=100_000), "1")
        with pytest.raises(NotFound):
            through.resolve("nothing")
        # The first connection is the one that tries TLS.
        assert proxy.connections == 2
        assert len(proxy.requests) > 8


def test_nobody_listening_is_said_at_once() -> None:
    store = store_at(f"127.0.0.1:{free_port()}/a/b")
    with pytest.raises(Unreachable, match="nothing listens there") as caught:
        store.resolve("1")
    assert "curl" in (caught.value.hint or "")


def test_an_unknown_host_is_told_apart() -> None:
    store = store_at("registry.invalid/a/b", patience=1)
    with pytest.raises(Unreachable, match=r"registry\.invalid could not be resolved \(DNS") as caught:
        store.resolve("1")
    assert "getent hosts registry.invalid" in (caught.value.hint or "")


def test_a_host_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "CONNECT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = store_at(f"127.0.0.1:{listener.getsockname()[1]}/a/b", stall=0.3, patience=2)
        with pytest.raises(Unreachable, match="sent nothing for too long"):
            store.resolve("1")


def test_a_registry_without_tls_is_not_spoken_to_by_name(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback hosts and those listed as insecure may do without TLS."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **how: real("127.0.0.1", *rest, **how))
    store = store_at(f"registry.test:{registry.port}/a/b")
    with pytest.raises(Unreachable, match="does not speak TLS") as caught:
        store.resolve("1")
    assert caught.value.hint == f"for a registry without TLS: --insecure registry.test:{registry.port}"
    trusting = store_at(f"registry.test:{registry.port}/a/b", insecure=frozenset({f"registry.test:{registry.port}"}))
    with pytest.raises(NotFound):
        trusting.resolve("1")


def test_what_the_registry_answers_is_in_the_message(registry: Registry, store: RegistryStore) -> None:
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}).encode()
    with pytest.raises(Denied, match=r"refused the manifest .*:bad \(400: "):
        store.publish(raw, OCI_MANIFEST, "bad")


def test_a_digest_that_is_not_what_the_registry_answers_is_corrupt(registry: Registry, store: RegistryStore) -> None:
    image = picture(seed=50)
    put(store, image, "1")
    asked = "sha256:" + hashlib.sha256(b"other").hexdigest()
    lie = (("Docker-Content-Digest", image.root.digest), ("Content-Type", OCI_MANIFEST))
    with Proxy(registry.port, [Answer(method="HEAD", path="/manifests/", status=200, headers=lie)]) as proxy:
        through = store_at(f"{proxy.host}/{store.repository}")
        with pytest.raises(Corrupt, match=asked):
            through.resolve(asked)


def test_a_registry_that_stores_something_else_is_found_out(registry: Registry, repository: str) -> None:
    image = picture(seed=51)
    rule = Answer(method="PUT", path="/manifests/", status=201, headers=(("Docker-Content-Digest", sha256(b"other")),))
    words = f"stored {sha256(b'other')} where {image.root.digest}"
    with Proxy(registry.port, [rule]) as proxy, pytest.raises(Corrupt, match=words):
        put(store_at(f"{proxy.host}/{repository}"), image, "1")
