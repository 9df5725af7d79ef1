"""Writing a bundle: blobs as they come, each to its place in its part; a part is hashed when it has them all.

What was begun by a run that was killed is gone on with: what is there of the same bundle is verified and kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from composer.bundle.artifacts import FileStore
from composer.bundle.document import SIGNED, SUFFIX, Bundle, Part
from composer.bundle.draft import Draft, Entry, Loose, Thing
from composer.bundle.slices import Slices, cut
from composer.disk import require_room, require_writable, room
from composer.errors import NotFound, Unplannable, Unreachable
from composer.events import Emit
from composer.interruptions import shielded
from composer.oci.copy import Contents, deliver
from composer.oci.image import Descriptor
from composer.oci.store import Store

_LOCK: Final = "lock"
_PLAN: Final = "draft"


def write(
    draft: Draft,
    source: Store,
    folder: Path,
    name: str,
    *,
    part_size: int | None,
    finish: Callable[[Path], None],
    emit: Emit,
    jobs: int,
) -> Bundle:
    """Write a bundle into `folder`, in place of one that is called `name` now. `source` has all blobs of it by digest.

    `finish` is given the document before that has its name, to sign it. All of it is there in the end, or nothing new.
    Raises `NoRoom` before the first byte where it will not fit, and what `source` raises.
    """
    require_writable(folder)
    slices = cut(name, draft.size, part_size)
    with _workplace(folder, name, f"{draft.identity} {part_size}") as place:
        whole = Slices(place, slices)
        require_room(folder, draft.size - _there(place))
        whole.make()
        sink = _Sink(whole, draft.entries)
        sink.begin()
        contents = Contents(manifests=draft.manifests, blobs=draft.moving)
        deliver(contents, source, sink, "", emit=emit, jobs=jobs)
        bundle = draft.finished(sink.parts())
        document = place / f"{name}{SUFFIX}"
        with room(place):
            document.write_bytes(bundle.raw())
        finish(document)
        with shielded():
            _put_in_place(place, folder, name, [one.name for one in slices])
    return bundle


def requires(folder: Path, draft: Draft) -> None:
    """Raise `NoRoom` where a bundle cannot be written to `folder`."""
    require_writable(folder)
    require_room(folder, draft.size)


class Supply:
    """A `Store` of all blobs that go into a bundle, each from where it is."""

    def __init__(self, things: Sequence[Thing], loose: Sequence[Loose]) -> None:
        self._stores = {blob.digest: thing.source for thing in reversed(things) for blob in thing.contents.blobs}
        self._loose = FileStore({one.digest: one.source for one in loose})

    label = "the sources of the bundle"

    def resolve(self, name: str) -> Descriptor:
        """Nothing is called by names here."""
        raise NotFound(f"{name!r} is no name among them")

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest."""
        return self._stores[descriptor.digest].manifest(descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether it is among them."""
        return self._loose.has(descriptor) or descriptor.digest in self._stores

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob from its store, or a file from where it lies."""
        store = self._loose if self._loose.has(descriptor) else self._stores[descriptor.digest]
        return store.read(descriptor)

    def close(self) -> None:
        """The stores are their owner's."""


class _Sink:
    """Takes blobs in any order, puts each where it belongs, and hashes the parts that are complete."""

    def __init__(self, whole: Slices, entries: Sequence[Entry]) -> None:
        self._whole = whole
        self._entries = entries
        self._by_digest: Mapping[str, list[Entry]] = {}
        self._left = [one.size for one in whole.slices]
        self._digests: dict[int, str] = {}
        self._guard = threading.Lock()
        for entry in entries:
            if entry.data is None:
                self._by_digest.setdefault(entry.digest, []).append(entry)

    def begin(self) -> None:
        """Write what is at hand. The end of a tar is empty blocks, which a new file has."""
        for entry in self._entries:
            if entry.data is not None:
                self._whole.write(entry.start, entry.header + entry.data)
                self._done(entry)
        end = self._entries[-1].end
        self._count(end, self._whole.slices[-1].start + self._whole.slices[-1].size - end)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether an earlier run has written it, whole. Its header, which is written last, tells where to look."""
        entries = self._by_digest[descriptor.digest]
        if not all(map(self._is_there, entries)):
            return False
        for entry in entries:
            self._done(entry)
        return True

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Never: a tar has its bytes to itself."""
        return False

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Put a blob where it belongs. It comes verified: a store's reading ends well only if it is as described."""
        entries = self._by_digest[descriptor.digest]
        done = 0
        for chunk in content():
            for entry in entries:
                self._whole.write(entry.offset + done, chunk)
            done += len(chunk)
        for entry in entries:
            self._whole.write(entry.start, entry.header)
            self._done(entry)

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Manifests were written first: nobody sees them before the parts have their names."""
        return Descriptor.of(raw, media_type)

    def parts(self) -> tuple[Part, ...]:
        """What was written, once everything was."""
        return tuple(
            Part(name=one.name, size=one.size, digest=self._digests[number])
            for number, one in enumerate(self._whole.slices)
        )

    def _is_there(self, entry: Entry) -> bool:
        if b"".join(self._whole.read(entry.start, len(entry.header))) != entry.header:
            return False
        digest = hashlib.sha256()
        for chunk in self._whole.read(entry.offset, entry.size):
            digest.update(chunk)
        return f"sha256:{digest.hexdigest()}" == entry.digest

    def _done(self, entry: Entry) -> None:
        self._count(entry.start, entry.end - entry.start)

    def _count(self, start: int, size: int) -> None:
        """Note bytes that are there. Whoever brings a part's last ones hashes it, while they are still in memory."""
        for stretch in self._whole.stretches(start, size):
            with self._guard:
                self._left[stretch.slice] -= stretch.size
                complete = not self._left[stretch.slice]
            if complete:
                self._digests[stretch.slice] = digest_of(self._whole.path(stretch.slice))


def digest_of(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb", buffering=0) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


# -- the folder that it grows in ----------------------------------------------------------------------------------


@contextmanager
def _workplace(folder: Path, name: str, identity: str) -> Iterator[Path]:
    """A folder beside the bundle. It is kept only where a network failed us, or nobody could take it away.

    Raises `Unplannable` where another process writes the same bundle.
    """
    place = folder / f".{name}.bundle.part"
    with room(folder):
        handle = _locked(place, folder / name)
    try:
        _empty(place, unless=identity)
        yield place
    except Unreachable:
        raise
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    else:
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)


def _locked(place: Path, bundle: Path) -> int:
    """The folder, made if need be, and ours alone; whoever was done with it meanwhile has taken it away."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise Unplannable(f"another process writes {bundle} now", hint="wait for it, or name another") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), (place / _LOCK).stat()):
                return handle
        os.close(handle)


def _empty(place: Path, *, unless: str) -> None:
    """Take away what another bundle left."""
    with room(place):
        note = place / _PLAN
        if note.exists() and note.read_text() == unless:
            return
        for file in place.iterdir():
            if file.name != _LOCK:
                file.unlink()
        note.write_text(unless)


def _there(place: Path) -> int:
    """The bytes that an earlier run has written."""
    return sum(file.stat().st_blocks * 512 for file in place.iterdir())


def _put_in_place(place: Path, folder: Path, name: str, parts: Sequence[str]) -> None:
    """Replace what is called so: its document goes first, so that no parts are taken for others; ours comes last."""
    document = f"{name}{SUFFIX}"
    with room(folder):
        for stale in (document, f"{document}{SIGNED}", *_parts_of(folder, name)):
            (folder / stale).unlink(missing_ok=True)
        for part in (*parts, f"{document}{SIGNED}", document):
            if (place / part).exists():
                os.replace(place / part, folder / part)


def _parts_of(folder: Path, name: str) -> Iterator[str]:
    part = re.compile(rf"{re.escape(name)}\.tar(?:\.[0-9]{{3,}})?")
    yield from (file.name for file in folder.iterdir() if part.fullmatch(file.name))
