"""The merged tree of an image, from the entries of its layers: whiteouts, replacements, links as runtimes see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from composer.errors import Corrupt
from composer.oci.tar import AUFS, DIRECTORY, LINK, OPAQUE, SYMLINK, WHITEOUT, Entry, ancestors

_MAX_HOPS = 255


def is_whiteout(entry: Entry) -> bool:
    """Whether the entry hides something below rather than being something."""
    return entry.name.startswith(WHITEOUT)


def hidden_by(entry: Entry) -> str | None:
    """The path that a whiteout hides, or whose content an opaque marker hides; None for AUFS's own leftovers."""
    name = entry.name
    if name == OPAQUE:
        return entry.parent
    if name.startswith(AUFS):
        return None
    if name == WHITEOUT:
        raise Corrupt(f"the whiteout {entry.path!r} names nothing")
    return join(entry.parent, name[len(WHITEOUT) :])


def join(folder: str, name: str) -> str:
    """The path of `name` in `folder`, where the root is ""."""
    return f"{folder}/{name}" if folder else name


class NeedsLower(Exception):
    """What a path means depends on layers that have not been read."""


class Tree:
    """Paths of an image, built by applying layers from the bottom up.

    A `partial` tree stands on layers that are not known: asking it for what only they can tell raises `NeedsLower`.
    """

    def __init__(self, *, partial: bool = False) -> None:
        self._partial = partial
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, set[str]] = {}
        self._laid: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, path: str) -> Entry | None:
        """What stands at a canonical path."""
        return self._entries.get(path)

    def copy(self) -> Tree:
        """A tree of its own with the same content."""
        twin = Tree(partial=self._partial)
        twin._entries = dict(self._entries)
        twin._children = {path: set(names) for path, names in self._children.items()}
        return twin

    def look(self, path: str) -> Entry | None:
        """What stands at a canonical path, or `NeedsLower` where a layer that was not read may know."""
        if self._partial and path not in self._entries:
            raise NeedsLower(path)
        return self.get(path)

    def children(self, path: str) -> Sequence[str]:
        """The names in a folder, sorted."""
        return sorted(self._children.get(path, ()))

    def walk(self, path: str) -> Iterator[Entry]:
        """Every entry at or under `path`."""
        if entry := self._entries.get(path):
            yield entry
        for name in self.children(path):
            yield from self.walk(join(path, name))

    def apply(self, entries: Sequence[Entry]) -> Sequence[str]:
        """Lay one layer over the tree, and say at which canonical path each entry is, whiteouts too.

        As runtimes do it: in order, so that each path leads through the links that are there by then.
        """
        self.begin_layer()
        return [self.hide(entry) if is_whiteout(entry) else self.put(entry) for entry in entries]

    def begin_layer(self) -> None:
        """What was put until now is below what comes: whiteouts hide it."""
        self._laid = set()

    def hide(self, mark: Entry) -> str:
        """Remove what a whiteout hides of the layers below, and say at which canonical path the whiteout is."""
        if hidden_by(mark) is None:
            return mark.path
        place = mark._replace(path=self.resolve(mark.path))
        path = hidden_by(place) or ""
        if mark.name != OPAQUE:
            self._hide(path)
            return place.path
        for name in list(self._children.get(path, ())):
            self._hide(join(path, name))
        return place.path

    def _hide(self, path: str) -> None:
        if path not in self._laid:
            self._remove(path)
            return
        for name in list(self._children.get(path, ())):
            self._hide(join(path, name))

    def put(self, entry: Entry) -> str:
        """Unpack one entry, and say where: a folder gives a folder its metadata, anything else takes its place."""
        path = self.resolve(entry.path)
        self._note(path)
        old = self._entries.get(path)
        if old and not (entry.kind == DIRECTORY and old.kind == DIRECTORY):
            self._remove(path)
        if path != entry.path:
            entry = entry._replace(path=path)
        for folder in self.missing_folders(path):
            self.put(folder)
        if entry.kind == LINK:
            target = self.get(self.resolve(entry.link))
            if target and target.kind == LINK:
                entry = entry._replace(link=target.link)
        self._entries[path] = entry
        if path:
            self._children.setdefault(entry.parent, set()).add(entry.name)
        return path

    def _note(self, path: str) -> None:
        """Remember that this layer has put something here, and so leads through the folders above."""
        while path not in self._laid:
            self._laid.add(path)
            path = path.rpartition("/")[0]

    def missing_folders(self, path: str) -> Sequence[Entry]:
        """The folders on the way to a canonical path that nobody has described, as container runtimes make them.

        They have the one time that is always the same.
        """
        return [Entry(folder, DIRECTORY, 0o755, 0, 0, 0, 0) for folder in ancestors(path) if folder not in self]

    def _remove(self, path: str) -> None:
        for name in list(self._children.pop(path, ())):
            self._remove(join(path, name))
        if self._entries.pop(path, None):
            folder, _, name = path.rpartition("/")
            self._children.get(folder, set()).discard(name)

    def resolve(self, path: str) -> str:
        """The canonical spelling of `path`: links among its folders followed inside the root, its last part not."""
        folder, slash, name = path.rpartition("/")
        if not slash or self._is_folder(folder):
            return path
        return join(self._follow(folder), name)

    def _is_folder(self, path: str) -> bool:
        """True only for a real folder: as each was put at its canonical path, so are all above it."""
        entry = self._entries.get(path)
        return entry is not None and entry.kind == DIRECTORY

    def _follow(self, folder: str) -> str:
        at, todo, hops = "", folder.split("/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = at.rpartition("/")[0]
                continue
            step = join(at, part)
            entry = self.look(step)
            if entry is None or entry.kind != SYMLINK:
                at = step
                continue
            hops += 1
            if hops > _MAX_HOPS:
                raise Corrupt(f"the links at {folder!r} go round in circles")
            if entry.link.startswith("/"):
                at = ""
            todo += entry.link.split("/")[::-1]
        return at
