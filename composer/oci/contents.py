"""Files of a layer, looked into while it streams by: each can seek, and none is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from composer.disk import room
from composer.oci.tar import FILE, Entry, read_tar

IN_MEMORY: Final = 8 << 20
"""Bytes of a file that are held in memory; a larger one goes to a file in the scratch folder while it is looked at."""

_SMALL: Final = 256 << 10
"""A file up to this size is held in memory for itself."""

_TELLING: Final = 4
"""So many bytes of a file tell what it is."""

Wanted = Callable[[Entry, bytes], bool]
"""Whether a file is worth a look, by its entry and its first bytes: four at least, where it has as many."""


def contents(
    chunks: Iterable[bytes], *, origin: str, scratch: Path, wanted: Wanted
) -> Iterator[tuple[Entry, IO[bytes] | None]]:
    """The entries of a tar in order, each with its content if that is `wanted`, to be read before the next one.

    A file without any content has none to be read. Raises `Corrupt` naming `origin` for what is no tar, `NoRoom` where
    `scratch` has none.
    """
    with room(scratch), SpooledTemporaryFile(IN_MEMORY, dir=str(scratch)) as large:
        current: _Current | None = None
        for item in read_tar(chunks, origin=origin):
            if isinstance(item, Entry):
                if current:
                    yield current.entry, current.content()
                current = _Current(item, wanted, large)
            elif current:
                current.feed(item)
        if current:
            yield current.entry, current.content()


class _Current:
    """The entry that streams by, with as much of its content as is held."""

    __slots__ = ("_head", "_held", "_large", "_undecided", "_wanted", "entry")

    def __init__(self, entry: Entry, wanted: Wanted, large: IO[bytes]) -> None:
        self.entry = entry
        self._wanted = wanted
        self._large = large
        self._head = b""
        self._held: IO[bytes] | None = None
        self._undecided = entry.kind == FILE

    def feed(self, piece: memoryview) -> None:
        if self._held is not None:
            self._held.write(piece)
        elif self._undecided:
            self._head += piece
            if len(self._head) >= min(_TELLING, self.entry.size):
                self._decide()

    def _decide(self) -> None:
        self._undecided = False
        if self._wanted(self.entry, self._head):
            self._held = io.BytesIO() if self.entry.size <= _SMALL else self._large
            self._held.seek(0)
            self._held.truncate()
            self._held.write(self._head)
        self._head = b""

    def content(self) -> IO[bytes] | None:
        if self._held is not None:
            self._held.seek(0)
        return self._held
