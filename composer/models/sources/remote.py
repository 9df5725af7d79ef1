"""What a source says that it has, before a byte of it has moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.errors import Corrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A file on its way: `pieces` are its bytes from `start` on. `total` bytes in all, None where nobody says.

    `version` is another one whenever the bytes are others; None: there is no telling.
    """

    start: int
    total: int | None
    version: str | None
    pieces: Iterator[bytes]


Open = Callable[[int, str | None], Stream]
"""Have a file sent from a place on, if it is still of the version given; from its beginning where it is not, or where
the source cannot begin elsewhere. Raises `Interrupted` for what may end well another time, there and in the pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file elsewhere. `path` is within what was asked for; `address` tells it from all others, and may be shown.

    `size` in bytes and `sha256` are the source's own word, where it gives one.
    """

    path: str
    address: str
    open: Open
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """A file of this machine: it is used where it lies."""

    path: str
    place: Path
    size: int


Unfold = Callable[[Mapping[str, Path], Path], Iterator[tuple[str, Path]]]
"""From what was fetched, by path, to the files that are meant, by path; the folder given is for what has to be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds. `uri` names just this, as exactly as its kind can: by revision, by digest.

    `folder`: several files are meant, even if it is one. `unfold` makes the files out of what is fetched, as of the
    layers of an image; `fixed` then names the content, for good.
    """

    uri: str
    files: tuple[Remote | Here, ...]
    folder: bool
    unfold: Unfold | None = None
    fixed: str | None = None


def require_safe(paths: Iterator[str] | tuple[str, ...], origin: str) -> None:
    """Raise `Corrupt` for a path that leads out of a folder, names nothing, or is a file and a folder at once."""
    known: set[str] = set()
    for path in paths:
        if path in known or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
            raise Corrupt(f"{origin} holds {path!r}, which is no path of a file", hint="rename it there")
        if not path.isprintable():
            raise Corrupt(f"{origin} holds {path!r}, which has control characters in it", hint="rename it there")
        known.add(path)
    for path in known:
        above = path.rpartition("/")[0]
        while above:
            if above in known:
                raise Corrupt(f"{origin} holds {above!r} both as a file and as a folder", hint="remove one of them")
            above = above.rpartition("/")[0]
