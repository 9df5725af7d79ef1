"""How the loader of the GNU C library finds what a program needs: the same rules, on the files of an image. Pure.

Source: ld.so(8); glibc, elf/dl-load.c (_dl_map_object, open_verify), elf/dl-version.c (match_symbol), and
sysdeps/generic/dl-cache.h for the form of ld.so.cache.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from composer.elf import Binary
from composer.oci.tree import join

CACHE: Final = "etc/ld.so.cache"
CONF: Final = "etc/ld.so.conf"

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""What the loader calls the architectures of images."""

_NEW_CACHE: Final = b"glibc-ld.so.cache1.1"
_CACHE_HEADER: Final = struct.Struct("<20sII20x")
_CACHE_ENTRY: Final = struct.Struct("<iIIIQ")

HOST: Final = re.compile(
    r"lib(?:cuda|cudadebugger|nvcuvid|nvoptix|vdpau_nvidia|(?:GLX|EGL|GLESv1_CM|GLESv2)_nvidia|nvcudla|nvidia-[\w.-]+?)"
    r"\.so(?:\.\d+)*"
)
"""The driver's libraries: NVIDIA's container runtime puts the host's into a container when it starts.

Source: libnvidia-container, nvc_info.c (utility, compute, video, graphics and ngx libraries).
"""


def read_cache(data: bytes) -> str:
    """The libraries that an ld.so.cache lists: lines of name and path. Empty for a cache of another form."""
    start = data.find(_NEW_CACHE)
    if start < 0 or len(data) < start + _CACHE_HEADER.size:
        return ""
    data = data[start:]
    _, count, _ = _CACHE_HEADER.unpack_from(data)
    lines: dict[str, None] = {}
    for number in range(min(count, (len(data) - _CACHE_HEADER.size) // _CACHE_ENTRY.size)):
        _, name, path, _, hardware = _CACHE_ENTRY.unpack_from(data, _CACHE_HEADER.size + number * _CACHE_ENTRY.size)
        if not hardware:
            lines[f"{_cached(data, name)} {_cached(data, path)}"] = None
    return "\n".join(lines)


def _cached(data: bytes, at: int) -> str:
    return data[at : data.find(b"\0", at)].decode("utf-8", "replace")


How = Literal["RPATH", "LD_LIBRARY_PATH", "RUNPATH", "ld.so.cache", "default", "ld.so.conf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a library was found, and by which rule; or, without a path, the files of that name that will not do."""

    path: str = ""
    how: How = "default"
    unfit: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """What keeps an object from being loaded: a library, or with `version` a version of its symbols.

    `by` is the file that needs it. `at` is the library that was found, and lacks the version.
    """

    library: str
    by: str
    version: str = ""
    at: str = ""
    unfit: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of an image as the loader sees them. Paths have no leading slash, links are followed.

    `binary` tells what stands at a path, `there` whether anything does, `folder` the canonical path of a folder.
    `default` are the folders that are searched in the end, `configured` those of ld.so.conf, `cached` the paths of
    ld.so.cache by name.
    """

    binary: Callable[[str], Binary | None]
    there: Callable[[str], bool]
    machine: str
    default: Sequence[str]
    configured: Sequence[str]
    cached: Mapping[str, Sequence[str]]


def default_folders(machine: str) -> tuple[str, ...]:
    """Where libraries are looked for in the end: Debian's folders, then those of other distributions."""
    multiarch = f"{MACHINES.get(machine, machine)}-linux-gnu"
    return (f"lib/{multiarch}", f"usr/lib/{multiarch}", "lib", "usr/lib", "lib64", "usr/lib64")


def configured_folders(texts: Mapping[str, str]) -> tuple[str, ...]:
    """The folders that /etc/ld.so.conf and its parts name, in its order. Where there is only the folder, its files."""
    parts = sorted(path for path in texts if path.startswith(f"{CONF}.d/"))
    lines: list[str] = []
    for line in texts.get(CONF, f"include /{CONF}.d/*.conf").splitlines():
        word, _, pattern = line.strip().partition(" ")
        if word == "include":
            shown = re.compile(re.escape(_relative(pattern.strip())).replace(r"\*", "[^/]*"))
            lines += [line for part in parts if shown.fullmatch(part) for line in texts[part].splitlines()]
        else:
            lines.append(line)
    named = (line.split("#")[0].strip() for line in lines)
    return tuple(dict.fromkeys(name.strip("/") for name in named if name.startswith("/")))


def _relative(pattern: str) -> str:
    return pattern.lstrip("/") if pattern.startswith("/") else f"etc/{pattern}"


def cached_libraries(text: str) -> Mapping[str, Sequence[str]]:
    """The paths of each library in a cache that `read_cache` read."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, path = line.partition(" ")
        found.setdefault(name, []).append(path.lstrip("/"))
    return found


@dataclass(slots=True)
class Process:
    """What one process has loaded so far. `library_path` are the folders of LD_LIBRARY_PATH.

    `loaded` maps the names that need not be searched any more to paths, `lacks` says what was not found, `late` what
    only a cache that is made anew will have, as NVIDIA's runtime makes one: library, and the file that needs it.
    """

    files: Files
    library_path: Sequence[str]
    loaded: dict[str, str] = field(default_factory=dict)
    lacks: list[Lack] = field(default_factory=list)
    late: list[tuple[str, str]] = field(default_factory=list)

    def fork(self) -> Process:
        """One that has loaded the same, and goes on for itself."""
        return Process(files=self.files, library_path=self.library_path, loaded=dict(self.loaded))

    def load(self, path: str, parents: Sequence[str] = ()) -> Sequence[str]:
        """Load a file and all that it needs, as a program, or for `parents` (from the nearest) that open it.

        Returns the paths that were loaded with it, itself first.
        """
        chains: dict[str, tuple[str, ...]] = {path: (path, *parents)}
        todo = [path]
        for at in todo:
            binary = self.files.binary(at)
            if binary is None:
                continue
            self.loaded.setdefault(binary.soname or at.rpartition("/")[2], at)
            for library in binary.needed:
                found = self._need(library, chains[at])
                if found and found not in chains:
                    chains[found] = (found, *chains[at])
                    todo.append(found)
        for at in todo:
            self._check_versions(at)
        return todo

    def _need(self, library: str, chain: Sequence[str]) -> str | None:
        """The path of a library that is to be loaded now; None where it is loaded, or cannot be."""
        if library in self.loaded or HOST.fullmatch(library):
            return None
        found = find(library, chain, self.files, self.library_path)
        if not found.path:
            self.lacks.append(Lack(library=library, by=chain[0], unfit=found.unfit))
            return None
        if found.how == "ld.so.conf":
            self.late.append((library, chain[0]))
        self.loaded[library] = found.path
        if (binary := self.files.binary(found.path)) and binary.soname:
            self.loaded.setdefault(binary.soname, found.path)
        return found.path

    def _check_versions(self, path: str) -> None:
        """Whether what was loaded has the versions that a file demands. One that has none at all is let pass."""
        binary = self.files.binary(path)
        for library, versions in binary.demands.items() if binary else ():
            at = self.loaded.get(library, "")
            there = self.files.binary(at) if at else None
            if there is None or not there.offers:
                continue
            self.lacks += [
                Lack(library=library, by=path, version=version, at=at)
                for version in versions
                if version not in there.offers
            ]


def find(library: str, chain: Sequence[str], files: Files, library_path: Sequence[str]) -> Found:
    """Where a library is found that `chain[0]` needs, which was loaded for `chain[1]`, and so on."""
    unfit: list[tuple[str, str]] = []
    for how, path in _candidates(library, chain, files, library_path):
        if not files.there(path):
            continue
        if fault := _fault(path, files):
            unfit.append((path, fault))
        else:
            return Found(path=path, how=how)
    return Found(unfit=tuple(unfit))


def _candidates(
    library: str, chain: Sequence[str], files: Files, library_path: Sequence[str]
) -> Iterator[tuple[How, str]]:
    if "/" in library:
        yield "default", library.lstrip("/")
        return
    binary = files.binary(chain[0])
    if binary and (binary.inherited or not binary.search):
        # RPATH: of the file and of those that it was loaded for, as long as they have no RUNPATH.
        for at in chain:
            yield from (("RPATH", join(folder, library)) for folder in _own(at, files, inherited=True))
    yield from (("LD_LIBRARY_PATH", join(folder, library)) for folder in library_path)
    if binary and not binary.inherited:
        yield from (("RUNPATH", join(folder, library)) for folder in _own(chain[0], files, inherited=False))
    yield from (("ld.so.cache", path) for path in files.cached.get(library, ()))
    yield from (("default", join(folder, library)) for folder in files.default)
    yield from (("ld.so.conf", join(folder, library)) for folder in files.configured)


def _own(path: str, files: Files, *, inherited: bool) -> Iterable[str]:
    binary = files.binary(path)
    if binary is None or binary.inherited != inherited:
        return ()
    return [expanded(folder, path, binary.machine) for folder in binary.search]


def expanded(folder: str, path: str, machine: str) -> str:
    """A folder that the file at `path` names, without its variables."""
    values = {"ORIGIN": path.rpartition("/")[0], "LIB": "lib", "PLATFORM": MACHINES.get(machine, machine)}
    text = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], found[0]), folder)
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _fault(path: str, files: Files) -> str:
    """Why the loader passes a file by."""
    binary = files.binary(path)
    if binary is None:
        return "is no shared object"
    return "" if binary.machine == files.machine else f"is for {binary.machine}"
