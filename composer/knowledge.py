"""What has been learned of upstream layers, kept by digest: what they hold, and the layers that were cut from them.

Each piece is an OCI artifact in the cache: the inventory of a layer, or a *cut*, a manifest that lists the parts of
a layer, whose blobs may lie in the cache, in a registry, or nowhere any more. Being artifacts they can be pushed to
a registry and fetched from there by machines that have no cache, which then need not read the layers themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from composer import elf
from composer.elf import Binary
from composer.errors import NotFound, TricomposeError
from composer.events import Emit, Warned
from composer.inventory import Inventory, decode, encode
from composer.oci.image import (
    EMPTY_JSON,
    OCI_EMPTY,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Image,
    Manifest,
    make_manifest,
    parse_manifest,
)
from composer.oci.layer import Blob, Part
from composer.oci.layout import LayoutStore
from composer.oci.store import Store, Target
from composer.oci.tar import Entry

INVENTORY: Final = "application/vnd.tricompose.inventory.v1"
CUT: Final = "application/vnd.tricompose.cut.v1"
BINARIES: Final = "application/vnd.tricompose.binaries.v2"
NOTES: Final = "application/vnd.tricompose.notes.v1"
_COMPONENT: Final = "io.tricompose.component"
_NUMBER: Final = "io.tricompose.part"
_DIFF_ID: Final = "io.tricompose.diff-id"
_TAR_SIZE: Final = "io.tricompose.tar-size"
_EMPTY: Final = Descriptor.of(EMPTY_JSON, OCI_EMPTY)


class Knowledge:
    """What the cache knows, and behind it a place where others published what they know, if one is given.

    The published place is believed as its registry is believed: who may push there says what layers hold.
    """

    def __init__(self, cache: LayoutStore, *, published: Store | None, emit: Emit) -> None:
        self._cache = cache
        self._published = published
        self._emit = emit

    @property
    def scratch(self) -> Path:
        """Where there is room for files while they are looked at."""
        return self._cache.path

    def entries(self, layer: str) -> Sequence[Entry] | None:
        """The entries of a layer by its digest, or None where nobody has read it yet."""
        manifest = self._find(_inventory_tag(layer))
        if manifest is None:
            return None
        try:
            return decode(b"".join(self._cache.read(manifest.layers[0])))
        except NotFound:
            return None

    def knows(self, layer: str) -> bool:
        """Whether the entries of a layer are known."""
        return self._find(_inventory_tag(layer)) is not None

    def remember_entries(self, layer: str, entries: Sequence[Entry]) -> None:
        """Keep what a layer holds."""
        blob = encode(entries)
        descriptor = Descriptor.of(blob, f"{INVENTORY}+gzip")
        self._cache.write(descriptor, lambda: iter((blob,)))
        self._put(_inventory_tag(layer), INVENTORY, [descriptor])

    def inventory(self, image: Image) -> Inventory:
        """The entries of those layers of an image that are known."""
        known = {layer.digest: self.entries(layer.digest) for layer in image.layers}
        return Inventory(image=image, layers={digest: found for digest, found in known.items() if found is not None})

    def binaries(self, part: str) -> Mapping[str, Binary] | None:
        """What the shared objects in a layer of ours need, by path; None where nobody has looked. Never published."""
        try:
            manifest = _manifest(self._cache, self._cache.resolve(_binaries_tag(part)))
            return elf.decode(b"".join(self._cache.read(manifest.layers[0])))
        except NotFound:
            return None

    def remember_binaries(self, part: str, binaries: Mapping[str, Binary]) -> None:
        """Keep what the shared objects in a layer of ours need."""
        blob = elf.encode(binaries)
        descriptor = Descriptor.of(blob, f"{BINARIES}+json")
        self._cache.write(descriptor, lambda: iter((blob,)))
        self._put(_binaries_tag(part), BINARIES, [descriptor])

    def notes(self, layer: str, manner: str) -> bytes | None:
        """What was noted of the files in a layer when it was looked at in that manner; None where it was not.

        Never published, as notes tell where secrets are.
        """
        try:
            manifest = _manifest(self._cache, self._cache.resolve(_notes_tag(layer, manner)))
            return b"".join(self._cache.read(manifest.layers[0]))
        except NotFound:
            return None

    def remember_notes(self, layer: str, manner: str, notes: bytes) -> None:
        """Keep what was noted of the files in a layer."""
        descriptor = Descriptor.of(notes, NOTES)
        self._cache.write(descriptor, lambda: iter((notes,)))
        self._put(_notes_tag(layer, manner), NOTES, [descriptor])

    def parts(self, layer: str, manner: str) -> Sequence[Part]:
        """The parts that are known to come of cutting a layer in that manner; empty where none are."""
        manifest = self._find(_cut_tag(layer, manner))
        return tuple(_part(blob) for blob in manifest.layers) if manifest else ()

    def remember_parts(self, layer: str, manner: str, parts: Iterable[Part]) -> None:
        """Keep which parts come of cutting a layer, beside those that were known."""
        known = {(part.component, part.number): part for part in (*self.parts(layer, manner), *parts)}
        blobs = [_descriptor(known[key]) for key in sorted(known)]
        self._put(_cut_tag(layer, manner), CUT, blobs)

    def publish(self, layers: Iterable[str], manners: Iterable[str], target: Target, source: Store, jobs: int) -> int:
        """Push all that is known of some layers, parts and all, from the cache and `source`; how many artifacts."""
        wanted = [_inventory_tag(layer) for layer in layers]
        wanted += [_cut_tag(layer, manner) for layer in layers for manner in manners]
        found = [tag for tag in wanted if self._find(tag)]
        for tag in found:
            target.receive(source, self._cache.resolve(tag), tag, emit=self._emit, jobs=jobs)
        return len(found)

    def _put(self, tag: str, kind: str, blobs: Sequence[Descriptor]) -> None:
        self._cache.write(_EMPTY, lambda: iter((EMPTY_JSON,)))
        manifest = make_manifest(OCI_MANIFEST, _EMPTY, blobs, artifact_type=kind)
        self._cache.publish(manifest.raw, OCI_MANIFEST, tag)

    def _find(self, tag: str) -> Manifest | None:
        with suppress(NotFound):
            return _manifest(self._cache, self._cache.resolve(tag))
        if self._published is None:
            return None
        try:
            return self._fetch(self._published, tag)
        except NotFound:
            return None
        except TricomposeError as error:
            self._emit(Warned(message=f"what is known could not be fetched: {error.message}", hint=error.hint))
            return None

    def _fetch(self, published: Store, tag: str) -> Manifest:
        """Bring an artifact to the cache: an inventory whole, of a cut only the list of its parts."""
        manifest = _manifest(published, published.resolve(tag))
        for blob in manifest.layers:
            if _COMPONENT not in blob.annotations:
                self._cache.write(blob, lambda blob=blob: published.read(blob))  # type: ignore[misc]
        self._cache.write(_EMPTY, lambda: iter((EMPTY_JSON,)))
        self._cache.publish(manifest.raw, manifest.media_type, tag)
        return manifest


def _manifest(store: Store, descriptor: Descriptor) -> Manifest:
    manifest = parse_manifest(store.manifest(descriptor), descriptor.media_type)
    if not isinstance(manifest, Manifest) or not manifest.layers:
        raise NotFound(f"{store.label} has something else under that name")
    return manifest


def _inventory_tag(layer: str) -> str:
    return f"inventory-{layer.removeprefix('sha256:')}"


def _cut_tag(layer: str, manner: str) -> str:
    return f"cut-{layer.removeprefix('sha256:')}-{hashlib.sha256(manner.encode()).hexdigest()[:12]}"


def _binaries_tag(part: str) -> str:
    return f"binaries-2-{part.removeprefix('sha256:')}"


def _notes_tag(layer: str, manner: str) -> str:
    return f"notes-{layer.removeprefix('sha256:')}-{hashlib.sha256(manner.encode()).hexdigest()[:12]}"


def part_descriptor(part: Part, media_type: str) -> Descriptor:
    """What a manifest of the family of `media_type` says of a part."""
    return Descriptor(media_type=media_type, digest=part.blob.digest, size=part.blob.size)


def _descriptor(part: Part) -> Descriptor:
    annotations = {
        _COMPONENT: part.component,
        _NUMBER: str(part.number),
        _DIFF_ID: part.blob.diff_id,
        _TAR_SIZE: str(part.blob.tar_size),
    }
    media_type = f"{OCI_LAYER}+gzip"
    return Descriptor(media_type=media_type, digest=part.blob.digest, size=part.blob.size, annotations=annotations)


def _part(blob: Descriptor) -> Part:
    said = blob.annotations
    try:
        number, tar_size = int(said[_NUMBER]), int(said[_TAR_SIZE])
        made = Blob(digest=blob.digest, size=blob.size, diff_id=said[_DIFF_ID], tar_size=tar_size)
        return Part(component=said[_COMPONENT], number=number, blob=made)
    except (KeyError, ValueError) as error:
        raise NotFound(f"a cut in the cache lacks {error}", hint="tricompose cache clear") from error
