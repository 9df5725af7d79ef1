"""Builds between registries: what moves, and what does not, counted at a proxy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from composer import moving, pipeline
from composer.errors import Denied, NotFound, TricomposeError
from composer.lock import read_image
from composer.oci.image import OCI_INDEX, Descriptor, Platform, canonical_json, make_index, make_manifest
from composer.oci.names import parse_reference
from composer.oci.registry import RegistryStore
from composer.oci.transports import open_source
from tests.parity.place import BASE, HOME, Place, file, packed, server
from tests.repositories import PYTHON, put_model
from tests.services.proxy import Answer, Cut, Proxy
from tests.services.registry import Registry

SIZE = 3_000_000
AMD64, ARM64 = (Platform(os="linux", architecture=name) for name in ("amd64", "arm64"))
RECIPE = "backends: [onnxruntime, python]"


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with Proxy(registry.port) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, proxy: Proxy, repository: str, registry: Registry) -> Place:
    """An upstream in a registry whose base layers and dropped backend are large, all random."""
    made = Place(tmp_path)
    base = packed([file("base", os.urandom(SIZE))])
    names = ("onnxruntime", "python", "tensorrt")
    extra = [file(f"{HOME}/backends/{name}/weights", os.urandom(SIZE)) for name in names]
    upper = packed([file("upper", os.urandom(SIZE))])
    made.upstream(BASE, base, upper, packed(server(*names, extra=extra)), base=2)
    for tag in ("full", "min"):
        target = f"docker://{registry.host}/{repository}/up:{tag}"
        command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/upstream:{tag}", target]
        subprocess.run(command, check=True)
    up = f"docker://127.0.0.1:{proxy.port}/{repository}/up"
    made.origin = f"upstream: {{full: '{up}:full', min: '{up}:min'}}"
    return made


def moved(proxy: Proxy) -> int:
    """Bytes in both directions since the last time this was asked."""
    total = proxy.bytes_to_client + proxy.bytes_to_upstream
    last = getattr(proxy, "_told", 0)
    proxy._told = total  # type: ignore[attr-defined]
    return int(total - last)


def slim(proxy: Proxy, repository: str, name: str = "slim") -> str:
    return f"docker://127.0.0.1:{proxy.port}/{repository}/{name}:1"


def test_what_loses_nothing_is_mounted_and_never_read(place: Place, proxy: Proxy, repository: str) -> None:
    """Same registry: the base is not read at all, the rest of the upstream once, and only new layers are sent."""
    place.build(RECIPE, slim(proxy, repository))
    base = [layer for layer in _digests(place, repository, proxy) if layer in _base(place)]
    assert base
    read = [request.path for request in proxy.requests if request.method == "GET"]
    assert not [path for path in read for layer in base if layer in path]


def _base(place: Place) -> list[str]:
    root, images = moving.inspect(parse_reference(f"oci:{place.path}/upstream:min"), place.workplace())
    del root
    return [layer.digest for layer in images[0].layers]


def _digests(place: Place, repository: str, proxy: Proxy) -> list[str]:
    _, images = moving.inspect(parse_reference(slim(proxy, repository)), place.workplace())
    return [layer.digest for layer in images[0].layers]


def test_a_second_recipe_moves_manifests_alone(place: Place, proxy: Proxy, repository: str) -> None:
    place.build(RECIPE, slim(proxy, repository))
    first = moved(proxy)
    place.build("backends: [python]", slim(proxy, repository))
    second = moved(proxy)
    place.build(RECIPE, slim(proxy, repository))
    again = moved(proxy)
    assert first > 3 * SIZE
    assert second < 100_000
    assert again < 100_000


def test_changing_one_model_pushes_one_layer(place: Place, proxy: Proxy, repository: str) -> None:
    """Three models are three layers: the one whose model changed is sent, with the config and the manifest."""
    for name in ("one", "two", "three"):
        put_model(place.path / "models" / name, "python", more=b"#" + os.urandom(SIZE // 3).hex().encode())
    recipe = f"{RECIPE}\nmodels: [{{path: ./models}}]"
    place.build(recipe, slim(proxy, repository))
    before, sent = _digests(place, repository, proxy), moved(proxy)
    (place.path / "models/two/1/model.py").write_text(f"{PYTHON}# {os.urandom(1000).hex()}")
    place.build(recipe, slim(proxy, repository))
    after = _digests(place, repository, proxy)
    assert [old == new for old, new in zip(before, after, strict=True)].count(False) == 1
    assert moved(proxy) < 100_000 < sent


def test_layers_in_the_target_are_not_read_even_without_a_cache(place: Place, proxy: Proxy, repository: str) -> None:
    """With published knowledge a machine without a cache reads nothing and sends nothing but manifests."""
    first = place.build(RECIPE, slim(proxy, repository))
    known = f"docker://127.0.0.1:{proxy.port}/{repository}/known:k"
    count = pipeline.publish_knowledge(place.recipe(RECIPE), parse_reference(known), place.workplace())
    assert count == 3, "two inventories, and one cut"
    place.read()
    moved(proxy)
    other = place.build(RECIPE, slim(proxy, repository), cache="fresh", knowledge=known)
    assert other.root.digest == first.root.digest
    assert place.read() == []
    assert moved(proxy) < 100_000
    # Even a target that has none of the parts gets them from where the knowledge was published.
    place.build(RECIPE, slim(proxy, repository, "elsewhere"), cache="fresher", knowledge=known)
    assert place.read() == []
    assert moved(proxy) < 100_000


def test_knowledge_that_cannot_be_reached_costs_only_time(place: Place, proxy: Proxy, repository: str) -> None:
    proxy.rules.append(Answer(method="GET|HEAD", path="/known/manifests/", status=403))
    known = f"docker://127.0.0.1:{proxy.port}/{repository}/known:k"
    place.build(RECIPE, slim(proxy, repository), knowledge=known)
    assert len(place.read()) == 2


def test_a_build_survives_cut_connections(place: Place, proxy: Proxy, repository: str) -> None:
    sound = place.build(RECIPE)
    proxy.rules.append(Cut(at=500_000))
    assert place.build(RECIPE, cache="fresh").root.digest == sound.root.digest
    place.law("backends/tensorrt")


FAILURES: list[tuple[int, type[TricomposeError]]] = [(401, Denied), (403, Denied), (404, NotFound)]


@pytest.mark.parametrize(("status", "kind"), FAILURES)
def test_a_refused_upstream_leaves_nothing(
    place: Place, proxy: Proxy, repository: str, status: int, kind: type[TricomposeError]
) -> None:
    proxy.rules.append(Answer(method="GET|HEAD", path="/up/manifests/", status=status))
    with pytest.raises(kind) as caught:
        place.build(RECIPE, slim(proxy, repository))
    assert caught.value.hint
    assert not proxy.count("PUT", "/slim/manifests/")


def test_a_refused_target_leaves_nothing(place: Place, proxy: Proxy, repository: str) -> None:
    proxy.rules.append(Answer(method="POST|PUT|PATCH", path="/slim/", status=403))
    with pytest.raises(Denied):
        place.build(RECIPE, slim(proxy, repository))
    with pytest.raises(NotFound):
        moving.inspect(parse_reference(slim(proxy, repository)), place.workplace())


def test_dockers_own_media_types_stay_what_they_are(
    place: Place, proxy: Proxy, repository: str, registry: Registry
) -> None:
    """NVIDIA's images are v2s2: the result is too, whole, and unpacks to what the law says."""
    for tag in ("full", "min"):
        target = f"docker://{registry.host}/{repository}/v2s2:{tag}"
        source = f"oci:{place.path}/upstream:{tag}"
        subprocess.run(["skopeo", "copy", "-q", "--format=v2s2", "--dest-tls-verify=false", source, target], check=True)
    place.origin = place.origin.replace("/up:", "/v2s2:")
    place.build(RECIPE, slim(proxy, repository))
    _, images = moving.inspect(parse_reference(slim(proxy, repository)), place.workplace())
    manifest = images[0].manifest
    assert manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest.config.media_type == "application/vnd.docker.container.image.v1+json"
    assert {layer.media_type for layer in manifest.layers} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    pulled = f"oci:{place.path}/result:slim"
    command = ["skopeo", "copy", "-q", "--src-tls-verify=false", slim(proxy, repository), pulled]
    subprocess.run(command, check=True)
    place.law("backends/tensorrt")


def test_an_index_with_attestations_gives_an_index_of_the_platforms_asked_for(
    place: Place, proxy: Proxy, repository: str, registry: Registry
) -> None:
    """As BuildKit pushes them: two platforms, and beside them attestations that no platform has."""
    reference = parse_reference(f"docker://{registry.host}/{repository}/up:full")
    with closing(open_source(reference, place.workplace().access)) as source:
        assert isinstance(source, RegistryStore)
        amd64 = read_image(source, source.resolve("full"), AMD64)
        config = canonical_json({**amd64.config, "architecture": "arm64"})
        described = Descriptor.of(config, amd64.manifest.config.media_type)
        source.write(described, lambda: iter((config,)))
        arm64 = make_manifest(amd64.manifest.media_type, described, amd64.layers)
        for manifest in (arm64, amd64.manifest):
            source.publish(manifest.raw, manifest.media_type, None)
        entries = [
            replace(amd64.manifest.descriptor, platform=Platform(os="unknown", architecture="unknown")),
            replace(arm64.descriptor, platform=ARM64),
            replace(amd64.manifest.descriptor, platform=AMD64),
        ]
        index = make_index(OCI_INDEX, entries)
        source.publish(index.raw, index.media_type, "many")
    place.origin = f"upstream: 'docker://127.0.0.1:{proxy.port}/{repository}/up:many'"
    outcome = place.build(f"{RECIPE}\nplatforms: [linux/amd64, linux/arm64]", slim(proxy, repository))
    _, images = moving.inspect(parse_reference(slim(proxy, repository)), place.workplace())
    assert [image.platform for image in images] == [AMD64, ARM64]
    assert len(outcome.plans) == 2
    with pytest.raises(NotFound, match="no linux/s390x") as caught:
        read_image(source, source.resolve("many"), Platform(os="linux", architecture="s390x"))
    assert "linux/amd64, linux/arm64" in (caught.value.hint or "")


def test_a_target_that_refuses_is_known_before_a_layer_is_read(place: Place, proxy: Proxy, repository: str) -> None:
    proxy.rules.append(Answer(method="POST|PUT|PATCH", path="/slim/", status=401))
    with pytest.raises(Denied):
        place.build(RECIPE, slim(proxy, repository))
    assert place.read() == []


def test_asking_a_target_beforehand_leaves_nothing_there(
    place: Place, proxy: Proxy, repository: str, registry: Registry
) -> None:
    with pytest.raises(NotFound):
        place.build("backends: [nothing]", slim(proxy, repository))
    assert registry.sessions(f"{repository}/slim") == []
    with pytest.raises(NotFound):
        moving.inspect(parse_reference(slim(proxy, repository)), place.workplace())
