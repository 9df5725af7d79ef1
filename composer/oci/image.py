"""Manifests, indexes and configs as values. The raw bytes are what counts: digests are of them, and they are kept."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from composer.errors import Corrupt, NotFound

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES: Final = (OCI_INDEX, DOCKER_LIST)
EMPTY_JSON: Final = b"{}"

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def sha256(data: bytes) -> str:
    """The digest of bytes at hand, as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a manifest of an index runs on. Written `linux/arm64/v8`."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`."""
        os, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        if not os or not architecture:
            raise NotFound(f"{text!r} is not a platform", hint="linux/amd64")
        return cls(os=os, architecture=architecture, variant=variant or None)

    def accepts(self, other: Platform) -> bool:
        """Whether an image for `other` is what was asked for; a variant counts only where one was named."""
        same = (self.os, self.architecture) == (other.os, other.architecture)
        return same and self.variant in (None, other.variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a manifest says of a blob or another manifest: its digest, its size in bytes, what it is."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str | None = None

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Descriptor:
        """The descriptor of bytes at hand."""
        return cls(media_type=media_type, digest=sha256(data), size=len(data))

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the image specification, with no empty fields."""
        fields: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.platform:
            parts = (("os", self.platform.os), ("architecture", self.platform.architecture))
            variant = (("variant", self.platform.variant),) if self.platform.variant else ()
            fields["platform"] = dict(parts + variant)
        if self.artifact_type:
            fields["artifactType"] = self.artifact_type
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image manifest (or an artifact's): its bytes, and what they say."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]

    @property
    def descriptor(self) -> Descriptor:
        """What to call this manifest by."""
        return Descriptor.of(self.raw, self.media_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A list of manifests, one for each platform, and maybe attestations about them."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]

    @property
    def descriptor(self) -> Descriptor:
        """What to call this index by."""
        return Descriptor.of(self.raw, self.media_type)

    def images(self) -> tuple[Descriptor, ...]:
        """The entries that are images. Attestations (`unknown/unknown`, as BuildKit writes them) are not."""
        return tuple(entry for entry in self.manifests if not _is_attestation(entry))

    def choose(self, platform: Platform) -> Descriptor:
        """The image for a platform. Raises `NotFound` with the platforms that there are."""
        for entry in self.images():
            if entry.platform is None or platform.accepts(entry.platform):
                return entry
        known = ", ".join(sorted(str(entry.platform) for entry in self.images()))
        raise NotFound(f"the image has no {platform}", hint=f"platforms: [one of {known}]")


def _is_attestation(entry: Descriptor) -> bool:
    marked = entry.annotations.get("vnd.docker.reference.type") == "attestation-manifest"
    return marked or (entry.platform is not None and entry.platform.architecture == "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image for one platform: its manifest, and its config as bytes and as read. Immutable."""

    manifest: Manifest
    config_raw: bytes
    config: Mapping[str, Any]

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers from the bottom up."""
        return self.manifest.layers

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of the uncompressed layers, one for each of `layers`."""
        return tuple(self.config["rootfs"]["diff_ids"])

    @property
    def platform(self) -> Platform:
        """What the config says it runs on."""
        variant = self.config.get("variant")
        return Platform(os=self.config["os"], architecture=self.config["architecture"], variant=variant or None)


def parse_manifest(raw: bytes, media_type: str) -> Manifest | Index:
    """Read a manifest or an index of either family. Raises `Corrupt` for anything that is not one."""
    document = _object(raw, "manifest")
    kind = document.get("mediaType") or media_type
    try:
        if kind in INDEXES:
            entries = tuple(_descriptor(entry) for entry in document["manifests"] or ())
            return Index(raw=raw, media_type=kind, manifests=entries)
        if kind in MANIFESTS:
            return Manifest(
                raw=raw,
                media_type=kind,
                config=_descriptor(document["config"]),
                layers=tuple(_descriptor(layer) for layer in document["layers"]),
                annotations=dict(document.get("annotations") or {}),
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"a manifest of type {kind} lacks or misspells {error}") from error
    raise Corrupt(f"{kind!r} is not a manifest that tricompose reads", hint="push the image again as OCI or v2s2")


def parse_image(manifest: Manifest, config_raw: bytes) -> Image:
    """Join a manifest and its config. Raises `Corrupt` where it is no config, or is one of other layers."""
    config = _object(config_raw, "image config")
    try:
        diff_ids, platform = config["rootfs"]["diff_ids"], (config["os"], config["architecture"])
    except (KeyError, TypeError) as error:
        raise Corrupt(f"the image config lacks {error}") from error
    if not (isinstance(diff_ids, list) and all(map(is_digest, diff_ids)) and all(platform)):
        raise Corrupt("the image config has a platform or diff IDs that are none")
    if len(diff_ids) != len(manifest.layers):
        raise Corrupt(f"the manifest has {len(manifest.layers)} layers, its config {len(diff_ids)} diff IDs")
    return Image(manifest=manifest, config_raw=config_raw, config=config)


def make_manifest(
    media_type: str,
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
) -> Manifest:
    """Write a manifest: sorted keys, no white space, so the same parts always give the same digest."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if artifact_type:
        document["artifactType"] = artifact_type
    if annotations:
        document["annotations"] = dict(annotations)
    return Manifest(
        raw=canonical_json(document),
        media_type=media_type,
        config=config,
        layers=tuple(layers),
        annotations=dict(annotations or {}),
    )


def make_index(media_type: str, entries: Sequence[Descriptor]) -> Index:
    """Write an index over manifests whose descriptors carry their platforms."""
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [entry.to_json() for entry in entries],
    }
    return Index(raw=canonical_json(document), media_type=media_type, manifests=tuple(entries))


def canonical_json(document: object) -> bytes:
    """JSON with one spelling: sorted keys, no white space, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain ID of each layer: what names the stack up to it. Source: the OCI image specification, config.md."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def layer_media_type(family: str) -> str:
    """The media type of a gzip layer in a manifest of the given media type. The families are never mixed."""
    return DOCKER_LAYER_GZIP if family in (DOCKER_MANIFEST, DOCKER_LIST) else f"{OCI_LAYER}+gzip"


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the {what} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Corrupt(f"the {what} is not a JSON object")
    return document


def _descriptor(entry: Mapping[str, Any]) -> Descriptor:
    digest, size = entry["digest"], entry["size"]
    if not is_digest(digest):
        raise ValueError(f"digest {digest!r} (only sha256 is read)")
    if type(size) is not int or size < 0:
        raise ValueError(f"size {size!r}")
    return Descriptor(
        media_type=str(entry["mediaType"]),
        digest=digest,
        size=size,
        annotations=dict(entry.get("annotations") or {}),
        platform=_platform(entry.get("platform")),
        urls=tuple(entry.get("urls") or ()),
        artifact_type=entry.get("artifactType") or None,
    )


def is_digest(value: object) -> bool:
    """Whether a value is a digest as we read them: SHA-256, spelled out."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _platform(fields: Mapping[str, Any] | None) -> Platform | None:
    if not fields:
        return None
    return Platform(os=fields["os"], architecture=fields["architecture"], variant=fields.get("variant") or None)
