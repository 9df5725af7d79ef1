"""Layers: sets of files become gzipped tar archives with known digests. Independent of `composer`."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, cast

EPOCH = 1_730_073_600
"""2024-10-28T00:00:00Z in seconds: the time of every file whose source has none worth keeping, and of the images."""

CHUNK = 1 << 20
"""Bytes are moved in pieces of this size."""

Kind = Literal["directory", "file", "symlink", "hardlink"]

TAR_TYPE: Mapping[Kind, bytes] = {
    "directory": tarfile.DIRTYPE,
    "file": tarfile.REGTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


@dataclass(frozen=True)
class Entry:
    """One path of a layer: relative, without a trailing slash. `link` is the target of either kind of link."""

    path: str
    kind: Kind
    mode: int
    link: str = ""
    size: int = 0
    content: Callable[[], IO[bytes]] | None = None
    uid: int = 0
    gid: int = 0
    mtime: int = EPOCH


@dataclass(frozen=True)
class Layer:
    """A finished layer: what a manifest (`digest`, `size`) and a configuration (`diff_id`) say of it, in bytes."""

    digest: str
    diff_id: str
    size: int
    uncompressed: int


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory, to be stated only where it is empty or its mode matters: parents come by themselves."""
    return Entry(path, "directory", mode)


def text(path: str, content: str | bytes, mode: int = 0o644) -> Entry:
    """A file with content that is at hand."""
    raw = content.encode() if isinstance(content, str) else content
    return Entry(path, "file", mode, size=len(raw), content=lambda: io.BytesIO(raw))


def symlink(path: str, target: str) -> Entry:
    """A symbolic link; `target` as `ln -s` would take it."""
    return Entry(path, "symlink", 0o777, link=target)


def hardlink(path: str, target: str) -> Entry:
    """A second name of `target`, which is a file of the same layer, named from the root."""
    return Entry(path, "hardlink", 0o644, link=target)


def owned(entries: Iterable[Entry], root: str, owner: int) -> list[Entry]:
    """The layer that `COPY --chown` makes: `root` and all below it belong to `owner`, its parents to root."""
    return [
        replace(entry, uid=owner, gid=owner) if entry.path == root or entry.path.startswith(f"{root}/") else entry
        for entry in ordered(entries)
    ]


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """The entries by path with all their parents, each path once (the last one stated wins), hard links last."""
    stated = {entry.path: entry for entry in entries}
    parents = {str(parent) for path in stated for parent in PurePosixPath(path).parents} - {"."}
    for parent in parents - stated.keys():
        stated[parent] = directory(parent)
    return sorted(stated.values(), key=lambda entry: (entry.kind == "hardlink", entry.path))


def write_layer(entries: Iterable[Entry], target: Path, level: int) -> Layer:
    """Write the layer; the same entries give the same bytes. `level` is zlib's."""
    with target.open("wb") as file:
        sink = _Sink(file, level)
        with tarfile.TarFile(
            fileobj=cast(IO[bytes], sink), mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK
        ) as archive:
            for entry in ordered(entries):
                _add(archive, entry)
        return sink.finish()


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.type, info.mode, info.linkname = TAR_TYPE[entry.kind], entry.mode, entry.link
    info.uid, info.gid = entry.uid, entry.gid
    info.mtime = entry.mtime
    if entry.content is None:
        archive.addfile(info)
        return
    info.size = entry.size
    with entry.content() as content:
        archive.addfile(info, content)


class _Sink:
    """Takes a tar archive, writes it gzipped and keeps the digests of both. It has what `tarfile` asks of a file."""

    def __init__(self, file: BinaryIO, level: int) -> None:
        self._file = file
        self._gzip = zlib.compressobj(level, zlib.DEFLATED, 31)
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self._taken = self._written = 0

    def write(self, data: bytes) -> int:
        self._plain.update(data)
        self._taken += len(data)
        self._put(self._gzip.compress(data))
        return len(data)

    def tell(self) -> int:
        return self._taken

    def finish(self) -> Layer:
        self._put(self._gzip.flush())
        return Layer(
            f"sha256:{self._packed.hexdigest()}",
            f"sha256:{self._plain.hexdigest()}",
            self._written,
            self._taken,
        )

    def _put(self, data: bytes) -> None:
        self._packed.update(data)
        self._written += len(data)
        self._file.write(data)
