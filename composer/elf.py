"""What programs and shared objects need and offer, from their own bytes: nothing is run or loaded.

Only what the loader goes by is looked at: program headers and the dynamic table. Section headers may be missing.

Source: the System V ABI, chapters 4 and 5; "ELF Symbol Versioning", which the GNU C library follows.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from composer.errors import Corrupt

MAGIC: Final = b"\x7fELF"

_MACHINES: Final = {62: "amd64", 183: "arm64", 3: "386", 40: "arm", 21: "ppc64le", 22: "s390x", 243: "riscv64"}
_VERSION: Final = re.compile(r"(GLIBC|GLIBCXX)_(\d+(?:\.\d+)*)")
_MOST: Final = 4096
"""No real file has more segments, libraries or versions; one that says so would be read for hours."""

_LONGEST: Final = 16 << 20
"""Bytes of a table. Those of the largest libraries have a few."""

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29
_VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_BASE, _WEAK = 1, 2
"""Marks of versions: the file's own name, and one that may be missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A program or shared object. `machine` is the architecture as images call it, such as `amd64`; `bits` 32 or 64.

    `needed` are the names of the libraries that it is loaded with, `search` the folders it names for them as they
    stand there, `$ORIGIN` and all: those are `inherited` by what it loads if they are an RPATH, not a RUNPATH.
    `soname` is the name that it goes by once it is loaded, `interpreter` the loader of a program; empty for none.

    `demands` are the versions of symbols that must be there, by library; `versions` has the highest of GLIBC and
    GLIBCXX among them. `offers` are the versions that it has itself.
    """

    machine: str
    needed: tuple[str, ...]
    search: tuple[str, ...]
    versions: Mapping[str, tuple[int, ...]]
    bits: int = 64
    inherited: bool = False
    soname: str = ""
    interpreter: str = ""
    demands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    offers: tuple[str, ...] = ()


def read_elf(stream: IO[bytes], *, origin: str) -> Binary | None:
    """What a file needs; None for one that is no ELF file, or one that is not loaded dynamically.

    `stream` is at its start and can seek; little of it is read. Raises `Corrupt` naming `origin`.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        return None
    try:
        return _File(stream).binary()
    except (ValueError, struct.error, OverflowError) as error:
        hint = "build it again, or leave it out"
        raise Corrupt(f"{origin} begins as a shared object, and cannot be read as one", hint=hint) from error


class _File:
    """One ELF file, of either class and byte order. Everything raises `ValueError` or `struct.error` for nonsense."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        ident = self._bytes(0, 16)
        if len(ident) < 16 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise ValueError("of no known class or byte order")
        self.bits = 32 * ident[4]
        self._order = "<" if ident[5] == 1 else ">"
        self._word = "Q" if self.bits == 64 else "I"
        self.machine, at, size, count = self._header()
        self._segments = list(self._read_segments(at, size, count))

    def _header(self) -> tuple[str, int, int, int]:
        """The machine, and the place, size of one, and number of the program headers."""
        word = self._word
        _, machine, _, _, programs, _, _, _, size, count = self._unpack(f"HHI{word}{word}{word}IHHH", 16)
        if self._order == ">" and machine == 21:
            return "ppc64", programs, size, count
        return _MACHINES.get(machine, f"machine {machine}"), programs, size, count

    def _read_segments(self, at: int, size: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """Kind, offset in the file, address and size in the file of each segment."""
        form = "IIQQQQQQ" if self.bits == 64 else "IIIIIIII"
        if count > _MOST or (count and size < struct.calcsize(self._order + form)):
            raise ValueError("an impossible number of segments")
        for number in range(count):
            fields = self._unpack(form, at + number * size)
            if self.bits == 64:
                kind, _, offset, address, _, length = fields[:6]
            else:
                kind, offset, address, _, length = fields[:5]
            yield kind, offset, address, length

    def binary(self) -> Binary | None:
        """What the file says of itself; None without a dynamic table: files of debug symbols have an empty one."""
        dynamic = next((one for one in self._segments if one[0] == _PT_DYNAMIC), None)
        tags = list(self._tags(dynamic[1], dynamic[3])) if dynamic else []
        if not tags:
            return None
        last = dict(tags)
        strings = self._strings(last)
        search = _RUNPATH if _RUNPATH in last else _RPATH
        folders = _text(strings, last[search]) if search in last else ""
        demands = self._demands(last, strings)
        return Binary(
            machine=self.machine,
            bits=self.bits,
            needed=tuple(_text(strings, value) for tag, value in tags if tag == _NEEDED),
            search=tuple(folder for folder in folders.split(":") if folder),
            inherited=search == _RPATH and _RPATH in last,
            soname=_text(strings, last[_SONAME]) if _SONAME in last else "",
            interpreter=self._interpreter(),
            versions=_highest(name for names in demands.values() for name in names),
            demands=demands,
            offers=self._offers(last, strings),
        )

    def _tags(self, at: int, size: int) -> Iterator[tuple[int, int]]:
        """The dynamic table: tags and values, up to its end."""
        form = struct.Struct(self._order + self._word * 2)
        for number in range(min(size // form.size, _MOST)):
            tag, value = form.unpack(self._bytes(at + number * form.size, form.size))
            if tag == 0:
                return
            yield tag, value

    def _strings(self, tags: Mapping[int, int]) -> bytes:
        if _STRTAB not in tags:
            raise ValueError("no strings")
        size = tags.get(_STRSZ, 0)
        if not 0 < size <= _LONGEST:
            raise ValueError(f"{size} bytes of strings")
        return self._bytes(self._offset(tags[_STRTAB]), size)

    def _interpreter(self) -> str:
        for kind, offset, _, size in self._segments:
            if kind == _PT_INTERP and 0 < size < _MOST:
                return self._bytes(offset, size).rstrip(b"\0").decode("utf-8", "replace")
        return ""

    def _demands(self, tags: Mapping[int, int], strings: bytes) -> Mapping[str, tuple[str, ...]]:
        """The versions that are needed, by the library that must have them; not those that may be missing."""
        found: dict[str, tuple[str, ...]] = {}
        at = self._offset(tags[_VERNEED]) if _VERNEED in tags else 0
        for _ in range(min(tags.get(_VERNEEDNUM, 0), _MOST) if at else 0):
            _, count, library, first, following = self._unpack("HHIII", at)
            names = tuple(self._demanded(at + first, count, strings))
            if names:
                found[_text(strings, library)] = names
            at += following
            if not following:
                break
        return found

    def _demanded(self, at: int, count: int, strings: bytes) -> Iterator[str]:
        for _ in range(min(count, _MOST)):
            _, marks, _, name, following = self._unpack("IHHII", at)
            if not marks & _WEAK:
                yield _text(strings, name)
            at += following
            if not following:
                return

    def _offers(self, tags: Mapping[int, int], strings: bytes) -> tuple[str, ...]:
        """The versions that the file defines, without its own name."""
        found: list[str] = []
        at = self._offset(tags[_VERDEF]) if _VERDEF in tags else 0
        for _ in range(min(tags.get(_VERDEFNUM, 0), _MOST) if at else 0):
            _, marks, _, _, _, first, following = self._unpack("HHHHIII", at)
            if not marks & _BASE:
                name, _ = self._unpack("II", at + first)
                found.append(_text(strings, name))
            at += following
            if not following:
                break
        return tuple(found)

    def _offset(self, address: int) -> int:
        """Where in the file that is which is loaded at an address."""
        for kind, offset, start, size in self._segments:
            if kind == _PT_LOAD and start <= address < start + size:
                return int(offset + address - start)
        raise ValueError(f"nothing is loaded at {address:#x}")

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        one = struct.Struct(self._order + form)
        return one.unpack(self._bytes(at, one.size))

    def _bytes(self, at: int, size: int) -> bytes:
        self._stream.seek(at)
        return self._stream.read(size)


def _text(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    if at >= len(strings) or end < 0:
        raise ValueError("a name outside of its table")
    return strings[at:end].decode("utf-8", "replace")


def _highest(names: Iterable[str]) -> Mapping[str, tuple[int, ...]]:
    highest: dict[str, tuple[int, ...]] = {}
    for name in names:
        if found := _VERSION.fullmatch(name):
            number = tuple(int(part) for part in found[2].split("."))
            highest[found[1]] = max(number, highest.get(found[1], ()))
    return highest


def encode(binaries: Mapping[str, Binary]) -> bytes:
    """Binaries by path as JSON, always the same bytes for the same ones."""
    rows = {path: _row(one) for path, one in binaries.items()}
    return json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()


def _row(one: Binary) -> object:
    demands = {library: list(names) for library, names in one.demands.items()}
    return [
        one.machine,
        one.bits,
        one.needed,
        one.search,
        one.inherited,
        one.soname,
        one.interpreter,
        demands,
        one.offers,
    ]


def decode(data: bytes) -> Mapping[str, Binary]:
    """The binaries that `encode` wrote. Raises `Corrupt`."""
    try:
        return {path: _binary(*row) for path, row in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Corrupt(f"what is known of libraries cannot be read: {error}", hint="tricompose cache clear") from error


def _binary(
    machine: str,
    bits: int,
    needed: list[str],
    search: list[str],
    inherited: bool,
    soname: str,
    interpreter: str,
    demands: Mapping[str, list[str]],
    offers: list[str],
) -> Binary:
    return Binary(
        machine=machine,
        bits=bits,
        needed=tuple(needed),
        search=tuple(search),
        inherited=bool(inherited),
        soname=soname,
        interpreter=interpreter,
        versions=_highest(name for names in demands.values() for name in names),
        demands={library: tuple(names) for library, names in demands.items()},
        offers=tuple(offers),
    )
