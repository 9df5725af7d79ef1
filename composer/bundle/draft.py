"""A bundle before it is written: every byte has its place, so that blobs can come in any order, and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from composer.bundle.document import Blob, Bundle, Item, Member, Need, Part
from composer.errors import Unplannable
from composer.oci.archive import (
    BLOCK,
    CONTAINERD_NAME,
    DOCKER_INDEX,
    docker_item,
    first_image,
    header,
    padded,
    with_host,
)
from composer.oci.copy import Contents
from composer.oci.image import OCI_INDEX, OCI_LAYER, Descriptor, Index, Manifest, canonical_json, sha256
from composer.oci.layout import INDEX, LAYOUT_VERSION, MARKER, REF_NAME, blob_path
from composer.oci.store import Store

_LOOSE: Final = f"{OCI_LAYER}+file"
"""The media type that a file which is no blob has while it moves; it is written nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An image or artifact that goes in: what it is called, what kind it is, what it is made of and where that is.

    `called` is what it was called where it came from; `docker` what `docker load` is to call it, if that is to see it.
    With `slight` its layers go in only where others bring them: its manifest and config alone are wanted.
    """

    name: str
    kind: str
    contents: Contents
    source: Store
    platforms: tuple[str, ...] = ()
    called: str | None = None
    docker: str | None = None
    slight: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loose:
    """A file that goes in as it is, to be unpacked by hand: its path in the tar, where it is now, what it is."""

    path: str
    source: Path | bytes
    size: int
    digest: str
    mode: int = 0o644

    @property
    def blob(self) -> Descriptor:
        """What it is called while it moves."""
        return Descriptor(media_type=_LOOSE, digest=self.digest, size=self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of the tar: `start` is where its header begins in the whole, `offset` where its bytes do.

    `data` are its bytes where these are at hand.
    """

    path: str
    mode: int
    size: int
    digest: str
    start: int
    data: bytes | None = None

    @property
    def header(self) -> bytes:
        """What stands before its bytes."""
        return header(self.path, self.size, self.mode)

    @property
    def offset(self) -> int:
        """Where its bytes begin in the whole."""
        return self.start + len(self.header)

    @property
    def end(self) -> int:
        """Where the next one's header begins."""
        return self.offset + padded(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What will be written: the files of the tar in their order, the blobs to move, and the document but its parts."""

    entries: tuple[Entry, ...]
    moving: tuple[Descriptor, ...]
    manifests: tuple[Manifest | Index, ...]
    size: int
    bundle: Bundle

    @property
    def identity(self) -> str:
        """A digest of all that is to be written."""
        return sha256(self.bundle.raw())

    def finished(self, parts: Sequence[Part]) -> Bundle:
        """The document of what was written."""
        return self.bundle.model_copy(update={"parts": tuple(parts)})


def draft(things: Sequence[Thing], loose: Sequence[Loose], known: Mapping[str, tuple[str, ...]], *, tool: str) -> Draft:
    """Give every byte its place. Blobs that are `known`, by digest, stay out: the value says where they were seen.

    Raises `Unplannable` where two things have one name.
    """
    _require_names(things)
    manifests = _manifests(things)
    wanted = _wanted(things)
    moving = [blob for digest, blob in wanted.items() if digest not in known]
    lacking = {thing.name: _lacking(thing, wanted, known) for thing in things}
    needs = _needs(things, wanted, known)
    whole = [thing for thing in things if not lacking[thing.name] and not any(thing.name in one.items for one in needs)]
    small = {
        MARKER: LAYOUT_VERSION,
        INDEX: _index(things),
        DOCKER_INDEX: canonical_json(list(_docker(whole))),
        **{blob_path(digest): raw for digest, raw in manifests.items()},
    }
    entries = _placed(loose, small, sorted(moving, key=lambda blob: (-blob.size, blob.digest)))
    size = entries[-1].end + 2 * BLOCK
    held = {*manifests, *(blob.digest for blob in moving)}
    bundle = Bundle(
        tool=tool,
        size=size,
        parts=(),
        items=tuple(_item(thing, lacking[thing.name]) for thing in things),
        members=tuple(_member(entry) for entry in entries if not _is_blob(entry)),
        manifests=tuple(_blob(entry) for entry in entries if _is_blob(entry) and entry.data is not None),
        blobs=tuple(_blob(entry) for entry in entries if _is_blob(entry) and entry.data is None),
        needs=needs,
        contents={thing.name: tuple(one for one in _made_of(thing) if one in held) for thing in things},
    )
    return Draft(
        entries=entries,
        moving=(*moving, *(one.blob for one in loose)),
        manifests=tuple(one for thing in things for one in thing.contents.manifests),
        size=size,
        bundle=bundle,
    )


def _require_names(things: Sequence[Thing]) -> None:
    twice = [name for name, count in Counter(thing.name for thing in things).items() if count > 1]
    if twice:
        raise Unplannable(
            f"two things in one bundle cannot both be called {twice[0]}", hint="a bundle for each of them"
        )


def _manifests(things: Sequence[Thing]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for thing in things:
        found |= {one.descriptor.digest: one.raw for one in thing.contents.manifests}
    return found


def _wanted(things: Sequence[Thing]) -> dict[str, Descriptor]:
    """Every blob that somebody needs."""
    found: dict[str, Descriptor] = {}
    for thing in things:
        blobs: Iterable[Descriptor] = thing.contents.blobs
        if thing.slight:
            blobs = (one.config for one in thing.contents.manifests if isinstance(one, Manifest))
        for blob in blobs:
            found.setdefault(blob.digest, blob)
    return found


def _lacking(thing: Thing, wanted: Mapping[str, Descriptor], known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(blob.digest for blob in thing.contents.blobs if blob.digest not in wanted and blob.digest not in known)


def _needs(
    things: Sequence[Thing], wanted: Mapping[str, Descriptor], known: Mapping[str, tuple[str, ...]]
) -> tuple[Need, ...]:
    users: dict[str, list[str]] = {}
    for thing in things:
        for blob in thing.contents.blobs:
            if blob.digest in known and blob.digest in wanted:
                users.setdefault(blob.digest, []).append(thing.name)
    return tuple(
        Need(digest=digest, size=wanted[digest].size, items=tuple(names), at=known[digest])
        for digest, names in sorted(users.items())
    )


def _made_of(thing: Thing) -> Iterator[str]:
    yield from (one.descriptor.digest for one in thing.contents.manifests)
    yield from (blob.digest for blob in thing.contents.blobs)


def _placed(loose: Sequence[Loose], small: Mapping[str, bytes], blobs: Sequence[Descriptor]) -> tuple[Entry, ...]:
    """What is to be unpacked by hand comes first, so that it is in the first part; large blobs before small ones."""
    wanted: list[tuple[str, int, int, str, bytes | None]] = [
        *((one.path, one.mode, one.size, one.digest, None) for one in loose),
        *((path, 0o644, len(data), sha256(data), data) for path, data in small.items()),
        *((blob_path(blob.digest), 0o644, blob.size, blob.digest, None) for blob in blobs),
    ]
    entries: list[Entry] = []
    for path, mode, size, digest, data in wanted:
        start = entries[-1].end if entries else 0
        entries.append(Entry(path=path, mode=mode, size=size, digest=digest, start=start, data=data))
    return tuple(entries)


def _is_blob(entry: Entry) -> bool:
    return entry.path == blob_path(entry.digest)


def _blob(entry: Entry) -> Blob:
    return Blob(digest=entry.digest, offset=entry.offset, size=entry.size)


def _member(entry: Entry) -> Member:
    mode: Literal[0o644, 0o755] = 0o755 if entry.mode & 0o100 else 0o644
    return Member(path=entry.path, mode=mode, offset=entry.offset, size=entry.size, digest=entry.digest)


def _item(thing: Thing, lacks: tuple[str, ...]) -> Item:
    root = thing.contents.root.descriptor
    return Item(
        name=thing.name,
        kind=thing.kind,
        source=thing.called,
        media_type=root.media_type,
        digest=root.digest,
        size=root.size,
        platforms=thing.platforms,
        lacks=lacks,
    )


def _index(things: Sequence[Thing]) -> bytes:
    entries = []
    for thing in things:
        names = {REF_NAME: thing.name, **({CONTAINERD_NAME: with_host(thing.docker)} if thing.docker else {})}
        entries.append(thing.contents.root.descriptor.to_json() | {"annotations": names})
    return canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _docker(things: Iterable[Thing]) -> Iterator[Mapping[str, object]]:
    for thing in things:
        if thing.docker and (image := first_image(thing.contents)):
            yield docker_item(image, thing.docker)
