"""OCI image layouts: `oci:dir:tag`, as skopeo, umoci and containerd write them too, and the cache of tricompose.

Several processes and threads may use one layout at once. A blob is written to `ingest/` and renamed into place, so
it is there whole or not at all; `index.json` changes under a lock and is replaced by a rename. What comes from afar
is written to `partial/` instead, where it stays when it is cut, and is gone on with the next time.

Source: the OCI image layout specification 1.0 and 1.1.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import io
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from composer.disk import begin_file, require_room, require_writable, room, sweep, write_all
from composer.errors import Corrupt, NoRoom, NotFound
from composer.events import Emit
from composer.oci import journal, partials
from composer.oci.copy import deliver, survey
from composer.oci.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    canonical_json,
    parse_manifest,
)
from composer.oci.store import CHUNK, Content, Store, origin_of, require_whole, verified

REF_NAME: Final = "org.opencontainers.image.ref.name"
MARKER: Final = "oci-layout"
INDEX: Final = "index.json"
_LOCK: Final = "index.json.lock"
_INGEST: Final = "ingest"
LAYOUT_VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'

_NESTING: Final = 4
"""Indexes within indexes are searched for a tag this deep: buildx and `docker save` make two."""

_UNLINKABLE: Final = (errno.EEXIST, errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)


def blob_path(digest: str) -> str:
    """Where a layout keeps a blob, relative to its root."""
    return f"blobs/{digest.replace(':', '/')}"


class Files(Protocol):
    """The files of a layout, wherever they lie: in a directory, in a tar."""

    def size(self, path: str) -> int | None:
        """The size in bytes of a file, or None where there is none."""
        ...

    def read(self, path: str) -> Iterator[bytes]:
        """A file in pieces of at most `CHUNK` bytes."""
        ...


class LayoutReader:
    """A `Store` over the files of a layout. `label` is the place in the words of the user."""

    def __init__(self, label: str, files: Files) -> None:
        self.label = label
        self._files = files

    def resolve(self, name: str) -> Descriptor:
        """What a digest or a tag names; the empty name is `latest`, or else the only image there is."""
        if name.startswith("sha256:"):
            return self._by_digest(name)
        top, tagged = self._listed()
        if found := tagged.get(name or "latest"):
            return found
        if not name and len({entry.digest for entry in top}) == 1:
            return top[0]
        raise NotFound(_no_such_tag(self.label, name, len(top)), hint=_nearest(name, sorted(tagged)))

    def tags(self) -> tuple[str, ...]:
        """Every tag of the layout, sorted."""
        return tuple(sorted(self._listed()[1]))

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest or index. Raises `NotFound`, `Corrupt`."""
        return b"".join(self.read(descriptor))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        return self._files.size(blob_path(descriptor.digest)) == descriptor.size

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in pieces, verified. Raises `NotFound`, `Corrupt`."""
        path = blob_path(descriptor.digest)
        if self._files.size(path) is None:
            raise NotFound(f"{self.label} has no blob {descriptor.digest}", hint="copy that image there again")
        yield from verified(self._files.read(path), descriptor, origin=self.label)

    def close(self) -> None:
        """Nothing is held open."""

    def _by_digest(self, digest: str) -> Descriptor:
        size = self._files.size(blob_path(digest))
        if size is None:
            raise NotFound(f"{self.label} has no image {digest}", hint=_nearest(digest, self.tags()))
        raw = self.manifest(Descriptor(media_type="", digest=digest, size=size))
        return Descriptor(media_type=_media_type(raw, digest), digest=digest, size=size)

    def _listed(self) -> tuple[tuple[Descriptor, ...], dict[str, Descriptor]]:
        """What `index.json` lists, and what tags mean: the last entry of a name counts, at whatever depth."""
        if self._files.size(INDEX) is None:
            raise NotFound(f"there is no image layout at {self.label}", hint=f"tricompose copy <image> {self.label}")
        top = listed(b"".join(self._files.read(INDEX)), self.label)
        entries = (entry for first in top for entry in self._unfold(first, _NESTING))
        return top, {tag: entry for entry in entries if (tag := entry.annotations.get(REF_NAME))}

    def _unfold(self, entry: Descriptor, depth: int) -> Iterator[Descriptor]:
        """An entry, and if it is an index without a name, what lies below it."""
        yield entry
        if depth and entry.media_type in INDEXES and REF_NAME not in entry.annotations and self.has(entry):
            for nested in listed(self.manifest(entry), self.label):
                yield from self._unfold(nested, depth - 1)


def listed(raw: bytes, label: str) -> tuple[Descriptor, ...]:
    """What an index lists. Raises `Corrupt`, naming `label`, for anything else."""
    parsed = parse_manifest(raw, OCI_INDEX)
    if not isinstance(parsed, Index):
        raise Corrupt(f"{label} has a manifest where an index should be")
    return parsed.manifests


def _media_type(raw: bytes, digest: str) -> str:
    """What a blob named by digest alone is: by its own word, or else by its shape, as the word is optional in OCI."""
    with suppress(ValueError, RecursionError, AttributeError):
        document = json.loads(raw)
        shapes = {"manifests": OCI_INDEX, "layers": OCI_MANIFEST}
        shape = next((kind for key, kind in shapes.items() if key in document), "")
        kind = str(document.get("mediaType") or shape)
        if kind in (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST):
            return kind
    raise NotFound(f"{digest} is not an image, but some other blob")


def _no_such_tag(label: str, name: str, count: int) -> str:
    if name:
        return f"{label} has no image {name!r}"
    if not count:
        return f"{label} holds no image"
    return f"{label} holds {count} images, so a tag is needed"


def _nearest(name: str, tags: Sequence[str]) -> str | None:
    if not tags:
        return None
    near = difflib.get_close_matches(name, tags, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"tags there: {', '.join(tags[:10])}"


class LayoutStore:
    """An image layout in a directory: a `Store`, a `Sink` and a `Target`. Opening one for reading touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = LayoutReader(f"oci:{path}", _Directory(path))
        self._half_made: set[Path] = set()
        self._guard = threading.Lock()

    @classmethod
    def ensure(cls, path: Path) -> Self:
        """The layout at `path`, made if it is not there, with what crashed writers left behind swept away.

        Raises `NoRoom` where it may not be written, and where `path` holds something that is no layout.
        """
        with room(path):
            if not (path / MARKER).exists():
                _require_empty(path)
            for folder in ("blobs/sha256", _INGEST):
                (path / folder).mkdir(parents=True, exist_ok=True)
            with _locked(path):
                sweep((path / _INGEST).iterdir())
                partials.sweep_stale(path)
                _begin(path)
        return cls(path)

    @property
    def label(self) -> str:
        """`oci:` and the directory."""
        return self._reader.label

    def resolve(self, name: str) -> Descriptor:
        """What a digest or a tag names; the empty name is `latest`, or else the only image there is."""
        return self._reader.resolve(name)

    def tags(self) -> tuple[str, ...]:
        """Every tag of the layout, sorted."""
        return self._reader.tags()

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest or index. Raises `NotFound`, `Corrupt`."""
        return self._reader.manifest(descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        return self._reader.has(descriptor)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in pieces, verified. Raises `NotFound`, `Corrupt`."""
        return self._reader.read(descriptor)

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Take a blob, verified. A blob that is here already is replaced, which heals one gone bad.

        Where `content` can begin in the middle, what came of the blob is kept when it breaks off, and gone on with.
        """
        if not (isinstance(content, Content) and self._go_on(descriptor, content)):
            with self.incoming() as incoming:
                for chunk in verified(content(), descriptor, origin=lambda: origin_of(content)):
                    incoming.write(chunk)
                incoming.commit(descriptor.digest, descriptor.size)

    def _go_on(self, descriptor: Descriptor, content: Content) -> bool:
        """Write a blob from where it broke off. False where it is too small for that, or another is at it."""
        if descriptor.size < partials.LEAST:
            return False
        with self._partial(descriptor) as partial:
            if partial is None:
                return False
            begun = partials.held(self.path, descriptor.digest)
            try:
                _append(partial, descriptor, content, self.path)
            except Corrupt:
                if not begun:
                    raise
                # What an earlier run left may have been wrong.
                partial.restart()
                _append(partial, descriptor, content, self.path)
            with room(self.path):
                partial.become(self.path / blob_path(descriptor.digest))
        return True

    @contextmanager
    def _partial(self, descriptor: Descriptor) -> Iterator[partials.Partial | None]:
        """What is here of a blob. It stays where it may be gone on with, and is worth it."""
        with room(self.path):
            partial = partials.take(self.path, descriptor.digest)
        if partial is None:
            yield None
            return
        with partial:
            try:
                yield partial
            except (Corrupt, NoRoom):
                partial.drop()
                raise
            except BaseException:
                if partial.size < partials.LEAST:
                    partial.drop()
                raise

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Link the blob of another layout of the same file system, after reading it once to be sure of it."""
        if not isinstance(source, LayoutStore) or not source.has(descriptor):
            return False
        for _ in source.read(descriptor):
            pass
        with room(self.path):
            return _link(source.path / blob_path(descriptor.digest), self.path / blob_path(descriptor.digest))

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Take a manifest or index whose blobs are all here, and list it under `name` (the empty one: `latest`)."""
        descriptor = Descriptor.of(raw, media_type)
        self.write(descriptor, lambda: iter((raw,)))
        if name is not None:
            self._list(descriptor, name or "latest")
        return descriptor

    def prepare(self) -> None:
        """Raises `NoRoom` where no directory can be made or written to."""
        require_writable(self.path)

    def receive(self, source: Store, root: Descriptor, name: str, *, emit: Emit, jobs: int) -> Descriptor:
        """Take an image or index, all of it or nothing. Raises `NoRoom` before the first byte if it will not fit."""
        self.ensure(self.path)
        contents = survey(source, root)
        missing = [blob for blob in contents.blobs if not self.has(blob)]
        require_room(self.path, sum(blob.size - partials.held(self.path, blob.digest) for blob in missing))
        return deliver(contents, source, self, name, emit=emit, jobs=jobs)

    def remove(self, name: str) -> None:
        """Take a tag off. Blobs stay: another image may share them."""
        self.resolve(name)
        with room(self.path), _locked(self.path):
            index = _load_index(self.path)
            index["manifests"] = [entry for entry in index["manifests"] if _tag(entry) != name]
            _replace(self.path, INDEX, canonical_json(index))

    def incoming(self) -> Incoming:
        """A blob in the making, whose digest is not known yet. Use as a context manager."""
        return Incoming(self)

    def close(self) -> None:
        """Remove what this store had begun to write and not finished, even if a thread is still at it."""
        with self._guard:
            half_made, self._half_made = self._half_made, set()
        for path in half_made:
            path.unlink(missing_ok=True)

    def _list(self, descriptor: Descriptor, name: str) -> None:
        entry = descriptor.to_json() | {"annotations": {REF_NAME: name}}
        with room(self.path), _locked(self.path):
            index = _load_index(self.path)
            others = [other for other in index["manifests"] if _tag(other) != name]
            _replace(self.path, INDEX, canonical_json(index | {"manifests": [*others, entry]}))

    def _begin_file(self) -> tuple[int, Path]:
        """A new file in `ingest/`, which `close` removes even if the thread that writes it hangs."""
        with self._guard:
            # It is known before it is there: an interruption in between would leave a file that nobody removes.
            return begin_file(self.path / _INGEST, announce=self._half_made.add)

    def _forget(self, path: Path) -> None:
        with self._guard:
            self._half_made.discard(path)


class Incoming:
    """A blob in the making, in the file system of its layout. It vanishes unless committed."""

    def __init__(self, store: LayoutStore) -> None:
        self._store = store
        self._size = 0

    def __enter__(self) -> Self:
        with room(self._store.path):
            handle, self._path = self._store._begin_file()
        self._file = io.FileIO(handle, "wb")
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises `NoRoom`."""
        with room(self._store.path):
            write_all(self._file, data)
        self._size += len(data)

    def commit(self, digest: str, size: int) -> None:
        """Make it the blob `digest`; the caller has hashed what it wrote. Raises `Corrupt` if bytes are missing."""
        if size != self._size:
            raise Corrupt(f"{self._size} bytes were written of the {size} of {digest}")
        with room(self._store.path):
            os.replace(self._path, self._store.path / blob_path(digest))
        self._store._forget(self._path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        self._store._forget(self._path)
        self._file.close()


class _Directory:
    """The files of a layout that is a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def size(self, path: str) -> int | None:
        file = self._root / path
        try:
            return file.stat().st_size if file.is_file() else None
        except PermissionError as error:
            raise NoRoom(f"{file} may not be read", hint=f"ls -l {file}") from error

    def read(self, path: str) -> Iterator[bytes]:
        try:
            with (self._root / path).open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except PermissionError as error:
            raise NoRoom(f"{self._root / path} may not be read", hint=f"ls -l {self._root / path}") from error


def _append(partial: partials.Partial, descriptor: Descriptor, content: Content, path: Path) -> None:
    """Write what is missing of a blob. Raises `Corrupt` unless it is whole and right then."""
    digest = hashlib.sha256()
    with room(path):
        for piece in partial.pieces(descriptor.size):
            digest.update(piece)
    for chunk in content.at(partial.size):
        if partial.size + len(chunk) > descriptor.size:
            raise Corrupt(f"{content.origin} sent more than the {descriptor.size} bytes of {descriptor.digest}")
        digest.update(chunk)
        with room(path):
            partial.write(chunk)
    require_whole(descriptor, partial.size, digest, content.origin)


def _require_empty(path: Path) -> None:
    """Refuse to strew blobs among somebody's files; another process may have begun the same layout."""
    ours = ("blobs", _INGEST, partials.FOLDER, journal.FOLDER, _LOCK, INDEX, MARKER)
    if path.is_dir() and any(child.name not in ours for child in path.iterdir()):
        raise NoRoom(f"{path} holds files, and they are no image layout", hint="name a new or an empty directory")


def _begin(path: Path) -> None:
    """Make what an empty layout lacks. Under the lock."""
    if not (path / INDEX).exists():
        _replace(path, INDEX, canonical_json(_load_index(path)))
    if not (path / MARKER).exists():
        _replace(path, MARKER, LAYOUT_VERSION)


def _load_index(path: Path) -> dict[str, Any]:
    """`index.json` as it stands, keeping what others wrote there."""
    file = path / INDEX
    if not file.exists():
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    raw = file.read_bytes()
    listed(raw, f"oci:{path}")
    document: dict[str, Any] = json.loads(raw)
    return document


def _tag(entry: Mapping[str, Any]) -> str | None:
    tag: str | None = (entry.get("annotations") or {}).get(REF_NAME)
    return tag


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone in this layout, among threads and processes. The lock file stays: removing it would let two in."""
    handle = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _link(source: Path, target: Path) -> bool:
    """Whether `target` now is the same file as `source`."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _UNLINKABLE:
            return False
        raise
    return True


def _replace(path: Path, name: str, data: bytes) -> None:
    """Give a file of the layout new contents, all at once. Under the lock, so that a sweeper keeps away."""
    handle, temporary = tempfile.mkstemp(dir=path / _INGEST)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
