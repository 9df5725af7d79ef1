"""Where fetched files are kept: each by its digest, complete or not at all. What is half here is gone on with later.

sha256/<digest>    files
trees/<digest>     what a folder holds: as `sha256sum` lists it, sorted by path, named by the list's digest
known/<name>       the tree that an image came to
partial/<name>     files on their way, with `<name>.json` that says of what version
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from composer.disk import room, sweep, temporary_folder

_READ: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A file that is here: `path` within what was asked for, its place on this machine, bytes, `sha256:` and hex."""

    path: str
    place: Path
    size: int
    digest: str


class Shelf:
    """A folder of fetched files. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, digest: str) -> Path:
        """Where a file is, or would be."""
        return self.folder / digest.replace(":", "/")

    def file(self, digest: str, name: str, *, watch: Callable[[int], None] | None = None) -> FetchedFile | None:
        """A file by its digest, read through once to be sure of it. One that went bad is removed."""
        place = self.place(digest)
        try:
            found, size = digest_of(place, watch=watch)
        except FileNotFoundError:
            return None
        if found == digest:
            return FetchedFile(path=name, place=place, size=size, digest=digest)
        with room(self.folder):
            place.unlink(missing_ok=True)
        return None

    def tree(self, digest: str) -> tuple[FetchedFile, ...] | None:
        """The files of a folder by its digest, if all are here."""
        place = self.folder / "trees" / digest.removeprefix("sha256:")
        try:
            raw = place.read_bytes()
        except FileNotFoundError:
            return None
        if _sha256(raw) != digest:
            return None
        found = [self.file(f"sha256:{line[:64]}", line[66:]) for line in _lines(raw)]
        whole = tuple(file for file in found if file is not None)
        return whole if len(whole) == len(found) else None

    def keep_tree(self, files: Sequence[FetchedFile]) -> str:
        """Remember what a folder holds. Returns its digest."""
        raw = listing(files)
        digest = _sha256(raw)
        self._put(self.folder / "trees" / digest.removeprefix("sha256:"), raw)
        return digest

    def known(self, name: str) -> tuple[FetchedFile, ...] | None:
        """The files that something came to that never changes, such as an image, if all are here."""
        try:
            return self.tree((self.folder / "known" / _name(name)).read_text())
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def keep_known(self, name: str, tree: str) -> None:
        """Remember which folder something came to."""
        self._put(self.folder / "known" / _name(name), tree.encode())

    def adopt(self, made: Path, name: str) -> FetchedFile:
        """Take a file that lies in the file system of the shelf: it is moved."""
        digest, size = digest_of(made)
        with room(self.folder):
            _settle(made, self.place(digest))
        return FetchedFile(path=name, place=self.place(digest), size=size, digest=digest)

    def drop(self, digest: str) -> None:
        """Remove a file that is of no more use."""
        with room(self.folder):
            self.place(digest).unlink(missing_ok=True)

    @contextmanager
    def partial(self, address: str) -> Iterator[Partial]:
        """What is here of a file that is not complete, for one writer at a time; others wait."""
        path = self.folder / "partial" / _name(address)
        with room(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(path)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            yield Partial(self, path, file)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder in the file system of the shelf, gone when the block ends. What crashed writers left goes too."""
        place = self.folder / "scratch"
        with room(self.folder):
            place.mkdir(parents=True, exist_ok=True)
            sweep(file for file in place.iterdir() if file.is_file())
        with temporary_folder(place) as folder:
            yield folder

    def _put(self, place: Path, raw: bytes) -> None:
        with room(self.folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = place.with_name(f".{place.name}.{os.getpid()}")
            fresh.write_bytes(raw)
            fresh.replace(place)


class Partial:
    """A file on its way, in the hands of its only writer. `resumed`: some of it is of an earlier try."""

    def __init__(self, shelf: Shelf, path: Path, file: Any) -> None:  # noqa: ANN401  # io.FileIO: typeshed differs
        self._shelf = shelf
        self._path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.version = self._noted() if self.size else None
        self._hash: hashlib._Hash | None = None
        self.resumed = False

    @property
    def folder(self) -> Path:
        """Where it grows."""
        return self._path.parent

    @property
    def digest(self) -> str:
        """Of what is here so far."""
        return f"sha256:{self._hashed().hexdigest()}"

    def begin(self, start: int, version: str | None) -> None:
        """Go on at the end of what is here, or from the beginning."""
        if start and start == self.size:
            self.resumed = True
            self._hashed()
            return
        with room(self._path):
            os.ftruncate(self._file.fileno(), 0)
            self._file.seek(0)
            self.size, self.version, self._hash, self.resumed = 0, version, hashlib.sha256(), False
            self._shelf._put(self._note, json.dumps({"version": version}).encode())

    def append(self, data: bytes) -> None:
        """Take bytes. Raises `NoRoom`."""
        view = memoryview(data)
        with room(self._path):
            while view:
                view = view[self._file.write(view) :]
        self._hashed().update(data)
        self.size += len(data)

    def finish(self) -> FetchedFile:
        """Put it on the shelf, by its digest."""
        digest = self.digest
        place = self._shelf.place(digest)
        with room(self._path):
            _settle(self._path, place)
            self._note.unlink(missing_ok=True)
        return FetchedFile(path=place.name, place=place, size=self.size, digest=digest)

    def discard(self) -> None:
        """Remove it."""
        with room(self._path):
            self._path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    def _noted(self) -> str | None:
        with suppress(OSError, ValueError, AttributeError):
            version = json.loads(self._note.read_bytes()).get("version")
            return version if isinstance(version, str) else None
        return None

    def _hashed(self) -> hashlib._Hash:
        """The hash of what is here; what an earlier run left is read for it, once."""
        if self._hash is None:
            self._file.seek(0)
            self._hash = hashlib.sha256()
            while chunk := self._file.read(_READ):
                self._hash.update(chunk)
        return self._hash


def digest_of(path: Path, *, watch: Callable[[int], None] | None = None) -> tuple[str, int]:
    """The digest of a file and its size, read in pieces; `watch` is told how far it is. Raises `OSError`."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
            size += len(chunk)
            if watch:
                watch(size)
    return f"sha256:{digest.hexdigest()}", size


def tree_digest(files: Sequence[FetchedFile]) -> str:
    """The digest of a folder: of what lists its files."""
    return _sha256(listing(files))


def listing(files: Sequence[FetchedFile]) -> bytes:
    """What a folder holds, by paths and contents alone: as `sha256sum` says it of files in the order of their bytes."""
    lines = (f"{file.digest.removeprefix('sha256:')}  {file.path}\n" for file in sorted(files, key=_path))
    return "".join(lines).encode("utf-8", "surrogateescape")


def _path(file: FetchedFile) -> bytes:
    return file.path.encode("utf-8", "surrogateescape")


def _lines(raw: bytes) -> list[str]:
    return raw.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")


def _sha256(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _name(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _locked(path: Path) -> int:
    """The file at `path`, made if need be, and ours alone: whoever finished it meanwhile has taken it away."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)


def _settle(made: Path, place: Path) -> None:
    """Rename a complete file to where it belongs. Nobody writes to it any more."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made.chmod(0o444)
    made.replace(place)
