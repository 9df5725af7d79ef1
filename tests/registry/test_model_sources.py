"""Models from a real registry: modelcars and ORAS artifacts, with breaks, mirrors and passwords on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from composer import network
from composer.errors import Denied
from composer.events import Event, Transferred
from composer.models.sources import Fetched, Way, fetch
from composer.oci.credentials import Credentials
from composer.oci.image import OCI_MANIFEST, Descriptor, canonical_json, make_manifest
from composer.oci.registry import RegistryStore
from composer.oci.transports import Access
from tests.images import Picture, put
from tests.services.proxy import Cut, Proxy
from tests.services.registry import PASSWORD, Registry, login, store_at
from tests.services.storage import TITLE, modelcar

MODEL = random.Random(9).randbytes(24 << 20)


def way(folder: Path, *, emit: Callable[[Event], None] = lambda event: None, **also: object) -> Way:
    routes = network.Routes(ca_bundle=also.pop("ca_bundle", None), mirrors=also.pop("mirrors", {}))  # type: ignore[arg-type]
    access = Access(
        session=lru_cache(lambda: network.session(routes)),
        credentials=also.pop("credentials", Credentials(files=())),  # type: ignore[arg-type]
        insecure=frozenset(),
        scratch=folder / "ingest",
        emit=emit,
        mirrors=routes.places,
    )
    return Way(access=access, base=folder, routes=routes, **also)  # type: ignore[arg-type]


def contents(found: Fetched) -> dict[str, bytes]:
    return {file.path: file.place.read_bytes() for file in found.files}


def push_artifact(store: RegistryStore, tag: str, files: dict[str, bytes]) -> Descriptor:
    """What `oras push` makes of these files."""
    config = canonical_json({})
    empty = Descriptor.of(config, "application/vnd.oci.empty.v1+json")
    store.write(empty, lambda: iter((config,)))
    layers = []
    for path, data in files.items():
        blob = Descriptor.of(data, "application/octet-stream")
        store.write(blob, lambda data=data: iter((data,)))  # type: ignore[misc]
        layers.append(
            Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size, annotations={TITLE: path})
        )
    manifest = make_manifest(OCI_MANIFEST, empty, layers)
    return store.publish(manifest.raw, manifest.media_type, tag)


def test_an_artifact_goes_on_in_a_later_run(registry: Registry, repository: str, tmp_path: Path) -> None:
    """Stopped in the middle, as by Ctrl-C: the next run asks for what is missing, and for nothing else."""
    push_artifact(store_at(f"{registry.host}/{repository}"), "1", {"1/model.onnx": MODEL, "config.pbtxt": b"x"})
    with Proxy(registry.port) as proxy:
        source = f"docker://127.0.0.1:{proxy.port}/{repository}:1"

        def stop(event: Event) -> None:
            if isinstance(event, Transferred) and event.done > 9 << 20:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch(source, sha256=None, into=tmp_path / "models", way=way(tmp_path, emit=stop))
        before = proxy.bytes_to_client
        found = fetch(source, sha256=None, into=tmp_path / "models", way=way(tmp_path))
        assert contents(found) == {"1/model.onnx": MODEL, "config.pbtxt": b"x"}
        assert proxy.bytes_to_client - before < len(MODEL) - (8 << 20)
        [asked] = [one for one in proxy.requests if "Range" in one.headers]
        assert int(asked.headers["Range"].partition("=")[2].partition("-")[0]) > 9 << 20
        count = len(proxy.requests)
        again = fetch(source, sha256=found.digest[7:], into=tmp_path / "models", way=way(tmp_path))
        assert contents(again) == contents(found)
        assert len(proxy.requests) == count, "with its digest nobody is asked"


def test_a_modelcar_comes_through_breaks(registry: Registry, repository: str, tmp_path: Path) -> None:
    car: Picture = modelcar({"etc/os": b"x", "models/config.pbtxt": b"y"}, {"models/1/model.onnx": MODEL})
    put(store_at(f"{registry.host}/{repository}"), car, "v1")
    with Proxy(registry.port, [Cut(at=5 << 20, times=3)]) as proxy:
        source = f"docker://127.0.0.1:{proxy.port}/{repository}:v1"
        found = fetch(source, sha256=None, into=tmp_path / "models", way=way(tmp_path))
        assert contents(found) == {"1/model.onnx": MODEL, "config.pbtxt": b"y"}
        assert found.pinned.uri == f"docker://127.0.0.1:{proxy.port}/{repository}:v1@{car.root.digest}"
        assert proxy.bytes_to_client < len(MODEL) * 1.2
        before = proxy.bytes_to_client
        assert fetch(source, sha256=None, into=tmp_path / "models", way=way(tmp_path)).digest == found.digest
        assert proxy.bytes_to_client - before < 10_000, "an image that is known is not fetched again"


def test_the_mirror_of_a_registry_is_asked_in_its_place(registry: Registry, repository: str, tmp_path: Path) -> None:
    root = push_artifact(store_at(f"{registry.host}/proxy/{repository}"), "1", {"model.onnx": b"m"})
    mirrors = {"models.invalid": (f"{registry.host}/nowhere", f"{registry.host}/proxy")}
    found = fetch(
        f"docker://models.invalid/{repository}:1",
        sha256=None,
        into=tmp_path / "models",
        way=way(tmp_path, mirrors=mirrors),
    )
    assert contents(found) == {"model.onnx": b"m"}
    assert found.pinned.uri == f"docker://models.invalid/{repository}:1@{root.digest}"


def test_the_password_of_a_registry_is_docker_s(guarded: Registry, repository: str, tmp_path: Path) -> None:
    credentials = login(tmp_path / "docker", guarded.host)
    place = f"{guarded.host}/{repository}"
    push_artifact(store_at(place, credentials=credentials, ca_bundle=guarded.certificate), "1", {"model.onnx": b"m"})
    events: list[Event] = []
    trusted = way(tmp_path, credentials=credentials, ca_bundle=guarded.certificate, emit=events.append)
    found = fetch(f"docker://{place}:1", sha256=None, into=tmp_path / "models", way=trusted)
    assert contents(found) == {"model.onnx": b"m"}
    assert PASSWORD not in "".join(map(str, [found, *events]))
    with pytest.raises(Denied):
        fetch(
            f"docker://{place}:1",
            sha256=None,
            into=tmp_path / "other",
            way=way(tmp_path, ca_bundle=guarded.certificate),
        )
