"""Blobs that are half here: what came before a process was killed, stopped or cut off, and is gone on with by the next.

A partial is a file with the first bytes of a blob, by its digest, beside the blobs of a layout and never among them.
Nothing else need be remembered: its length is how far it came, and whether its bytes are right is seen when the whole
is hashed. Whoever writes to it holds its lock, so that two at once do not mix their bytes.
"""

from __future__ import annotations

import fcntl
import io
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from composer.disk import write_all
from composer.errors import Corrupt
from composer.oci.image import Descriptor
from composer.oci.store import CHUNK, Seekable, Store, givers, read_on, verified

FOLDER: Final = "partial"

LEAST: Final = 1 << 20
"""Bytes of a blob below which it is not worth the trouble: it is fetched again as a whole."""

STALE: Final = 7 * 86400.0
"""Seconds after which nobody is expected to come back for a partial."""

_SOON: Final = 60.0
"""Seconds that are left of a download for which it is not worth it to keep what came."""

_SURE: Final = 10.0
_GLANCE: Final = 16 << 20
_LOOK: Final = 128 << 20
"""Bytes by which it is known how fast a line is; after the first few it is if it is very fast."""


class Partial:
    """A blob in the making, ours alone until it is closed. It stays unless dropped. Use as a context manager.

    `size` is how many of its bytes are known to be here: read back, or written since.
    """

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self.path = path
        self.size = 0
        self._file = file
        self._gone = False

    def pieces(self, limit: int) -> Iterator[bytes]:
        """What is here, from its start. A file that has grown beyond `limit` bytes cannot be right, and is emptied."""
        if os.fstat(self._file.fileno()).st_size > limit:
            self.restart()
        self._file.seek(0)
        self.size = 0
        while piece := self._file.read(CHUNK):
            self.size += len(piece)
            yield piece

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises `OSError`."""
        write_all(self._file, data)
        self.size += len(data)

    def restart(self) -> None:
        """Forget what is here."""
        self._file.truncate(0)
        self._file.seek(0)
        self.size = 0

    def become(self, blob: Path) -> None:
        """Give the file the name of the blob that it now is: the caller has seen that its bytes are right."""
        os.replace(self.path, blob)
        self._gone = True

    def drop(self) -> None:
        """Remove it. Another may have begun one of that name since."""
        if not self._gone:
            self._gone = True
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with suppress(OSError):
            self.path.parent.rmdir()  # it is there only as long as something is in it


def take(layout: Path, digest: str) -> Partial | None:
    """The partial of a blob, begun if there is none, for us alone; None where another is at it. Raises `OSError`."""
    path = layout / FOLDER / digest.replace(":", "-")
    file = _opened(path)
    return Partial(path, file) if file else None


def _opened(path: Path) -> io.FileIO | None:
    """The file, locked. One that became a blob, or was removed, between opening and locking is none of ours."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
            if not _locked(file):
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            file.close()


def _locked(file: io.FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    return True


def held(layout: Path, digest: str) -> int:
    """How many bytes of a blob are half here."""
    with suppress(OSError):
        return (layout / FOLDER / digest.replace(":", "-")).stat().st_size
    return 0


def kept(store: Store, blob: Descriptor, layout: Path, resumed: Callable[[int], object]) -> Generator[bytes]:
    """A blob that is only read, verified. On a slow line its bytes stay in `layout` until all of them were read.

    What an earlier run left there is not fetched again: `resumed` is told how much that is. Raises what the store
    raises. A disk that is full is no reason to stop: then nothing is kept.
    """
    partial = take(layout, blob.digest) if isinstance(store, Seekable) and blob.size >= LEAST else None
    if partial is None:
        yield from store.read(blob)
        return
    with partial:
        spool = _Spool(partial, blob)
        try:
            yield from verified(_with_rest(store, blob, spool, resumed), blob, origin=lambda: givers(store, blob))
            partial.drop()
        except Corrupt:
            partial.drop()
            raise
        except BaseException:
            if partial.size < LEAST:
                partial.drop()
            raise


def _with_rest(store: Store, blob: Descriptor, spool: _Spool, resumed: Callable[[int], object]) -> Iterator[bytes]:
    yield from spool.partial.pieces(blob.size)
    resumed(spool.partial.size)
    pieces = read_on(store, blob, spool.partial.size)
    while piece := spool.take(pieces):
        yield piece


class _Spool:
    """What is written to a partial, as long as the line is slow enough for it."""

    def __init__(self, partial: Partial, blob: Descriptor) -> None:
        self.partial = partial
        self._total = blob.size
        self._came = 0
        self._seconds = 0.0
        self._on = True

    def take(self, pieces: Iterator[bytes]) -> bytes:
        """The next piece, or nothing; only waiting for it counts."""
        began = time.monotonic()
        piece = next(pieces, b"")
        self._seconds += time.monotonic() - began
        self._came += len(piece)
        if self._on:
            self._keep(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        left = self._total - self.partial.size
        soon = left * self._seconds / self._came if self._came else _SOON
        self._on = not ((soon < _SOON and self._came >= _LOOK) or (soon < _SURE and self._came >= _GLANCE))
        try:
            if self._on:
                self.partial.write(piece)
        except OSError:
            self._on = False
        if not self._on:
            self.partial.drop()


def forget(layout: Path, digest: str) -> None:
    """Remove what is here of a blob, unless somebody is at it."""
    if held(layout, digest) and (partial := take(layout, digest)):
        with partial:
            partial.drop()


def sweep_stale(layout: Path, now: float | None = None) -> None:
    """Remove partials that nobody is at and that are old, or whose blob is here by now."""
    folder = layout / FOLDER
    for path in tuple(folder.iterdir()) if folder.is_dir() else ():
        blob = layout / "blobs" / path.name.replace("-", "/", 1)
        with suppress(OSError):
            if blob.exists() or (now or time.time()) - path.stat().st_mtime > STALE:
                _remove(path)
    with suppress(OSError):
        folder.rmdir()


def _remove(path: Path) -> None:
    with io.FileIO(path, "r+b") as file:
        if _locked(file):
            path.unlink()
