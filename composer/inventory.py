"""What is inside an image: the entries of its layers, and the components of a Triton server that they make up."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from composer.errors import Corrupt
from composer.oci.image import Image
from composer.oci.tar import DIRECTORY, SYMLINK, Entry
from composer.oci.tree import Tree, join

HOME: Final = "opt/tritonserver"
KINDS: Final = ("backends", "repoagents", "caches")
CORE: Final = "core"
"""The component of everything that is no backend, repository agent or cache."""


def component_of(path: str) -> str:
    """The component of a path: `backends/python`, `caches/local`, or `core` for all that is not in such a folder."""
    if not path.startswith(HOME + "/"):
        return CORE
    kind, slash, rest = path[len(HOME) + 1 :].partition("/")
    return f"{kind}/{rest.partition('/')[0]}" if slash and kind in KINDS else CORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of the server that can be left out: its kind and name, what it holds, and what it cannot be without."""

    kind: str
    name: str
    size: int
    files: int
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What `component_of` calls it."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The entries of an image's layers, by layer digest. A layer that is missing here was not read."""

    image: Image
    layers: Mapping[str, Sequence[Entry]]

    def unread(self) -> tuple[str, ...]:
        """The digests of the layers that were not read, from the bottom up."""
        return tuple(layer.digest for layer in self.image.layers if layer.digest not in self.layers)

    def tree(self) -> Tree:
        """The merged tree of the layers that were read; partial where one was not."""
        tree = Tree(partial=bool(self.unread()))
        for layer in self.image.layers:
            tree.apply(self.layers.get(layer.digest, ()))
        return tree


def components(tree: Tree) -> tuple[Component, ...]:
    """The backends, repository agents and caches in a tree, by kind and name."""
    return tuple(
        _component(tree, kind, name)
        for kind in KINDS
        for name in tree.children(f"{HOME}/{kind}")
        if _is_component(tree.get(f"{HOME}/{kind}/{name}"))
    )


def _is_component(entry: Entry | None) -> bool:
    # NVIDIA's folders of backends hold nothing but folders; a loose file there belongs to nobody and stays.
    return entry is not None and entry.kind in (DIRECTORY, SYMLINK)


def _component(tree: Tree, kind: str, name: str) -> Component:
    folder = f"{HOME}/{kind}/{name}"
    entries = list(tree.walk(folder))
    return Component(
        kind=kind,
        name=name,
        size=sum(entry.size for entry in entries),
        files=sum(entry.kind != DIRECTORY for entry in entries),
        needs=("python",) if kind == "backends" and _runs_in_python(tree, folder, name) else (),
    )


def _runs_in_python(tree: Tree, folder: str, name: str) -> bool:
    """Triton runs a backend folder with a model.py and no library through the python backend.

    Source: core, backend_manager.cc and model_repository_manager.cc (python-based backends, 23.11 and later).
    """
    return join(folder, "model.py") in tree and join(folder, f"libtriton_{name}.so") not in tree


def encode(entries: Sequence[Entry]) -> bytes:
    """Entries as gzip JSON lines, always the same bytes for the same entries."""
    lines = (json.dumps([*entry[:9], [[name, value.hex()] for name, value in entry.xattrs]]) for entry in entries)
    return gzip.compress("\n".join(lines).encode(), 6, mtime=0)


def decode(data: bytes) -> tuple[Entry, ...]:
    """The entries that `encode` wrote. Raises `Corrupt`."""
    try:
        rows = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        return tuple(_entry(row) for row in rows)
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise Corrupt(f"an inventory in the cache cannot be read: {error}", hint="tricompose cache clear") from error


def _entry(row: Sequence[Any]) -> Entry:
    path, kind, mode, uid, gid, size, mtime, link, (major, minor), xattrs = row
    numbers = (mode, uid, gid, size, mtime, major, minor)
    if not all(isinstance(text, str) for text in (path, kind, link)) or not all(type(one) is int for one in numbers):
        raise ValueError("an entry of another shape")
    pairs = tuple((str(name), bytes.fromhex(value)) for name, value in xattrs)
    return Entry(path, kind, mode, uid, gid, size, mtime, link, (major, minor), pairs)
