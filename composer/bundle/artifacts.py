"""Files as an OCI artifact: one manifest, each file a blob that has its path as its title. And back again."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from composer.disk import begin_file, begun, room, sweep, write_all
from composer.errors import Corrupt, NoRoom, NotFound
from composer.oci.copy import Contents
from composer.oci.image import EMPTY_JSON, OCI_EMPTY, OCI_MANIFEST, Descriptor, Manifest, make_manifest
from composer.oci.store import CHUNK, Store, verified

TITLE: Final = "org.opencontainers.image.title"
_MODE: Final = "org.tricompose.mode"
_FOLDERS: Final = "org.tricompose.folders"
_USUAL: Final = 0o644
_FILE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file of an artifact: its path, its bytes or where these lie, what they are, its permissions."""

    path: str
    source: Path | bytes
    size: int
    digest: str
    mode: int = 0o644

    @property
    def blob(self) -> Descriptor:
        """What the manifest says of it."""
        notes = {TITLE: self.path, **({_MODE: f"{self.mode:04o}"} if self.mode != _USUAL else {})}
        return Descriptor(media_type=_FILE, digest=self.digest, size=self.size, annotations=notes)


def make_artifact(
    kind: str, pieces: Sequence[Piece], folders: Sequence[str], notes: Mapping[str, str]
) -> tuple[Contents, Store]:
    """The artifact that some files make, and where its blobs are. Empty `folders` have no blob to be made of."""
    ordered = sorted(pieces, key=lambda piece: piece.path)
    config = Descriptor.of(EMPTY_JSON, OCI_EMPTY)
    annotations = {**notes, **({_FOLDERS: json.dumps(sorted(folders))} if folders else {})}
    manifest = make_manifest(
        OCI_MANIFEST, config, [one.blob for one in ordered], annotations=annotations, artifact_type=kind
    )
    blobs = {config.digest: config, **{one.digest: one.blob for one in ordered}}
    sources: dict[str, Path | bytes] = {config.digest: EMPTY_JSON, **{one.digest: one.source for one in ordered}}
    return Contents(manifests=(manifest,), blobs=tuple(blobs.values())), FileStore(sources)


class FileStore:
    """A `Store` of blobs that are files of this machine, or bytes at hand."""

    label = "files of this machine"

    def __init__(self, sources: Mapping[str, Path | bytes]) -> None:
        self._sources = sources

    def resolve(self, name: str) -> Descriptor:
        """Nothing is called by names here."""
        raise NotFound(f"{name!r} is no name among them")

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a small one."""
        return b"".join(self.read(descriptor))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether it is among them."""
        return descriptor.digest in self._sources

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A file in pieces. Raises `Corrupt` where it is not any more what it was."""
        source = self._sources[descriptor.digest]
        origin = "memory" if isinstance(source, bytes) else str(source)
        try:
            yield from verified(_bytes_of(source), descriptor, origin=origin)
        except Corrupt as error:
            raise Corrupt(
                f"{origin} changed while it was read", hint="run it again when nothing writes there"
            ) from error
        except OSError as error:
            raise NoRoom(f"{origin} cannot be read: {error.strerror}", hint=f"ls -l {origin}") from error

    def close(self) -> None:
        """Nothing is held open."""


def _bytes_of(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def files_of(manifest: Manifest) -> dict[str, Descriptor]:
    """The files of an artifact by their paths. Raises `Corrupt` for a path that leads out of its folder."""
    found = {}
    for blob in manifest.layers:
        path = blob.annotations.get(TITLE, "")
        require_inner(path)
        found[path] = blob
    return found


def mode_of(blob: Descriptor) -> int:
    """The permissions of a file: its owner may read it, and nobody else may write it."""
    said = blob.annotations.get(_MODE, "")
    return (int(said, 8) if re.fullmatch("0[0-7]{3}", said) else _USUAL) & 0o755 | 0o400


def folders_of(manifest: Manifest) -> tuple[str, ...]:
    """The empty folders of an artifact. Raises `Corrupt` as `files_of`."""
    try:
        found = tuple(map(str, json.loads(manifest.annotations.get(_FOLDERS, "[]"))))
    except (ValueError, TypeError) as error:
        raise Corrupt("an artifact has folders that nobody can read") from error
    for path in found:
        require_inner(path)
    return found


def require_inner(path: str) -> None:
    """Raise `Corrupt` for a path that leads out of the folder that it starts from."""
    steps = path.split("/")
    if not path or posixpath.isabs(path) or "\0" in path or any(step in ("", ".", "..") for step in steps):
        raise Corrupt(f"an artifact has a file {path!r}, which leads out of its folder", hint="do not trust its maker")


def require_free(manifest: Manifest, folder: Path) -> None:
    """Raise `NoRoom` where a file of the artifact is there already and is another one, or its way leads elsewhere."""
    for path, blob in files_of(manifest).items():
        _require_own(folder, path)
        if (place := folder / path).exists() and not _is_same(place, blob):
            raise NoRoom(f"{place} is there, and is another file", hint="move it away, or name another folder (--into)")


def lay_out(manifest: Manifest, store: Store, folder: Path) -> None:
    """Write the files of an artifact into a folder. Files that are there and the same are left as they are.

    Raises `NoRoom` before the first is written where one is in the way, and what `store` raises.
    """
    require_free(manifest, folder)
    for path in folders_of(manifest):
        _require_own(folder, f"{path}/x")
        with room(folder):
            (folder / path).mkdir(parents=True, exist_ok=True)
    for path, blob in files_of(manifest).items():
        if not (folder / path).exists():
            write_file(folder / path, blob, store)


def write_file(place: Path, blob: Descriptor, store: Store) -> None:
    """Write one file, all of it or nothing."""
    with room(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(begun(place.parent, ".bundle-"))
        handle, fresh = begin_file(place.parent, ".bundle-")
    try:
        with open(handle, "wb", buffering=0) as file:
            for chunk in store.read(blob):
                with room(place):
                    write_all(file, chunk)
            with room(place):
                os.fchmod(file.fileno(), mode_of(blob))
                fresh.replace(place)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _require_own(folder: Path, path: str) -> None:
    """Raise `NoRoom` where a link on the way would lead a file out of its folder."""
    place = folder
    for step in path.split("/")[:-1]:
        place = place / step
        if place.is_symlink():
            raise NoRoom(f"{place} is a link, and may lead anywhere", hint="name another folder (--into)")


def _is_same(place: Path, blob: Descriptor) -> bool:
    if place.is_symlink() or not place.is_file() or place.stat().st_size != blob.size:
        return False
    try:
        for _ in verified(_bytes_of(place), blob, origin=str(place)):
            pass
    except Corrupt:
        return False
    return True
