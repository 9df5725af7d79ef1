"""A file from elsewhere onto the shelf: verified while it streams, gone on with where it broke off, now or later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from composer.disk import require_room
from composer.errors import Corrupt
from composer.events import Emit, Logged, Transferred
from composer.models.sources.remote import Remote, Stream
from composer.models.sources.shelf import FetchedFile, Partial, Shelf
from composer.models.sources.way import Way
from composer.oci.patience import Interrupted, Patience

_TOLD: Final = 4 << 20
"""Bytes between two words on how far it is."""


def take(remote: Remote, expected: str | None, shelf: Shelf, way: Way) -> FetchedFile:
    """The file, by `expected`, a digest, where one is given. Raises `Corrupt` with both digests for any other bytes.

    What is on the shelf already is not asked for.
    """
    if expected and remote.sha256 and remote.sha256 != expected:
        raise wrong(remote.address, expected, remote.sha256)
    promised = expected or remote.sha256
    if promised and (found := shelf.file(promised, remote.path)):
        return found
    with shelf.partial(remote.address) as partial:
        if promised and (found := shelf.file(promised, remote.path)):
            partial.discard()  # another process was faster
            return found
        _fill(partial, remote, promised, way)
        if promised and partial.digest != promised and partial.resumed:
            # What was here may have been of another file, where nothing tells one from the other but the digest.
            partial.begin(0, None)
            _fill(partial, remote, promised, way)
        if promised and (came := partial.digest) != promised:
            partial.discard()
            raise wrong(remote.address, promised, came)
        kept = partial.finish()
    return FetchedFile(path=remote.path, place=kept.place, size=kept.size, digest=kept.digest)


def wrong(origin: str, expected: str, came: str) -> Corrupt:
    """Bytes that are not what was asked for."""
    return Corrupt(
        f"{origin} is not what was asked for: its digest is {came}, and {expected} was expected",
        hint=f"if the new one is meant: sha256: {came.removeprefix('sha256:')}",
    )


def _fill(partial: Partial, remote: Remote, promised: str | None, way: Way) -> None:
    """Have the file sent until it is complete. Raises what the source raises where it cannot be."""
    patience = Patience(way.patience, time.sleep, lambda text: way.emit(Logged(text=text)))
    tell = _teller(remote, promised, way.emit)
    while True:
        # Without a digest, only a source that tells versions apart can be trusted to go on with the same file.
        place = partial.size if partial.version or promised else 0
        try:
            stream = remote.open(place, partial.version if place else None)
            _drain(stream, partial, remote, patience, tell)
            return
        except Interrupted as cut:
            patience.wait(cut)


def _drain(
    stream: Stream, partial: Partial, remote: Remote, patience: Patience, tell: Callable[[int, int], None]
) -> None:
    partial.begin(stream.start, stream.version)
    total = stream.total if stream.total is not None else remote.size
    if total is not None:
        require_room(partial.folder, total - partial.size)
    tell(partial.size, total or 0)
    for piece in stream.pieces:
        partial.append(piece)
        patience.gained()
        tell(partial.size, total or 0)
    if total is not None and partial.size != total:
        raise Corrupt(f"{remote.address} has {partial.size} bytes where {total} were promised", hint="try again")


def _teller(remote: Remote, promised: str | None, emit: Emit) -> Callable[[int, int], None]:
    told = [-_TOLD]

    def tell(done: int, total: int) -> None:
        if done - told[0] >= _TOLD or done == total or done < told[0]:
            told[0] = done
            key = promised or remote.address
            emit(Transferred(digest=key, title=Path(remote.path).name, action="fetched", done=done, total=total))

    return tell
