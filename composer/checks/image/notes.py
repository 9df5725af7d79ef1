"""What is noted of the files in a layer, while it is read once: all that the checks will ask of their content.

A layer has a digest, so what was noted of it holds for ever, and is kept beside its entries.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from composer import elf
from composer.checks.image import secrets
from composer.checks.image.loader import CACHE, read_cache
from composer.checks.image.secrets import Leak
from composer.elf import MAGIC, Binary, read_elf
from composer.errors import Corrupt
from composer.oci.contents import IN_MEMORY, contents
from composer.oci.tar import Entry

MANNER: Final = f"image checks 1, secrets {secrets.RULES}"
"""To be changed with what is noted: what was noted otherwise is not used any more."""

_SMALL: Final = secrets.MOST
"""Files up to this many bytes may be text, and are all looked at."""

_FIRST_LINE: Final = 256
_TEXTS: Final = re.compile(
    r"etc/(?:passwd|group|ld\.so\.conf|ld\.so\.conf\.d/[^/]+\.conf)|(?:etc|usr/lib)/os-release|(?:.*/)?config\.pbtxt"
)
"""The files that are kept as they are, if they are small: what the checks read of users, the loader and models."""

_LISTS: Final = re.compile(r"var/lib/dpkg/info/([^/:]+)(?::[^/]+)?\.list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What is noted of a layer, by the paths as they stand in it.

    `binaries` is what is loaded dynamically, `broken` what begins so and cannot be read, `static` are programs that
    load nothing. `texts` are the small files that are kept whole, `programs` the `#!` lines of scripts. `packages` has
    Debian's package of each library that it installed, by the library's name.
    """

    binaries: Mapping[str, Binary] = field(default_factory=dict)
    broken: Sequence[str] = ()
    static: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    leaks: Sequence[Leak] = ()


@dataclass(slots=True)
class _Book:
    """Notes in the making."""

    binaries: dict[str, Binary] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    static: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)

    def look(self, entry: Entry, held: IO[bytes]) -> None:
        """Note what there is to note of a file."""
        head = held.read(4)
        held.seek(0)
        if head == MAGIC:
            self._binary(entry, held)
        elif entry.size <= _SMALL:
            self._text(entry, held.read())

    def _binary(self, entry: Entry, held: IO[bytes]) -> None:
        try:
            if found := read_elf(held, origin=entry.path):
                self.binaries[entry.path] = found
            elif entry.mode & 0o111:
                self.static.append(entry.path)
        except Corrupt:
            self.broken.append(entry.path)

    def _text(self, entry: Entry, data: bytes) -> None:
        path = entry.path
        if path == CACHE:
            self.texts[path] = read_cache(data)
        elif _TEXTS.fullmatch(path):
            self.texts[path] = data.decode("utf-8", "replace")
        elif package := _LISTS.fullmatch(path):
            names = re.findall(rb"/([^/\n]+)$", data, re.MULTILINE)
            self.packages |= {name.decode("utf-8", "replace"): package[1] for name in names if b".so" in name[1:]}
        if data.startswith(b"#!"):
            self.programs[path] = data[:_FIRST_LINE].split(b"\n")[0].decode("utf-8", "replace")
        if secrets.worth_reading(path, entry.size):
            self.leaks += secrets.leaks(path, data)

    def closed(self) -> Notes:
        return Notes(
            binaries=self.binaries,
            broken=self.broken,
            static=self.static,
            texts=self.texts,
            programs=self.programs,
            packages=self.packages,
            leaks=self.leaks,
        )


def take_notes(
    chunks: Iterable[bytes], *, origin: str, scratch: Path, keep: Set[str] = frozenset()
) -> tuple[Sequence[Entry], Notes, Mapping[str, bytes]]:
    """Read a layer's tar to its end: its entries, what is noted of them, and the files `keep` that are in it.

    Of those at most `IN_MEMORY` bytes each. Raises `Corrupt` naming `origin`, `NoRoom`.
    """
    entries: list[Entry] = []
    book = _Book()
    kept: dict[str, bytes] = {}

    def wanted(entry: Entry, head: bytes) -> bool:
        return entry.size <= _SMALL or entry.path in keep or head.startswith(MAGIC)

    for entry, held in contents(chunks, origin=origin, scratch=scratch, wanted=wanted):
        entries.append(entry)
        if held is None:
            continue
        if entry.path in keep:
            kept[entry.path] = held.read(IN_MEMORY)
            held.seek(0)
        book.look(entry, held)
    return entries, book.closed(), kept


def encode(notes: Notes) -> bytes:
    """Notes as gzip JSON, always the same bytes for the same ones."""
    document = {
        "binaries": json.loads(elf.encode(notes.binaries)),
        "broken": list(notes.broken),
        "static": list(notes.static),
        "texts": dict(notes.texts),
        "programs": dict(notes.programs),
        "packages": dict(notes.packages),
        "leaks": [asdict(leak) for leak in notes.leaks],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return gzip.compress(text.encode("utf-8", "surrogateescape"), 6, mtime=0)


def decode(data: bytes) -> Notes:
    """The notes that `encode` wrote. Raises `Corrupt`."""
    try:
        document: dict[str, Any] = json.loads(gzip.decompress(data).decode("utf-8", "surrogateescape"))
        return Notes(
            binaries=elf.decode(json.dumps(document.pop("binaries")).encode("utf-8", "surrogateescape")),
            leaks=tuple(Leak(**leak) for leak in document.pop("leaks")),
            **document,
        )
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
        raise Corrupt(f"notes in the cache cannot be read: {error}", hint="tricompose cache clear") from error
