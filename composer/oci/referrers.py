"""What refers to an image: signatures, attestations, SBOMs, as manifests that name it as their subject, or by tags.

Sources: the OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema"; the tags of cosign.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, runtime_checkable

from composer.errors import Corrupt
from composer.oci.copy import parts
from composer.oci.image import OCI_INDEX, Descriptor, Index, Manifest, make_index, parse_manifest
from composer.oci.store import Store

COSIGN: Final = ("sig", "att", "sbom")
"""What cosign puts behind the digest of an image to name its signature, its attestations and its SBOM."""


@runtime_checkable
class Referring(Protocol):
    """A `Store` that knows what refers to the images in it."""

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """The manifests whose subject is `descriptor`; those of one type only, if one is named."""
        ...

    def attached(self, descriptor: Descriptor) -> Mapping[str, Descriptor]:
        """The tags that belong to `descriptor` by their names, as cosign gives them, and what each names."""
        ...


def referrers_of(store: Store, descriptor: Descriptor) -> tuple[Descriptor, ...]:
    """The manifests whose subject is `descriptor`, in whatever of the places that `store` is made of. Each once."""
    found: dict[str, Descriptor] = {}
    for part in parts(store):
        for entry in part.referrers(descriptor) if isinstance(part, Referring) else ():
            found.setdefault(entry.digest, entry)
    return tuple(found.values())


def attached_to(store: Store, descriptor: Descriptor) -> Mapping[str, Descriptor]:
    """The tags of cosign's for `descriptor`, in whatever of the places that `store` is made of."""
    found: dict[str, Descriptor] = {}
    for part in parts(store):
        for tag, entry in (part.attached(descriptor) if isinstance(part, Referring) else {}).items():
            found.setdefault(tag, entry)
    return found


def fallback_tag(digest: str) -> str:
    """The tag of the list of referrers, where a registry keeps none itself."""
    return digest.replace(":", "-")


def cosign_tags(digest: str) -> tuple[str, ...]:
    """The tags under which cosign keeps what belongs to an image."""
    return tuple(f"{fallback_tag(digest)}.{suffix}" for suffix in COSIGN)


def listed(raw: bytes, origin: str) -> tuple[Descriptor, ...]:
    """The entries of a list of referrers. Raises `Corrupt` where it is none."""
    index = parse_manifest(raw, OCI_INDEX)
    if not isinstance(index, Index):
        raise Corrupt(f"{origin} has an image where a list of referrers should be")
    return index.manifests


def entered(entries: tuple[Descriptor, ...], entry: Descriptor) -> bytes | None:
    """The list with one more entry, or None where it is in already."""
    if any(known.digest == entry.digest for known in entries):
        return None
    return make_index(OCI_INDEX, (*entries, entry)).raw


def subject_of(raw: bytes) -> str | None:
    """The digest of what a manifest or index refers to."""
    subject = _document(raw).get("subject")
    digest = subject.get("digest") if isinstance(subject, dict) else None
    return digest if isinstance(digest, str) else None


def entry_of(parsed: Manifest | Index) -> Descriptor:
    """A manifest as it stands in a list of referrers: with its type, which may be that of its config."""
    said = _document(parsed.raw).get("artifactType")
    of_config = parsed.config.media_type if isinstance(parsed, Manifest) else None
    annotations = {str(key): str(value) for key, value in (_document(parsed.raw).get("annotations") or {}).items()}
    return replace(parsed.descriptor, artifact_type=str(said) if said else of_config, annotations=annotations)


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
