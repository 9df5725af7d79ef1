"""What shared objects need, from their own bytes: nothing is run or loaded, only headers and tables are looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Final

from composer.errors import Corrupt

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

MAGIC: Final = b"\x7fELF"

_MACHINES: Final = {"EM_X86_64": "amd64", "EM_AARCH64": "arm64", "EM_386": "386", "EM_ARM": "arm"}
_VERSION: Final = re.compile(r"(GLIBC|GLIBCXX)_(\d+(?:\.\d+)*)")
_CONFUSED: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)
"""What the reader of ELF files raises, beside its own errors, for one that makes no sense."""
_MOST: Final = 4096
"""No real file has more segments, sections, libraries or versions; one that says so would be read for hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A program or shared object. `machine` is the architecture as images call it, such as `amd64`.

    `needed` are the names of the libraries that it is loaded with, `search` the folders it names for them as they
    stand there, `$ORIGIN` and all. `versions` has the highest version of GLIBC and GLIBCXX that its symbols need.
    """

    machine: str
    needed: tuple[str, ...]
    search: tuple[str, ...]
    versions: Mapping[str, tuple[int, ...]]


def read_elf(stream: IO[bytes], *, origin: str) -> Binary | None:
    """What a file needs; None for one that is no ELF file, or one that is not loaded dynamically.

    `stream` is at its start and can seek; little of it is read. Raises `Corrupt` naming `origin`.
    """
    if stream.read(len(MAGIC)) != MAGIC:
        return None
    stream.seek(0)
    # It takes a tenth of a second to import, and most recipes bring no backend.
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    try:
        return _binary(ELFFile(stream))
    except (ELFError, ConstructError, *_CONFUSED) as error:
        hint = "build it again, or leave it out"
        raise Corrupt(f"{origin} begins as a shared object, and cannot be read as one", hint=hint) from error


def _binary(elf: ELFFile) -> Binary | None:
    needed: list[str] = []
    search: dict[str, str] = {}
    if elf.num_segments() > _MOST or elf.num_sections() > _MOST:
        raise ValueError("an impossible number of parts")
    dynamic = next(iter(elf.iter_segments("PT_DYNAMIC")), None)
    if dynamic is None:
        return None
    for tag in islice(dynamic.iter_tags(), _MOST):  # type: ignore[attr-defined]
        kind = tag.entry.d_tag
        if kind == "DT_NEEDED":
            needed.append(tag.needed)
        elif kind in ("DT_RPATH", "DT_RUNPATH"):
            search[kind] = getattr(tag, kind[3:].lower())
    folders = search.get("DT_RUNPATH", search.get("DT_RPATH", ""))
    return Binary(
        machine=_MACHINES.get(elf["e_machine"], str(elf["e_machine"])),
        needed=tuple(needed),
        search=tuple(folder for folder in folders.split(":") if folder),
        versions=_versions(elf),
    )


def _versions(elf: ELFFile) -> Mapping[str, tuple[int, ...]]:
    highest: dict[str, tuple[int, ...]] = {}
    for name in islice(_version_names(elf), _MOST):
        if found := _VERSION.fullmatch(name):
            number = tuple(int(part) for part in found[2].split("."))
            highest[found[1]] = max(number, highest.get(found[1], ()))
    return highest


def _version_names(elf: ELFFile) -> Iterator[str]:
    for section in elf.iter_sections("SHT_GNU_verneed"):
        for _, names in section.iter_versions():  # type: ignore[attr-defined]
            yield from (one.name for one in names)


def encode(binaries: Mapping[str, Binary]) -> bytes:
    """Binaries by path as JSON, always the same bytes for the same ones."""
    rows = {path: _row(one) for path, one in binaries.items()}
    return json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()


def _row(one: Binary) -> object:
    return [one.machine, one.needed, one.search, {name: list(v) for name, v in sorted(one.versions.items())}]


def decode(data: bytes) -> Mapping[str, Binary]:
    """The binaries that `encode` wrote. Raises `Corrupt`."""
    try:
        rows = json.loads(data)
        return {
            path: Binary(
                machine=machine,
                needed=tuple(needed),
                search=tuple(search),
                versions={name: tuple(number) for name, number in versions.items()},
            )
            for path, (machine, needed, search, versions) in rows.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise Corrupt(f"what is known of libraries cannot be read: {error}", hint="tricompose cache clear") from error
