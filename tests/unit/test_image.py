from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import Corrupt, NotFound
from composer.oci.image import (
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    canonical_json,
    chain_ids,
    layer_media_type,
    make_index,
    make_manifest,
    parse_image,
    parse_manifest,
    sha256,
)
from tests.images import AMD64, entry, index_of, picture

ARM_V7 = Platform(os="linux", architecture="arm", variant="v7")


def document(**changes: Any) -> bytes:
    """A good manifest with some fields changed; None takes a field away."""
    fields: dict[str, Any] = json.loads(picture().manifest.raw)
    fields |= changes
    return json.dumps({key: value for key, value in fields.items() if value is not None}).encode()


def good(**changes: Any) -> Mapping[str, Any]:
    return Descriptor.of(b"x", OCI_CONFIG).to_json() | changes


# -- bytes count -----------------------------------------------------------------------------


def test_the_bytes_are_kept_as_they_came() -> None:
    raw = document().replace(b",", b" ,\n ")
    parsed = parse_manifest(raw, OCI_MANIFEST)
    assert parsed.raw == raw
    assert parsed.descriptor == Descriptor(media_type=OCI_MANIFEST, digest=sha256(raw), size=len(raw))
    assert sha256(raw) == f"sha256:{hashlib.sha256(raw).hexdigest()}"


def test_what_is_written_reads_back_and_has_one_spelling() -> None:
    layers = [Descriptor.of(b"layer", f"{OCI_LAYER}+gzip"), Descriptor.of("ü".encode(), OCI_LAYER)]
    config = Descriptor.of(b"{}", OCI_CONFIG)
    made = make_manifest(OCI_MANIFEST, config, layers, annotations={"b": "2", "a": "ü"}, artifact_type="x/y")
    assert parse_manifest(made.raw, "") == made
    again = make_manifest(OCI_MANIFEST, config, layers, annotations={"a": "ü", "b": "2"}, artifact_type="x/y")
    assert again.raw == made.raw
    assert b" " not in made.raw
    assert json.loads(made.raw)["artifactType"] == "x/y"
    assert "annotations" not in json.loads(make_manifest(OCI_MANIFEST, config, layers).raw)


def test_an_index_reads_back() -> None:
    index = make_index(OCI_INDEX, [entry(picture(), AMD64), entry(picture(seed=1), ARM_V7)])
    assert parse_manifest(index.raw, "") == index


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_canonical_json_does_not_depend_on_order(fields: dict[str, Any]) -> None:
    assert canonical_json(fields) == canonical_json(dict(reversed(fields.items())))
    assert json.loads(canonical_json(fields)) == fields


@pytest.mark.parametrize(
    ("family", "layer"),
    [
        (OCI_MANIFEST, f"{OCI_LAYER}+gzip"),
        (OCI_INDEX, f"{OCI_LAYER}+gzip"),
        (DOCKER_MANIFEST, DOCKER_LAYER_GZIP),
        (DOCKER_LIST, DOCKER_LAYER_GZIP),
    ],
)
def test_families_are_not_mixed(family: str, layer: str) -> None:
    assert layer_media_type(family) == layer


def test_chain_ids_are_those_of_the_specification() -> None:
    first, second, third = (sha256(bytes([number])) for number in range(3))
    chained = sha256(f"{first} {second}".encode())
    assert chain_ids([first, second, third]) == (first, chained, sha256(f"{chained} {third}".encode()))
    assert chain_ids([]) == ()


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        document(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"),
        document(config=None),
        document(layers=None),
        document(layers={}) + b"x",
        document(config=[]),
        document(config=good(size=-1)),
        document(config=good(size="1")),
        document(config=good(size=True)),
        document(config=good(digest="sha256:short")),
        document(config=good(digest="sha256:" + "g" * 64)),
        document(config=good(digest="sha512:" + "a" * 128)),
        document(config=good(digest="sha256:../../../../../../../../../../../../../../../../etc/passwd" + "a" * 8)),
        document(config=good(digest="sha256:" + "A" * 64)),
        document(config=good(digest="sha256:+" + "a" * 63)),
        document(config=good(digest="sha256:" + "a_a" * 21 + "a")),
        document(layers=[good(platform={"os": "linux"})]),
        document(layers=["x"]),
    ],
)
def test_what_is_no_manifest_is_corrupt(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_manifest(raw, OCI_MANIFEST)


def fields(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = ("config", "layers", "manifests", "mediaType", "digest", "size", "annotations", "platform", "urls")
    return st.dictionaries(st.sampled_from(names), inner)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | fields(inner)))
def test_any_json_is_a_manifest_or_corrupt(value: Any) -> None:
    for kind in (OCI_MANIFEST, OCI_INDEX):
        try:
            parsed = parse_manifest(json.dumps(value).encode(), kind)
        except Corrupt:
            continue
        assert isinstance(parsed, (Manifest, Index))


# -- platforms -------------------------------------------------------------------------------


def test_platforms_are_read_as_they_are_written() -> None:
    for text in ("linux/amd64", "linux/arm/v7"):
        assert str(Platform.parse(text)) == text
    for text in ("linux", "linux/", "/amd64", ""):
        with pytest.raises(NotFound, match="not a platform"):
            Platform.parse(text)


def test_a_variant_counts_only_where_one_is_named() -> None:
    assert Platform.parse("linux/arm").accepts(ARM_V7)
    assert ARM_V7.accepts(ARM_V7)
    assert not Platform.parse("linux/arm/v6").accepts(ARM_V7)
    assert not Platform.parse("linux/arm64").accepts(ARM_V7)


def test_attestations_are_no_images() -> None:
    image, note, marked = picture(), picture(seed=1), picture(seed=2)
    unknown = Platform(os="unknown", architecture="unknown")
    index = index_of((note, unknown), (image, AMD64))
    marks = {"vnd.docker.reference.type": "attestation-manifest"}
    attested = Descriptor(media_type=OCI_MANIFEST, digest=marked.root.digest, size=marked.root.size, annotations=marks)
    index = make_index(OCI_INDEX, (attested, *index.manifests))
    assert index.images() == (entry(image, AMD64),)
    assert index.choose(AMD64).digest == image.root.digest
    with pytest.raises(NotFound, match="no linux/arm/v7") as caught:
        index.choose(ARM_V7)
    assert "linux/amd64" in str(caught.value.hint)


# -- configs ---------------------------------------------------------------------------------


def test_an_image_knows_its_layers_by_both_digests() -> None:
    made = picture(layers=3, platform=ARM_V7)
    image = parse_image(made.manifest, made.data[made.manifest.config.digest])
    assert len(image.layers) == len(image.diff_ids) == 3
    assert image.platform == ARM_V7


@pytest.mark.parametrize(
    "config",
    [
        b"{}",
        b"[]",
        b'{"rootfs": {}}',
        b'{"rootfs": {"diff_ids": []}, "os": "linux", "architecture": "amd64"}',
        b'{"rootfs": {"diff_ids": ["a", "b"]}, "os": "linux"}',
        b'{"rootfs": {"diff_ids": 7}, "os": "linux", "architecture": "amd64"}',
        b'{"rootfs": [], "os": "linux", "architecture": "amd64"}',
        b'{"rootfs": {"diff_ids": ["a", "b"]}, "os": "", "architecture": "amd64"}',
        b'{"rootfs": {"diff_ids": {"a": 1, "b": 2}}, "os": "linux", "architecture": "amd64"}',
    ],
)
def test_a_config_that_does_not_fit_is_corrupt(config: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_image(picture().manifest, config)
