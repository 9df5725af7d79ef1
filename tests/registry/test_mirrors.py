"""One image in several real registries: who is asked, in which order, and what happens when one of them breaks off."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from composer import network
from composer.errors import Corrupt, NotFound, Unreachable
from composer.events import ignore
from composer.oci.copy import copy
from composer.oci.credentials import Credentials
from composer.oci.image import OCI_LAYER, Descriptor
from composer.oci.layout import LayoutStore
from composer.oci.mirrors import found_at
from composer.oci.names import Reference, parse_reference
from composer.oci.store import Store
from composer.oci.transports import Access, open_source, open_target
from tests.conftest import require
from tests.images import Picture, picture, put
from tests.services.proxy import Answer, Cut, Flip, Proxy, Rules
from tests.services.registry import Registry, free_port, running_registry, store_at

pytestmark = pytest.mark.registry

MIB = 1 << 20
SIZE = 12 * MIB
DATA = random.Random(1).randbytes(SIZE)
BLOB = Descriptor.of(DATA, f"{OCI_LAYER}+gzip")
IMAGE: Picture = picture(layers=3, filler=2 * MIB, seed=4)
NOBODY = "far.invalid"


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Registry]]:
    """Two that hold the same: the blob, and an image as `1` in `a/image`."""
    require("docker-registry")
    folder = tmp_path_factory.mktemp("mirrors")
    with running_registry(folder / "near") as near, running_registry(folder / "far") as far:
        for one in (near, far):
            store = store_at(f"{one.host}/a/image")
            store.write(BLOB, lambda: iter((DATA,)))
            put(store, IMAGE, "1")
        yield near, far


def opened(*hosts: str, tmp_path: Path, name: str = "a/image:1") -> Store:
    """The image of the last host, of which the others are mirrors."""
    return open_source(parse_reference(f"docker://{hosts[-1]}/{name}"), access(hosts, tmp_path))


def access(hosts: Sequence[str], tmp_path: Path) -> Access:
    session = network.session(stall=1)

    def places(reference: Reference) -> tuple[Reference, ...]:
        return tuple(parse_reference(str(reference).replace(reference.host, host)) for host in hosts)

    return Access(
        session=lambda: session,
        credentials=Credentials(files=()),
        insecure=frozenset(),
        scratch=tmp_path,
        emit=ignore,
        mirrors=places,
        patience=3,
    )


def pulled(store: Store, tmp_path: Path) -> str:
    target = LayoutStore(tmp_path / "layout")
    return copy(store, "1", target, "x", platforms=None, emit=ignore, jobs=3).digest


def test_the_first_mirror_gives_all_and_nobody_else_is_asked(
    registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    with Proxy(registries[0].port) as first, Proxy(registries[1].port) as second:
        store = opened(first.host, second.host, NOBODY, tmp_path=tmp_path)
        assert pulled(store, tmp_path) == IMAGE.root.digest
        assert second.requests == []
        assert store.label == f"docker://{NOBODY}/a/image"
        origin = parse_reference(f"docker://{NOBODY}/a/image:1")
        assert found_at(store, origin).host == first.host


def test_what_a_mirror_lacks_comes_from_the_registry_itself(
    registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    with Proxy(registries[0].port, [Answer(path="/a/image/", method="GET|HEAD", status=404)]) as mirror:
        store = opened(mirror.host, registries[1].host, tmp_path=tmp_path)
        assert pulled(store, tmp_path) == IMAGE.root.digest
        # It said once that it has not got it; what comes after is asked of the other.
        assert len(mirror.requests) <= 3


@pytest.mark.parametrize("rule", [Cut(at=5 * MIB), Cut(at=5 * MIB, times=1)], ids=["for good", "once"])
def test_a_mirror_that_dies_in_the_middle_of_a_blob_is_followed_by_the_next(
    registries: tuple[Registry, Registry], tmp_path: Path, rule: Cut
) -> None:
    dead = Answer(path="/blobs/", status=503, after=1)
    rules: list[Rules] = [dead, rule] if rule.times == 1 else [rule]
    with Proxy(registries[0].port, rules) as mirror, Proxy(registries[1].port) as far:
        store = opened(mirror.host, far.host, tmp_path=tmp_path)
        assert b"".join(store.read(BLOB)) == DATA
        assert mirror.bytes_to_client + far.bytes_to_client <= 1.02 * SIZE + 5 * MIB * (rule.times > 1)
        if rule.times == 1:
            (asked,) = [request for request in far.requests if request.method == "GET"]
            assert asked.headers["Range"] == f"bytes={mirror.bytes_to_client}-{SIZE - 1}"


def test_a_mirror_that_flips_a_byte_is_not_asked_again_for_that_blob(
    registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    layer = IMAGE.manifest.layers[0]
    with Proxy(registries[0].port, [Flip(at=MIB, path=layer.digest)]) as mirror, Proxy(registries[1].port) as far:
        store = opened(mirror.host, far.host, tmp_path=tmp_path)
        assert pulled(store, tmp_path) == IMAGE.root.digest
        assert mirror.count("GET", layer.digest) == 1
        assert [request.path for request in far.requests if request.method == "GET"] == [
            f"/v2/a/image/blobs/{layer.digest}"
        ]


def test_bytes_that_are_wrong_everywhere_are_corrupt_and_named(
    registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    layer = IMAGE.manifest.layers[0]
    rules = [[Flip(at=MIB, path=layer.digest)], [Flip(at=MIB, path=layer.digest)]]
    with Proxy(registries[0].port, rules[0]) as mirror, Proxy(registries[1].port, rules[1]) as far:
        store = opened(mirror.host, far.host, tmp_path=tmp_path)
        with pytest.raises(Corrupt) as caught:
            pulled(store, tmp_path)
    assert re.match(rf"docker://{far.host}/a/image sent sha256:\w+ where {layer.digest}", caught.value.message)
    assert not LayoutStore(tmp_path / "layout").has(layer)


def test_a_dead_mirror_is_asked_once_in_a_session(registries: tuple[Registry, Registry], tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with Proxy(registries[0].port, [Answer(path="/", method="GET|HEAD", status=503)]) as ill:
        shared = access((dead, ill.host, registries[1].host), tmp_path)
        began = time.monotonic()
        for number in range(3):
            store = open_source(parse_reference(f"docker://{registries[1].host}/a/image:1"), shared)
            assert pulled(store, tmp_path / str(number)) == IMAGE.root.digest
            store.close()
        assert time.monotonic() - began < 8
        asked = [request.at for request in ill.requests]
        assert asked[-1] - asked[0] < 4


def test_an_error_names_every_place_and_why(registries: tuple[Registry, Registry], tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_port()}"
    store = opened(dead, registries[0].host, NOBODY, tmp_path=tmp_path, name="a/other:1")
    with pytest.raises(NotFound) as caught:
        store.resolve("1")
    told = caught.value.message
    assert f"docker://{dead}/a/other: {dead} refused the connection" in told
    assert f"docker://{registries[0].host}/a/other: {registries[0].host} has no image a/other:1" in told
    assert f"docker://{NOBODY}/a/other: the name of {NOBODY} could not be resolved" in told
    with pytest.raises(Unreachable, match="none of 2 places"):
        opened(dead, NOBODY, tmp_path=tmp_path).resolve("1")


def test_a_tag_is_looked_up_once(registries: tuple[Registry, Registry], tmp_path: Path) -> None:
    with Proxy(registries[0].port) as mirror:
        store = opened(mirror.host, registries[1].host, tmp_path=tmp_path)
        pulled(store, tmp_path)
        assert (mirror.count("HEAD", "/manifests/1$"), mirror.count("GET", "/manifests/1$")) == (1, 0)


def test_blobs_are_mounted_from_the_mirror_that_is_the_target(
    registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    with Proxy(registries[0].port) as mirror:
        reach = access((mirror.host, NOBODY), tmp_path)
        source = open_source(parse_reference(f"docker://{NOBODY}/a/image:1"), reach)
        target = open_target(parse_reference(f"docker://{mirror.host}/mounted/image:1"), reach)
        copy(source, "1", target, "1", platforms=None, emit=ignore, jobs=1)
        assert mirror.bytes_to_upstream < 10_000
