"""The tar rewriter: one layer in, any number of layers out, in one pass and in constant memory.

`cut` streams a layer and gives every entry to the layer of its component, as `component_of` says from its path.
Each output layer is applied alone by container runtimes, so it carries every folder on the way to its entries,
with the folder's own metadata, exactly once and before what is in it; it never links to another layer.

Most layers are *regular*: folders stand before their content, no path comes twice, hard links point back to a file
of the same component. These are cut as they stream by. What is not regular shows only later in the stream (a path
that comes again, a link from another component), so such a layer is read twice: `script` decides from its entries
what to do with each, and the second pass obeys. For a regular layer both ways give the same bytes.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol

from composer.errors import Corrupt
from composer.oci.compression import BLOCK as DEFLATE_BLOCK
from composer.oci.compression import deflater
from composer.oci.tar import AUFS, BLOCK, DIRECTORY, END, FILE, LINK, OPAQUE, Entry, ancestors, header, read_tar
from composer.oci.tree import Tree, hidden_by, is_whiteout

ComponentOf = Callable[[str], str]
"""From a canonical path to the name of the component that it belongs to."""

_QUEUE: Final = 2


class Incoming(Protocol):
    """A blob being written, that exists only once committed."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""
        ...

    def commit(self, digest: str, size: int) -> None:
        """Make the blob exist under its digest."""
        ...


Create = Callable[[], AbstractContextManager[Incoming]]
"""Begins a blob, which is gone again at the end of the context unless it was committed: `LayoutStore.incoming`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A gzip layer that was written: its digest, its size and that of its tar in bytes, and its diff ID."""

    digest: str
    size: int
    diff_id: str
    tar_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One output layer: the `number`th (from 0) of its component."""

    component: str
    number: int
    blob: Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How to cut: which component a path belongs to, which components to write, and where to begin a new part.

    A part ends before the file that would bring its content past `max_size` bytes.
    """

    component_of: ComponentOf
    wanted: Callable[[str], bool]
    max_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one pass over a layer gave: all its entries in order; the parts, or why there are none yet."""

    entries: Sequence[Entry]
    parts: Sequence[Part]
    irregular: str | None = None


class LayerWriter:
    """Takes tar bytes in pieces of any size and writes one gzip blob, hashing and compressing in a thread of its own.

    The compressor is fed whole blocks of one size, so the bytes do not depend on how the writer was fed.
    """

    def __init__(self, out: Incoming) -> None:
        self._out = out
        self._pending = bytearray()
        self._deflate = deflater()
        self._tar, self._blob = hashlib.sha256(), hashlib.sha256()
        self._size = self._tar_size = 0
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append tar bytes. Raises what the writing of earlier ones raised."""
        self._pending += data
        while len(self._pending) >= DEFLATE_BLOCK:
            block = bytes(memoryview(self._pending)[:DEFLATE_BLOCK])
            del self._pending[:DEFLATE_BLOCK]
            self._hand_over(block)

    def _hand_over(self, block: bytes) -> None:
        if self._failure:
            raise self._failure
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._blocks.put(block)

    def _work(self) -> None:
        while (block := self._blocks.get()) is not None:
            if self._failure is None:
                try:
                    self._digest(block)
                except BaseException as failure:  # noqa: BLE001 - handed to the thread that writes
                    self._failure = failure

    def _digest(self, block: bytes) -> None:
        self._tar.update(block)
        self._tar_size += len(block)
        self._emit(self._deflate.compress(block))

    def _emit(self, data: bytes) -> None:
        self._blob.update(data)
        self._size += len(data)
        self._out.write(data)

    def _join(self) -> None:
        if self._thread:
            self._blocks.put(None)
            self._thread.join()
            self._thread = None

    def finish(self) -> Blob:
        """End the tar and the stream, and commit the blob."""
        self.write(END)
        self._join()
        if self._failure:
            raise self._failure
        if self._pending:
            self._digest(bytes(self._pending))
        self._emit(self._deflate.flush())
        blob = Blob(
            digest="sha256:" + self._blob.hexdigest(),
            size=self._size,
            diff_id="sha256:" + self._tar.hexdigest(),
            tar_size=self._tar_size,
        )
        self._out.commit(blob.digest, blob.size)
        return blob

    def abandon(self) -> None:
        """Stop writing, for the file to be taken away. After `finish` this does nothing."""
        self._join()


@dataclass(slots=True, eq=False)
class _OpenPart:
    writer: LayerWriter
    content: int = 0
    folders: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Write:
    """Put `entry` in the layer of `component`, with the content that goes by if it is a file."""

    component: str
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What to do with each entry of an irregular layer, by its number, and every folder's metadata beforehand."""

    writes: Mapping[int, Sequence[Write]]
    folders: Mapping[str, Entry]


class _Parts:
    """The output layers while they are open. They all stay open, so that a link finds its target's layer."""

    def __init__(self, begin: Callable[[], Incoming], max_size: int, folders: Mapping[str, Entry]) -> None:
        self._begin = begin
        self._max_size = max_size
        self._folders = folders
        self._open: dict[str, list[_OpenPart]] = {}
        self._homes: dict[str, _OpenPart] = {}

    def put(self, component: str, entry: Entry) -> LayerWriter | None:
        """Write an entry's header; the writer that wants its content, if it has any."""
        part = self._part(component, entry)
        if entry.kind == DIRECTORY and entry.path in part.folders:
            return None
        for folder in ancestors(entry.path):
            if folder not in part.folders:
                part.folders.add(folder)
                part.writer.write(header(self._folders[folder]))
        if entry.kind == DIRECTORY:
            part.folders.add(entry.path)
        elif not is_whiteout(entry):
            self._homes[entry.path] = part
        part.writer.write(header(entry))
        part.content += entry.size
        return part.writer if entry.size else None

    def _part(self, component: str, entry: Entry) -> _OpenPart:
        if entry.kind == LINK:
            return self._homes[entry.link]
        parts = self._open.setdefault(component, [])
        if is_whiteout(entry) and parts:
            # It hides what lies below all parts, and must not hide what an earlier part brings.
            return parts[0]
        if not parts or (parts[-1].content and parts[-1].content + entry.size > self._max_size):
            parts.append(_OpenPart(LayerWriter(self._begin())))
        return parts[-1]

    def finish(self) -> tuple[Part, ...]:
        return tuple(
            Part(component=component, number=number, blob=part.writer.finish())
            for component, parts in sorted(self._open.items())
            for number, part in enumerate(parts)
        )

    def abandon(self) -> None:
        for parts in self._open.values():
            for part in parts:
                part.writer.abandon()


class _Regularity:
    """Whether a layer can be cut as it streams by: looks at its entries one after the other."""

    def __init__(self, of: ComponentOf) -> None:
        self._of = of
        self._components: dict[str, str | None] = {}
        self.folders: dict[str, Entry] = {}

    def flaw(self, entry: Entry) -> str | None:
        """Why this entry makes the layer irregular, if it does."""
        component = component_of(entry, self._of)
        if entry.path in self._components:
            return f"{entry.path!r} comes twice"
        if entry.parent and entry.parent not in self.folders:
            return f"the folder of {entry.path!r} has no entry before it"
        if entry.kind == LINK and (component is None or self._components.get(entry.link) != component):
            return f"{entry.path!r} is a hard link out of its component"
        # A whiteout is no file that a link could point to.
        self._components[entry.path] = None if is_whiteout(entry) else component
        if entry.kind == DIRECTORY:
            self.folders[entry.path] = entry
        return None


def irregularity(entries: Iterable[Entry], of: ComponentOf) -> str | None:
    """Why a layer needs a script to be cut, in words; None for a regular one."""
    regularity = _Regularity(of)
    return next((flaw for entry in entries if (flaw := regularity.flaw(entry))), None)


class _Online:
    """Cuts a regular layer as it streams by, and notices if it is not regular."""

    def __init__(self, how: Cut, begin: Callable[[], Incoming], promising: Callable[[str], bool]) -> None:
        self._how = how
        self._promising = promising
        self._waiting: list[Entry] | None = []
        self._regularity = _Regularity(how.component_of)
        self.parts = _Parts(begin, how.max_size, self._regularity.folders)
        self.irregular: str | None = None

    def put(self, number: int, entry: Entry) -> Sequence[LayerWriter]:
        if self.irregular is not None:
            return ()
        self.irregular = self._regularity.flaw(entry) or self._refusal(entry)
        if self.irregular is not None:
            self.parts.abandon()
            return ()
        if self._waiting is not None:
            self._waiting.append(entry)
            return self._start() if entry.kind != DIRECTORY else ()
        return self._write(entry)

    def _refusal(self, entry: Entry) -> str | None:
        if self._waiting is None or entry.kind == DIRECTORY or self._promising(entry.path):
            return None
        return "it does not look as if it will have to be cut"

    def _start(self) -> Sequence[LayerWriter]:
        held, self._waiting = self._waiting or (), None
        writers: Sequence[LayerWriter] = ()
        for entry in held:
            writers = self._write(entry)
        return writers

    def _write(self, entry: Entry) -> Sequence[LayerWriter]:
        component = component_of(entry, self._how.component_of)
        if component is None or not self._how.wanted(component):
            return ()
        writer = self.parts.put(component, entry)
        return (writer,) if writer else ()

    def finish(self) -> tuple[Part, ...]:
        if self.irregular is not None:
            return ()
        self._start()
        return self.parts.finish()


class _Scripted:
    """Cuts as a script says."""

    def __init__(self, how: Cut, script: Script, begin: Callable[[], Incoming]) -> None:
        self._script = script
        self.parts = _Parts(begin, how.max_size, script.folders)
        self.irregular: str | None = None

    def put(self, number: int, entry: Entry) -> Sequence[LayerWriter]:
        written = [self.parts.put(write.component, write.entry) for write in self._script.writes.get(number, ())]
        return [writer for writer in written if writer]

    def finish(self) -> tuple[Part, ...]:
        return self.parts.finish()


def component_of(entry: Entry, of: ComponentOf) -> str | None:
    """The component of an entry; a whiteout's is that of what it hides. None for what AUFS left behind."""
    if AUFS in entry.path and entry.name != OPAQUE:
        return None
    if not is_whiteout(entry):
        return of(entry.path)
    path = hidden_by(entry)
    return None if path is None else of(path)


def loses(entries: Sequence[Entry], paths: Iterable[str], how: Cut) -> bool:
    """Whether a layer holds something unwanted, links to it, or comes by way of it.

    `paths` are where its entries are, as `Tree.apply` says: an entry's own path may lead there through an unwanted
    symbolic link. Hiding something unwanted does no harm.
    """
    pairs = list(zip(entries, paths, strict=True))
    placed = (path for entry, path in pairs if not is_whiteout(entry))
    spelled = (entry.path for entry, path in pairs if not is_whiteout(entry) or path != entry.path)
    linked = (entry.link for entry in entries if entry.kind == LINK)
    return any(not how.wanted(how.component_of(path)) for some in (placed, spelled, linked) for path in some)


def scan(chunks: Iterable[bytes], *, origin: str) -> tuple[Entry, ...]:
    """The entries of a layer's tar, without their content."""
    return tuple(item for item in read_tar(chunks, origin=origin) if isinstance(item, Entry))


def cut(
    chunks: Iterable[bytes],
    how: Cut,
    *,
    origin: str,
    create: Create,
    script: Script | None = None,
    promising: Callable[[str], bool] = lambda path: True,
) -> Outcome:
    """Cut a layer's tar into parts, written through `create`. Nothing is committed unless all of it was read well.

    Without a script an irregular layer gives its entries and no parts: make a script from them and cut again.
    `promising` is asked of the path of the first entry that is no folder; if it says no, the entries are all that
    is wanted.
    Raises `Corrupt` naming `origin`.
    """
    entries: list[Entry] = []
    with ExitStack() as undo:

        def begin() -> Incoming:
            return undo.enter_context(create())

        cutter = _Scripted(how, script, begin) if script else _Online(how, begin, promising)
        try:
            _stream(chunks, cutter, entries, origin)
            parts = cutter.finish()
        finally:
            cutter.parts.abandon()
    return Outcome(entries=entries, parts=parts, irregular=cutter.irregular)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """Something new for a layer: its entry, and its content if it is a file."""

    entry: Entry
    content: Callable[[], Iterator[bytes]] | None = None


def write(
    added: Iterable[Added], *, component: str, max_size: int, folders: Mapping[str, Entry], create: Create
) -> tuple[Part, ...]:
    """Write new entries as layers. `folders` has what is above them; raises `Corrupt` if content changes size."""
    with ExitStack() as undo:
        parts = _Parts(lambda: undo.enter_context(create()), max_size, folders)
        try:
            for one in added:
                writer = parts.put(component, one.entry)
                if writer and one.content:
                    _pour(one, writer)
            return parts.finish()
        finally:
            parts.abandon()


def _pour(one: Added, writer: LayerWriter) -> None:
    size = 0
    for chunk in one.content() if one.content else ():
        writer.write(chunk)
        size += len(chunk)
    if size != one.entry.size:
        raise Corrupt(f"{one.entry.path} changed while it was read", hint="run the build again when it is at rest")
    writer.write(bytes(-size % BLOCK))


def _stream(chunks: Iterable[bytes], cutter: _Online | _Scripted, entries: list[Entry], origin: str) -> None:
    writers: Sequence[LayerWriter] = ()
    padding = b""
    for item in read_tar(chunks, origin=origin):
        if not isinstance(item, Entry):
            for writer in writers:
                writer.write(item)
            continue
        for writer in writers:
            writer.write(padding)
        writers = cutter.put(len(entries), item)
        padding = bytes(-item.size % BLOCK)
        entries.append(item)
    for writer in writers:
        writer.write(padding)


def script(entries: Sequence[Entry], how: Cut, lower: Tree | None) -> Script:
    """What to do with each entry of an irregular layer, so that its parts together unpack to what it unpacks to.

    `lower` is the tree of the layers below. Raises `NeedsLower` when it is None and would have been asked,
    `Corrupt` for a hard link to a file outside the layer, which runtimes cannot unpack either.
    """
    return _Simulation(entries, how, lower).script()


@dataclass(slots=True)
class _Own:
    """A path that the layer brings: the number of its entry, and of the entry that its content comes from."""

    number: int
    entry: Entry
    inode: int


class _Simulation:
    """Unpacks the entries of one layer in mind: what survives, at which path, with whose content."""

    def __init__(self, entries: Sequence[Entry], how: Cut, lower: Tree | None) -> None:
        self._how = how
        self._entries = entries
        self._own: dict[str, _Own] = {}
        self._marks: list[tuple[int, Entry]] = []
        self._interrupted: set[str] = set()
        self._tree = Tree(partial=True) if lower is None else lower.copy()
        self._tree.begin_layer()
        for number, entry in enumerate(entries):
            if is_whiteout(entry):
                self._marks.append((number, entry._replace(path=self._tree.hide(entry))))
            else:
                self._unpack(number, entry)

    def _unpack(self, number: int, entry: Entry) -> None:
        entry = entry._replace(path=self._tree.resolve(entry.path))
        inode = number
        if entry.kind == LINK:
            entry, inode = self._link(entry)
        old = self._tree.get(entry.path)
        if old and not (entry.kind == DIRECTORY and old.kind == DIRECTORY):
            for gone in list(self._tree.walk(entry.path)):
                self._own.pop(gone.path, None)
        if entry.kind != DIRECTORY:
            self._interrupted.add(entry.path)
        for folder in self._tree.missing_folders(entry.path):
            self._own[folder.path] = _Own(number, folder, number)
        self._own[entry.path] = _Own(number, entry, inode)
        self._tree.put(entry)

    def _link(self, entry: Entry) -> tuple[Entry, int]:
        link = self._tree.resolve(entry.link)
        target = self._own.get(link)
        if target is None or target.entry.kind == DIRECTORY:
            raise Corrupt(
                f"the hard link {entry.path!r} points to {entry.link!r}, which is not in its layer",
                hint="no container runtime can unpack that layer: build the upstream image again",
            )
        return entry._replace(link=link), target.inode

    def script(self) -> Script:
        names = self._joined()
        writes: dict[int, list[Write]] = {}
        for number, write in (*self._survivors(names), *self._whiteouts(names)):
            writes.setdefault(number, []).append(write)
        return Script(writes=writes, folders=self._folders(writes))

    def _survivors(self, names: Mapping[str, str]) -> Iterator[tuple[int, Write]]:
        """What is left of the layer, each at the number of the entry that its content goes by with."""
        holders: dict[tuple[str, int], str] = {}
        for own in sorted(self._own.values(), key=lambda own: (own.inode, own.number)):
            component = component_of(own.entry, self._how.component_of)
            if component is None or not self._how.wanted(component):
                continue
            name = names.get(component, component)
            if own.entry.kind == DIRECTORY:
                yield own.number, Write(name, own.entry)
                continue
            holder = holders.setdefault((name, own.inode), own.entry.path)
            yield own.inode if holder == own.entry.path else own.number, Write(name, self._final(own, holder))

    def _whiteouts(self, names: Mapping[str, str]) -> Iterator[tuple[int, Write]]:
        """What the layer hides, each path once and only in folders that there are in the end."""
        marks = self._marks + [
            # It was a file for a while, so nothing is left in it of the folder below.
            (own.number, own.entry._replace(path=f"{own.entry.path}/{OPAQUE}", kind=FILE, xattrs=()))
            for own in self._own.values()
            if own.entry.kind == DIRECTORY and own.entry.path in self._interrupted
        ]
        hidden: set[str] = set()
        for number, mark in marks:
            component = component_of(mark, self._how.component_of)
            if component is None or not self._how.wanted(component) or mark.path in hidden:
                continue
            if not mark.parent or self._is_folder(mark.parent):
                hidden.add(mark.path)
                yield number, Write(names.get(component, component), mark)

    def _is_folder(self, path: str) -> bool:
        entry = self._tree.look(path)
        return entry is not None and entry.kind == DIRECTORY

    def _final(self, own: _Own, holder: str) -> Entry:
        """The first path of a file brings its content; the others in the same layer link to it."""
        if holder == own.entry.path:
            return self._entries[own.inode]._replace(path=holder)
        return own.entry._replace(kind=LINK, link=holder, size=0, xattrs=())

    def _joined(self) -> Mapping[str, str]:
        """Wanted components that share a file by hard links become one, so that they share it in the result too."""
        groups: dict[str, set[str]] = {}
        firsts: dict[int, str] = {}
        for own in self._own.values():
            component = component_of(own.entry, self._how.component_of)
            if component is not None and self._how.wanted(component):
                first = firsts.setdefault(own.inode, component)
                if first != component:
                    union = groups.get(first, {first}) | groups.get(component, {component})
                    groups.update(dict.fromkeys(union, union))
        return {component: "+".join(sorted(group)) for component, group in groups.items()}

    def _folders(self, writes: Mapping[int, Sequence[Write]]) -> Mapping[str, Entry]:
        """Every folder on the way to what is written, with the metadata that it ends up with."""
        paths = {folder for some in writes.values() for write in some for folder in ancestors(write.entry.path)}
        found = ((path, self._tree.look(path)) for path in paths)
        return {path: entry for path, entry in found if entry}
