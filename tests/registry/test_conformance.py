"""The rules of the OCI distribution specification, as our client keeps them, against four ways that registries have.

What a registry does not support is said in its `Ways` and asserted as such. `distribution` is Debian's docker-registry
2.8; `cue`, `plain` (cue without what is optional) and `ggcr` are those of tests/services/others.py.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import requests

from composer import network
from composer.errors import Corrupt, Denied, NotFound, Unreachable
from composer.network.routes import Routes
from composer.oci import upload
from composer.oci.copy import copy
from composer.oci.image import (
    EMPTY_JSON,
    OCI_EMPTY,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    canonical_json,
    sha256,
)
from composer.oci.referrers import fallback_tag
from composer.oci.registry import RegistryStore
from tests.conftest import require
from tests.images import AMD64, Picture, index_of, picture, put
from tests.services.others import running_other
from tests.services.proxy import Answer, CutUpload, Lose, Proxy, Swap
from tests.services.registry import running_registry, store_at

pytestmark = pytest.mark.registry

MIB = 1 << 20
SESSION = network.session(Routes())
SIGNATURE = "application/vnd.example.signature.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What a registry does of what it need not do, and of what it should."""

    posts: bool
    """A blob in one POST."""
    keeps: bool
    """What came of an upload that was cut."""
    mounts: bool
    sessions: bool
    """A POST that does not end in a blob opens a session, also one that asks for a mount that is not granted."""
    cancels: bool
    refuses: bool
    """A part that is not at its place (416, or the session is gone)."""
    referrers: bool
    subjects: bool
    """Says `OCI-Subject`: that it has entered a manifest into its list. One of ours says so and has none."""
    pages: bool = True
    """Says where a list goes on of which it gives a part."""
    describes: bool = True
    """Lists referrers with their types and annotations, as it should."""
    complete: bool
    """Takes no manifest whose blobs are missing."""


WAYS = {
    "distribution": Ways(
        posts=False,
        keeps=False,
        mounts=True,
        sessions=True,
        cancels=True,
        refuses=True,
        referrers=False,
        subjects=False,
        complete=True,
    ),
    "cue": Ways(
        posts=True,
        keeps=True,
        mounts=True,
        sessions=False,
        cancels=False,
        refuses=True,
        referrers=True,
        subjects=True,
        describes=False,
        complete=True,
    ),
    "plain": Ways(
        posts=False,
        keeps=True,
        mounts=True,
        sessions=False,
        cancels=False,
        refuses=True,
        referrers=False,
        subjects=True,
        complete=True,
    ),
    "ggcr": Ways(
        posts=True,
        keeps=False,
        mounts=False,
        sessions=True,
        cancels=False,
        refuses=True,
        referrers=True,
        subjects=False,
        describes=False,
        pages=False,
        complete=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A registry that runs, and a repository in it for one test."""

    ways: Ways
    port: int
    repository: str

    def store(self, suffix: str = "", through: Proxy | None = None) -> RegistryStore:
        host = through.host if through else f"127.0.0.1:{self.port}"
        return store_at(f"{host}/{self.repository}{suffix}", patience=5, session=SESSION)

    def blob(self, size: int, seed: int = 0) -> tuple[Descriptor, bytes]:
        """One that no other test has: some registries know a blob in all repositories once it is in one."""
        data = random.Random(f"{self.repository} {seed}").randbytes(size)
        return Descriptor.of(data, f"{OCI_LAYER}+gzip"), data


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    require("docker-registry")
    with ExitStack() as stack:
        others = {
            "cue": running_other("cue"),
            "plain": running_other("cue", referrers=False, posts=False),
            "ggcr": running_other("ggcr"),
        }
        found = {name: stack.enter_context(other).port for name, other in others.items()}
        real = stack.enter_context(running_registry(tmp_path_factory.mktemp("distribution")))
        yield {**found, "distribution": real.port}


@pytest.fixture(params=sorted(WAYS))
def place(request: pytest.FixtureRequest, ports: dict[str, int], repository: str) -> Place:
    return Place(ways=WAYS[request.param], port=ports[request.param], repository=repository)


def asked(proxy: Proxy) -> list[str]:
    return [request.method for request in proxy.requests]


# -- blobs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1 << 16])
def test_a_small_blob_costs_a_post_or_a_post_and_a_put(place: Place, size: int) -> None:
    blob, data = place.blob(size)
    with Proxy(place.port) as proxy:
        store = place.store(through=proxy)
        store.write(blob, lambda: iter([data]))
        assert asked(proxy) == (["POST"] if place.ways.posts else ["POST", "PUT"])
        assert store.has(blob)
        assert b"".join(store.read(blob)) == data


def test_that_a_registry_takes_no_blob_in_a_post_is_learned_once(place: Place) -> None:
    blobs = [place.blob(100, seed) for seed in range(3)]
    with Proxy(place.port) as proxy:
        store = place.store(through=proxy)
        for blob, data in blobs:
            store.write(blob, lambda data=data: iter([data]))  # type: ignore[misc]
        with_digest = proxy.count("POST", r"\?digest=")
        assert with_digest == (3 if place.ways.posts else 1)
        assert len(proxy.requests) == (3 if place.ways.posts else 6)


def test_a_large_blob_goes_in_one_patch(place: Place) -> None:
    blob, data = place.blob(3 * MIB)
    with Proxy(place.port) as proxy:
        store = place.store(through=proxy)
        store.write(blob, lambda: iter([data]))
        assert asked(proxy) == ["POST", "PATCH", "PUT"]
        assert proxy.bytes_to_upstream == blob.size
        assert b"".join(store.read(blob)) == data


def test_a_blob_in_steps_is_the_same_blob(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy on the way takes no more than so much at once. `OCI-Chunk-Min-Length` is smaller than our steps."""
    monkeypatch.setattr(upload, "_STEP", MIB)
    blob, data = place.blob(3 * MIB + 5)
    with Proxy(place.port, [Answer(method="PATCH", path="", status=413, times=1)]) as proxy:
        store = place.store(through=proxy)
        store.write(blob, lambda: iter([data]))
        ranges = [request.headers.get("Content-Range") for request in proxy.requests if request.method == "PATCH"]
        assert ranges == [None, *(f"{at}-{min(at + MIB, blob.size) - 1}" for at in range(0, blob.size, MIB))]
    assert b"".join(place.store().read(blob)) == data


def test_a_blob_goes_with_the_put_where_patch_is_refused(place: Place) -> None:
    blob, data = place.blob(MIB)
    with Proxy(place.port, [Answer(method="PATCH", path="", status=405)]) as proxy:
        store = place.store(through=proxy)
        store.write(blob, lambda: iter([data]))
        assert proxy.count("PATCH", "") == 1
        assert b"".join(store.read(blob)) == data


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_that_was_cut_goes_on_or_begins_again(place: Place, method: str) -> None:
    blob, data = place.blob(3 * MIB)
    rules = [CutUpload(method=method, at=2 * MIB, times=1)]
    refusal = [Answer(method="PATCH", path="", status=405)] if method == "PUT" else []
    with Proxy(place.port, [*rules, *refusal]) as proxy:
        store = place.store(through=proxy)
        store.write(blob, lambda: iter([data]))
        wasted = proxy.bytes_to_upstream - blob.size - (0 if place.ways.keeps else 2 * MIB)
        # How much of the PATCH that is refused was on its way when that was heard.
        assert 0 <= wasted <= (blob.size if method == "PUT" else 0)
    assert b"".join(place.store().read(blob)) == data


def test_a_lie_about_what_was_kept_spoils_nothing(place: Place) -> None:
    """The status of a cut upload says too little: the part that is sent is refused (416), and asked about again."""
    blob, data = place.blob(3 * MIB)
    lie = (("Range", "0-524287"),)
    with Proxy(place.port) as proxy:
        store = place.store(through=proxy)
        proxy.rules = [
            CutUpload(at=2 * MIB, times=1),
            Answer(method="GET", path="/uploads/", status=204, headers=lie, times=1),
        ]
        store.write(blob, lambda: iter([data]))
    assert place.ways.refuses
    assert b"".join(place.store().read(blob)) == data


def test_an_upload_whose_last_answer_was_lost_is_found(place: Place) -> None:
    blob, data = place.blob(MIB)
    with Proxy(place.port, [Lose(method="PUT", path="/uploads/", times=1)]) as proxy:
        store = place.store(through=proxy)
        store.write(blob, lambda: iter([data]))
        assert proxy.bytes_to_upstream == blob.size
    assert place.store().has(blob)


@pytest.mark.parametrize("size", [100, MIB])
def test_wrong_bytes_are_refused_by_the_registry(place: Place, size: int) -> None:
    blob, data = place.blob(size)
    store = place.store()
    with pytest.raises(Corrupt):
        store.write(blob, lambda: iter([bytes([data[0] ^ 1]) + data[1:]]))
    assert not store.has(blob)


def test_a_part_of_a_blob_is_read_from_its_place(place: Place) -> None:
    blob, data = place.blob(2 * MIB)
    place.store().write(blob, lambda: iter([data]))
    with Proxy(place.port) as proxy:
        assert b"".join(place.store(through=proxy).read_from(blob, MIB + 7)) == data[MIB + 7 :]
    assert proxy.bytes_to_client <= MIB - 7


def test_a_blob_that_is_not_there(place: Place) -> None:
    blob, _ = place.blob(10, seed=99)
    put(place.store(), picture(), "1")
    store = place.store()
    assert not store.has(blob)
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        next(store.read(blob))


def test_a_registry_that_knows_no_head(place: Place) -> None:
    image = picture(filler=MIB)
    put(place.store(), image, "1")
    layer = image.manifest.layers[0]
    with Proxy(place.port, [Answer(method="HEAD", path="", status=405)]) as proxy:
        store = place.store(through=proxy)
        assert store.has(layer)
        assert not store.has(place.blob(10, seed=98)[0])
        assert store.resolve("1") == image.root
        put(place.store("-copy", through=proxy), image, "1")


# -- mounts and sessions ------------------------------------------------------------------------------------------


def test_a_mount_moves_no_byte_or_becomes_an_upload(place: Place) -> None:
    blob, data = place.blob(MIB)
    source = place.store()
    source.write(blob, lambda: iter([data]))
    with Proxy(place.port) as proxy:
        target = place.store("-other", through=proxy)
        beside = store_at(f"{proxy.host}/{place.repository}")
        assert target.mount(blob, beside) == place.ways.mounts
        assert proxy.bytes_to_upstream == 0
        if not place.ways.mounts:
            target.write(blob, lambda: iter([data]))
            assert asked(proxy) == ["POST", "PATCH", "PUT"]
        assert target.has(blob)


def test_a_mount_of_what_is_not_there_becomes_an_upload(place: Place) -> None:
    """Where the registry has opened a session with its refusal, the session is used."""
    blob, data = place.blob(MIB)
    with Proxy(place.port) as proxy:
        target = place.store(through=proxy)
        assert not target.mount(blob, store_at(f"{proxy.host}/{place.repository}-missing"))
        target.write(blob, lambda: iter([data]))
        assert proxy.count("POST", "") == (1 if place.ways.sessions else 2)
    assert place.store().has(blob)


def test_an_upload_that_is_given_up_is_cancelled(place: Place) -> None:
    """Registries that cannot cancel say so, and that is no error."""
    with Proxy(place.port) as proxy:
        place.store(through=proxy).prepare()
        assert asked(proxy) == ["POST", "DELETE"]
        session = f"http://127.0.0.1:{place.port}{proxy.requests[-1].path}"
    left = requests.get(session, timeout=10).status_code
    assert (left == 404) == place.ways.cancels


# -- manifests, tags ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["docker", "oci"])
def test_manifests_and_indexes_keep_their_bytes_and_types(place: Place, family: str) -> None:
    image = picture(family=family)
    store = place.store()
    put(store, image, None)
    index = index_of((image, AMD64), family=family)
    assert store.publish(index.raw, index.media_type, "all") == index.descriptor
    again = place.store()
    assert again.resolve("all") == index.descriptor
    assert again.manifest(again.resolve("all")) == index.raw
    assert again.resolve(image.root.digest) == image.root


def test_an_image_goes_from_one_repository_to_another(place: Place) -> None:
    image = picture(filler=2 * MIB)
    put(place.store(), image, "1")
    target = place.store("-copy")
    moved = copy(place.store(), "1", target, "2", platforms=None, emit=lambda event: None, jobs=2)
    assert moved == image.root
    assert place.store("-copy").resolve("2") == image.root
    for layer in image.manifest.layers:
        assert b"".join(target.read(layer)) == image.data[layer.digest]


def test_a_manifest_without_its_blobs(place: Place) -> None:
    """We never push one. Registries that would take it are the reason why."""
    raw = _manifest(Descriptor.of(b"nowhere", OCI_EMPTY))
    store = place.store()
    put(store, picture(), "1")
    store._wire._seconds = 1  # one of them answers 500
    if place.ways.complete:
        with pytest.raises((Denied, Unreachable)):
            store.publish(raw, OCI_MANIFEST, "2")
    else:
        assert store.publish(raw, OCI_MANIFEST, "2").digest == sha256(raw)


def test_a_missing_tag_names_the_nearest(place: Place) -> None:
    store = place.store()
    put(store, picture(), "24.09-py3")
    put(store, picture(), "other")
    with pytest.raises(NotFound) as caught:
        store.resolve("24.9-py3")
    assert caught.value.hint == f"{store.label}:24.09-py3"


def test_a_list_of_tags_is_read_to_its_last_page(place: Place) -> None:
    """One of them cuts the list off, and does not say that there is more."""
    store = place.store()
    for tag in ("1.0", "2.0", "3.0", "wanted"):
        put(store, picture(), tag)
    first = f"/v2/{place.repository}/tags/list?n=1"
    with Proxy(place.port, [Swap(path="/tags/list$", instead=first)]) as proxy, pytest.raises(NotFound) as caught:
        place.store(through=proxy).resolve("wante")
    assert (caught.value.hint or "").endswith(":wanted" if place.ways.pages else ":1.0")


def test_the_registry_speaks_in_our_errors(place: Place) -> None:
    """The code of its error JSON stands in the message."""
    blob, _ = place.blob(10, seed=97)
    put(place.store(), picture(), "1")
    with pytest.raises(NotFound, match=r"\bBLOB_UNKNOWN: "):
        next(place.store().read(blob))


# -- referrers ----------------------------------------------------------------------------------------------------


def _manifest(config: Descriptor, **fields: object) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [], **fields}
    return canonical_json(document)


def _signed(store: RegistryStore, image: Picture, number: int = 1, kind: str = SIGNATURE) -> Descriptor:
    """Push a manifest that refers to an image."""
    empty = Descriptor.of(EMPTY_JSON, OCI_EMPTY)
    store.write(empty, lambda: iter([EMPTY_JSON]))
    subject = {"mediaType": image.root.media_type, "digest": image.root.digest, "size": image.root.size}
    raw = _manifest(empty, artifactType=kind, subject=subject, annotations={"number": str(number)})
    return store.publish(raw, OCI_MANIFEST, None)


def test_what_refers_to_an_image_is_found(place: Place) -> None:
    image = picture()
    put(place.store(), image, "1")
    assert place.store().referrers(image.root) == ()
    first, second = _signed(place.store(), image, 1), _signed(place.store(), image, 2, "application/sbom")
    found = place.store().referrers(image.root)
    assert {entry.digest for entry in found} == {first.digest, second.digest}
    described = {(entry.artifact_type, entry.annotations.get("number")) for entry in found}
    assert (described == {(SIGNATURE, "1"), ("application/sbom", "2")}) == place.ways.describes
    assert [entry.digest for entry in place.store().referrers(image.root, SIGNATURE)] == [first.digest]
    assert place.store().referrers(image.root, "application/other") == ()


def test_the_list_under_a_tag_is_kept_where_the_registry_does_not(place: Place) -> None:
    """As the specification has it: where the answer does not say `OCI-Subject`. Nothing is entered twice."""
    image = picture()
    store = place.store()
    put(store, image, "1")
    for _ in range(2):
        signature = _signed(store, image)
    tag = fallback_tag(image.root.digest)
    if place.ways.subjects and place.ways.referrers:
        with pytest.raises(NotFound):
            place.store().resolve(tag)
        return
    listed = json.loads(place.store().manifest(place.store().resolve(tag)))["manifests"]
    assert listed == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": signature.digest,
            "size": signature.size,
            "artifactType": SIGNATURE,
            "annotations": {"number": "1"},
        }
    ]


def test_a_list_that_somebody_else_keeps_is_read(place: Place) -> None:
    """Other clients left it under the tag: it counts where there is no API, and only there."""
    image = picture()
    store = place.store()
    put(store, image, "1")
    other = picture(seed=2)
    put(store, other, None)
    index = index_of((other, AMD64))
    store.publish(index.raw, index.media_type, fallback_tag(image.root.digest))
    found = place.store().referrers(image.root)
    assert [entry.digest for entry in found] == ([] if place.ways.referrers else [other.root.digest])


def test_what_cosign_leaves_beside_an_image_is_found(place: Place) -> None:
    image, signature = picture(), picture(seed=3)
    store = place.store()
    put(store, image, "1")
    assert store.attached(image.root) == {}
    tag = f"{fallback_tag(image.root.digest)}.sig"
    put(store, signature, tag)
    assert place.store().attached(image.root) == {tag: signature.root}
