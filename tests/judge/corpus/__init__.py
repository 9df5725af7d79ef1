"""Model repositories that a server was asked about: good ones, and ones that are broken in one way each.

A family is a module of this package with a list `ENTRIES`, made with `good` and `bad`:

    ENTRIES = [
        good("io/scalar-by-reshape", model("m", CONFIG)),
        bad("IO001", "io/input-without-name", model("m", CONFIG.replace('name: "X"', ""))),
    ]

Nothing else is needed: every module here is found. `bad` names the rule of validation.md that should speak. Whether an
entry is served is for the server to say, not for these names: `bad` may be one that the server serves (a rule that only
warns), and `python -m tests.judge record` says what came out.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    to: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that may be empty."""

    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Fifo:
    """A named pipe."""


@dataclass(frozen=True, slots=True)
class Moded:
    """A file with permissions of its own."""

    content: str | bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Sparse:
    """A file of a size, all of it a hole."""

    size: int


File: TypeAlias = str | bytes | Link | Folder | Fifo | Moded | Sparse
Files: TypeAlias = Mapping[str, File]
"""What lies in a repository, by path. Folders above a path need not be named. Paths may hold surrogate escapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One repository and how a server is started on it.

    `rule`: the rule that should speak, or None for a good one. `release`: the only release this is for. `flags`: of
    tritonserver, beside the defaults. `requests`: the JSON to ask a model with, by model, where zeros will not do.
    `repositories`: the folders below `files` that are given to the server. `user`: who runs it, by number, if not root.
    `note`: what a reader should know; nothing depends on it.
    """

    name: str
    rule: str | None
    files: Files
    release: str | None = None
    flags: tuple[str, ...] = ()
    requests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    repositories: tuple[str, ...] = ("",)
    user: int | None = None
    note: str = ""

    def write(self, folder: Path) -> list[Path]:
        """Write the files into a folder, and return the repositories there."""
        write(self.files, folder)
        return [folder / name if name else folder for name in self.repositories]

    @property
    def digest(self) -> str:
        """Of all that the verdict depends on, as far as this project says it."""
        content = {path: _told(file) for path, file in sorted(self.files.items())}
        whole = [content, self.flags, self.requests, self.repositories, self.user]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def good(name: str, files: Files, **more: Any) -> Entry:
    """A repository in which no rule finds an error."""
    return Entry(name=name, rule=None, files=files, **more)


def bad(rule: str, name: str, files: Files, **more: Any) -> Entry:
    """A repository for which a rule speaks."""
    return Entry(name=name, rule=rule, files=files, **more)


def entries(release: str | None = None) -> list[Entry]:
    """Every entry of every family, for one release or for all, by name. Raises ValueError if a name is taken twice."""
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(__path__):
        for entry in getattr(importlib.import_module(f"{__name__}.{module.name}"), "ENTRIES", ()):
            if entry.name in found:
                raise ValueError(f"two entries of the corpus are called {entry.name}")
            found[entry.name] = entry
    chosen: Sequence[Entry] = sorted(found.values(), key=lambda entry: entry.name)
    return [entry for entry in chosen if release is None or entry.release in {None, release}]


def write(files: Files, folder: Path) -> None:
    """Write files below a folder. Folders get mode 0755 and files 0644, unless they say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    late: list[tuple[Path, int]] = []
    for path, file in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, Folder):
            place.mkdir(exist_ok=True)
            late.append((place, file.mode))
        else:
            _write_file(place, file)
    for place, mode in late:
        place.chmod(mode)


def _write_file(place: Path, file: File) -> None:
    match file:
        case Link():
            place.symlink_to(file.to)
        case Fifo():
            os.mkfifo(place)
        case Sparse():
            with place.open("wb") as sparse:
                sparse.truncate(file.size)
        case Moded():
            _write_file(place, file.content)
            place.chmod(file.mode)
        case str():
            place.write_bytes(file.encode(errors="surrogateescape"))
        case bytes():
            place.write_bytes(file)


def _told(file: File) -> object:
    """A file as something that JSON can say, the same for the same file."""
    match file:
        case str():
            return ["file", hashlib.sha256(file.encode(errors="surrogateescape")).hexdigest()]
        case bytes():
            return ["file", hashlib.sha256(file).hexdigest()]
        case Moded():
            return [_told(file.content), file.mode]
        case _:
            return repr(file)
