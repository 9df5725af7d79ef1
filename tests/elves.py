"""Small ELF files of the tests' own: nothing to run, only the headers and tables that loaders go by."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

MACHINES = {"amd64": 62, "arm64": 183}
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 14, 15, 29
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_BASE = 0x1000


def elf(
    *needed: str,
    machine: str = "amd64",
    runpath: str = "",
    rpath: str = "",
    soname: str = "",
    interpreter: str = "",
    versions: Mapping[str, Sequence[str]] | None = None,
    weak: Sequence[str] = (),
    offers: Sequence[str] = (),
) -> bytes:
    """A shared object of 64 bits with a dynamic segment, or with `interpreter` a program.

    `versions` are the symbol versions it needs, by library; those in `weak` may be missing. `offers` are its own.
    """
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    tags = [(_DT_NEEDED, name(library)) for library in needed]
    named = ((_DT_RUNPATH, runpath), (_DT_RPATH, rpath), (_DT_SONAME, soname))
    tags += [(kind, name(text)) for kind, text in named if text]
    wanted, offered = _wanted(versions or {}, weak, name), _offered(offers, name)
    sections = bytearray(b"\0")
    names = {text: _append(sections, text) for text in (".dynstr", ".gnu.version_r", ".shstrtab", ".dynamic")}
    header, program = 64, 3 * 56
    at_dynamic = header + program
    size_dynamic = (len(tags) + 3 + 2 * bool(wanted) + 2 * bool(offered)) * 16
    at_strings = at_dynamic + size_dynamic
    at_wanted = at_strings + len(strings)
    at_offered = at_wanted + len(wanted)
    at_loader = at_offered + len(offered)
    loader = interpreter.encode() + b"\0" if interpreter else b""
    at_names = at_loader + len(loader)
    at_sections = at_names + len(sections)
    tags += [(_DT_VERNEED, _BASE + at_wanted), (_DT_VERNEEDNUM, len(versions or {}))] if wanted else []
    tags += [(_DT_VERDEF, _BASE + at_offered), (_DT_VERDEFNUM, len(offers))] if offered else []
    tags += [(_DT_STRTAB, _BASE + at_strings), (_DT_STRSZ, len(strings)), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    return b"".join(
        (
            b"\x7fELF\x02\x01\x01" + bytes(9),
            struct.pack("<HHIQQQIHHHHHH", 3, MACHINES[machine], 1, 0, 64, at_sections, 0, 64, 56, 3, 64, 5, 3),
            _segment(1, 0, at_sections),
            _segment(2, at_dynamic, size_dynamic),
            _segment(3 if loader else 0, at_loader, len(loader)),
            dynamic,
            bytes(strings),
            wanted,
            offered,
            loader,
            bytes(sections),
            bytes(64),
            _section(names[".dynstr"], 3, at_strings, len(strings)),
            _section(names[".gnu.version_r"], 0x6FFFFFFE, at_wanted, len(wanted), link=1, info=len(versions or {})),
            _section(names[".shstrtab"], 3, at_names, len(sections)),
            _section(names[".dynamic"], 6, at_dynamic, size_dynamic, link=1, entry=16),
        )
    )


def _offered(offers: Sequence[str], name: Callable[[str], int]) -> bytes:
    """The table of the file's own versions."""
    out = b""
    for number, version in enumerate(offers, 1):
        following = 0 if number == len(offers) else 28
        out += struct.pack("<HHHHIIIII", 1, 0, number + 1, 1, 0, 20, following, name(version), 0)
    return out


def _wanted(versions: Mapping[str, Sequence[str]], weak: Sequence[str], name: Callable[[str], int]) -> bytes:
    """The table of needed versions."""
    out = b""
    for number, (library, some) in enumerate(versions.items(), 1):
        following = 0 if number == len(versions) else 16 + 16 * len(some)
        out += struct.pack("<HHIII", 1, len(some), name(library), 16, following)
        for index, version in enumerate(some, 1):
            mark = 2 if version in weak else 0
            out += struct.pack("<IHHII", 0, mark, index + 1, name(version), 0 if index == len(some) else 16)
    return out


def _append(table: bytearray, text: str) -> int:
    table.extend(text.encode() + b"\0")
    return len(table) - len(text) - 1


def _segment(kind: int, offset: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 4, offset, _BASE + offset, _BASE + offset, size, size, 8)


def _section(name: int, kind: int, offset: int, size: int, *, link: int = 0, info: int = 0, entry: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, 0, _BASE + offset, offset, size, link, info, 8, entry)
