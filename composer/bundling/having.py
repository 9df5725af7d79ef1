"""What the far side has already: by an earlier bundle, or by an inventory that was made there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from composer.bundle.document import Found, document_of
from composer.bundling.kinds import ATTACHED, BASE, COMPOSED, UPSTREAM
from composer.disk import write_whole
from composer.errors import Corrupt, NotFound, Unplannable
from composer.oci.copy import survey
from composer.oci.image import Descriptor
from composer.oci.layout import LayoutStore
from composer.oci.names import Reference
from composer.oci.registry import RegistryStore
from composer.oci.store import Store
from composer.oci.transports import open_source
from composer.workplace import Workplace

SCHEMA: Final = 1
_KIND: Final = "tricompose-inventory"
NAMED: Final = "bundle:"
"""Stands before the name of an image of an earlier bundle, where one says where a blob was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What places hold: blobs by digest, with their bytes and where they were seen."""

    places: tuple[str, ...]
    sizes: Mapping[str, int]
    at: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        blobs = [
            {"digest": digest, "size": size, "at": list(self.at[digest])} for digest, size in sorted(self.sizes.items())
        ]
        return {"schema": SCHEMA, "kind": _KIND, "places": list(self.places), "blobs": blobs}

    def write(self, path: Path) -> None:
        """Write it, all at once. Raises `NoRoom`."""
        write_whole(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())


def take_inventory(references: Sequence[Reference], place: Workplace) -> Inventory:
    """Every blob of the images in repositories and layouts; of the cache, where none is named. No layer is read.

    A repository or layout without a tag is meant with all its tags. Raises what the stores raise.
    """
    sizes: dict[str, int] = {}
    at: dict[str, tuple[str, ...]] = {}
    for name, blobs in _seen(references, place):
        for blob in blobs:
            sizes[blob.digest] = blob.size
            at[blob.digest] = tuple(dict.fromkeys((*at.get(blob.digest, ()), name)))
    places = tuple(str(one) for one in references) or ("the cache",)
    return Inventory(places=places, sizes=sizes, at=at)


def _seen(references: Sequence[Reference], place: Workplace) -> Iterable[tuple[str, Iterable[Descriptor]]]:
    if not references:
        yield "cache", _all_blobs(place.cache)
    with ExitStack() as stack:
        for one in references:
            if one.transport not in ("docker", "oci"):
                hint = "docker://HOST/REPOSITORY, or oci:DIR"
                raise Unplannable(f"of {one} nobody can say what it holds", hint=hint)
            store = open_source(one, replace(place.access, mirrors=lambda reference: (reference,)))
            stack.callback(store.close)
            place_name = str(Reference(transport=one.transport, place=one.place))
            for tag in [one.name] if one.tag or one.digest else _tags(one, store):
                yield place_name, survey(store, store.resolve(tag)).blobs


def _tags(reference: Reference, store: Store) -> Sequence[str]:
    if isinstance(store, LayoutStore | RegistryStore):
        return store.tags()
    raise NotFound(f"{reference} does not list its tags", hint=f"{reference}:TAG, one by one")


def _all_blobs(cache: Path) -> Iterable[Descriptor]:
    """What a cache has; a blob is there whole or not at all."""
    for file in (cache / "blobs" / "sha256").glob("*"):
        yield Descriptor(media_type="", digest=f"sha256:{file.name}", size=file.stat().st_size)


def known_by(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The blobs that an earlier bundle or an inventory lists, each with where it was seen.

    Raises `NotFound`, and `Corrupt` for a file that is neither.
    """
    if not path.exists() and not document_of(path).exists():
        raise NotFound(f"there is no inventory and no bundle {path}", hint="tricompose bundle inventory PLACE -o FILE")
    document = _document(path)
    if isinstance(document, dict) and document.get("kind") == _KIND:
        try:
            return {str(one["digest"]): tuple(map(str, one["at"])) for one in document["blobs"]}
        except (KeyError, TypeError) as error:
            raise Corrupt(f"{path} is a broken inventory", hint="tricompose bundle inventory ... makes one") from error
    return _of_bundle(Found.at(path))


def _document(path: Path) -> object:
    try:
        return json.loads(path.read_bytes()) if path.is_file() and path.suffix == ".json" else None
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is neither an inventory nor a bundle's document", hint="carry it here again") from error


def _of_bundle(found: Found) -> Mapping[str, tuple[str, ...]]:
    """The blobs of a bundle, and those that it was built on, by the images of it that have them."""
    at: dict[str, tuple[str, ...]] = {need.digest: need.at for need in found.bundle.needs}
    images = {one.name for one in found.bundle.items if one.kind in (UPSTREAM, BASE, COMPOSED, ATTACHED)}
    kept = {one.digest for one in found.bundle.blobs}
    for name, digests in found.bundle.contents.items():
        for digest in kept.intersection(digests):
            at[digest] = (*at.get(digest, ()), *([f"{NAMED}{name}"] if name in images else []))
    return at
