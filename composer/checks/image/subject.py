"""An image that is looked at without being started: its merged tree, and what was noted of the files in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from composer.checks.image.notes import Notes
from composer.compatibility import environment
from composer.elf import Binary
from composer.errors import Corrupt
from composer.oci.image import Image
from composer.oci.tar import FILE, LINK, SYMLINK, Entry
from composer.oci.tree import Tree, join
from composer.releases import RELEASES

_HOPS: Final = 40
"""Links that lead one to the next, as Linux follows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer: its digest, its entries in order, and what was noted of its files."""

    digest: str
    entries: Sequence[Entry]
    notes: Notes


@dataclass(frozen=True, kw_only=True)
class Still:
    """An image that does not run: what it says of itself, its layers from the bottom up, and their merged tree.

    `added` are variables that it will be started with, on top of its own; `gpu` whether it is meant for one; `models`
    are the names that it must serve; `dropped` are components that were left out of it, by the libraries that were
    in them; `known_secrets` are paths of files that look like secrets and are none.
    """

    image: Image
    layers: Sequence[Layer]
    models: Sequence[str] = ()
    added: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = True
    dropped: Mapping[str, str] = field(default_factory=dict)
    known_secrets: Sequence[str] = ()

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The `config` object of the image's config."""
        return self.image.config.get("config") or {}

    @cached_property
    def env(self) -> Mapping[str, str]:
        """The variables that a server in it sees."""
        return {**environment(self.image), **self.added}

    @cached_property
    def release(self) -> str | None:
        """Which release of Triton it says that it is: `24.10`."""
        if named := self.env.get("NVIDIA_TRITON_SERVER_VERSION"):
            return named
        triton = self.env.get("TRITON_SERVER_VERSION")
        return next((name for name, facts in RELEASES.items() if triton and facts.triton == triton), None)

    @cached_property
    def tree(self) -> Tree:
        """What a container sees."""
        return self._merged[0]

    @cached_property
    def _merged(self) -> tuple[Tree, Mapping[str, tuple[int, str]]]:
        """The tree, and for each file in it the number of the layer that it comes from, and its path there."""
        tree = Tree()
        origin: dict[str, tuple[int, str]] = {}
        for number, layer in enumerate(self.layers):
            places = tree.apply(layer.entries)
            for entry, place in zip(layer.entries, places, strict=True):
                if entry.kind == FILE:
                    origin[place] = (number, entry.path)
                elif entry.kind == LINK and (target := origin.get(tree.resolve(entry.link))):
                    origin[place] = target
        return tree, origin

    def real(self, path: str) -> Entry | None:
        """What a path leads to, all links followed; None where it leads to nothing. The path may begin with a slash."""
        at = self._canonical(path)
        for _ in range(_HOPS):
            entry = None if at is None else self.tree.get(at)
            if entry is None or entry.kind != SYMLINK:
                return entry
            link = entry.link
            at = self._canonical(link if link.startswith("/") else join(entry.parent, link))
        return None

    def _canonical(self, path: str) -> str | None:
        """A path by real folders only; None where the links among them go round in circles."""
        plain = _plain(path)
        try:
            # What ends in `..` means a folder, and not something of that name.
            return (
                self.tree.resolve(f"{plain}/x").rpartition("/")[0] if plain.endswith("..") else self.tree.resolve(plain)
            )
        except Corrupt:
            return None

    def has(self, path: str) -> bool:
        """Whether anything stands at a path, be it a link to nothing."""
        at = self._canonical(path)
        return at is not None and at in self.tree

    def file(self, path: str) -> Entry | None:
        """The file that a path leads to, by whatever links, or None."""
        entry = self.real(path)
        return entry if entry and entry.kind in (FILE, LINK) else None

    def origin(self, path: str) -> tuple[int, str] | None:
        """The layer that the file at the end of a path comes from, by its number, and its path there."""
        entry = self.file(path)
        return self._merged[1].get(entry.path) if entry else None

    def binary(self, path: str) -> Binary | None:
        """What is loaded dynamically at a path."""
        place = self.origin(path)
        return self.layers[place[0]].notes.binaries.get(place[1]) if place else None

    def broken(self, path: str) -> bool:
        """Whether the file at a path begins as an ELF file does, and makes no sense."""
        place = self.origin(path)
        return place is not None and place[1] in self.layers[place[0]].notes.broken

    def static(self, path: str) -> bool:
        """Whether the file at a path is a program that loads nothing."""
        place = self.origin(path)
        return place is not None and place[1] in self.layers[place[0]].notes.static

    def text(self, path: str) -> str | None:
        """A small file of those that are kept whole."""
        place = self.origin(path)
        return self.layers[place[0]].notes.texts.get(place[1]) if place else None

    def program_line(self, path: str) -> str:
        """The first line of a script, from its `#!`; empty for what is none."""
        place = self.origin(path)
        return self.layers[place[0]].notes.programs.get(place[1], "") if place else ""

    def texts(self, folder: str) -> Mapping[str, str]:
        """The small files in a folder that are kept whole, by path."""
        names = (join(folder, name) for name in self.tree.children(folder))
        return {path: text for path in names if (text := self.text(path)) is not None}

    def files(self, folder: str) -> Iterator[Entry]:
        """All files at or under a folder, which may be a link itself; links are not followed."""
        top = self.real(folder)
        return (entry for entry in self.tree.walk(top.path) if entry.kind in (FILE, LINK)) if top else iter(())

    @cached_property
    def named(self) -> Mapping[str, str]:
        """Where the libraries of the image are, by name: one place of each."""
        return {entry.name: entry.path for entry in self.tree.walk("") if ".so" in entry.name and self.file(entry.path)}

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """Debian's package of each library that was installed by one, by the library's name."""
        found: dict[str, str] = {}
        for layer in self.layers:
            found |= layer.notes.packages
        return found

    @cached_property
    def accounts(self) -> Mapping[str, Sequence[str]]:
        """The lines of /etc/passwd by name, in fields."""
        return _records(self.text("etc/passwd"), fields=7)

    @cached_property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """The lines of /etc/group by name, in fields."""
        return _records(self.text("etc/group"), fields=4)

    def program(self, name: str) -> str | None:
        """Where a program is, as execvp(3) finds it by PATH; None where it is nowhere. With a slash it is a path."""
        if "/" in name:
            start = "" if name.startswith("/") else str(self.settings.get("WorkingDir") or "/")
            path = _plain(join(start, name) if start else name)
            return path if self.real(path) else None
        for folder in self.env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":"):
            path = _plain(join(folder, name))
            if (entry := self.file(path)) and entry.mode & 0o111:
                return path
        return None


def _records(text: str | None, fields: int) -> Mapping[str, Sequence[str]]:
    lines = [line.split(":") for line in (text or "").splitlines()]
    return {line[0]: line for line in lines if len(line) >= fields}


def _plain(path: str) -> str:
    """A path without empty parts and dots, relative to the root. `..` is kept: it may lead through a link."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def shown(path: str) -> str:
    """A path as people write it."""
    return f"/{path.lstrip('/')}"


def listed(names: Iterable[str], most: int = 4) -> str:
    """Some names of a list that may be long."""
    some = list(names)
    more = f" and {len(some) - most} more" if len(some) > most else ""
    return ", ".join(some[:most]) + more
