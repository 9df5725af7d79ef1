"""The one copy: pull, push, save and load are all `copy(source, target)`. Digests never change on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Final, TypeVar

from composer.errors import Corrupt, NotFound, Unplannable
from composer.events import Emit, Transferred
from composer.oci.image import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    Image,
    Index,
    Manifest,
    Platform,
    make_index,
    parse_image,
    parse_manifest,
)
from composer.oci.store import CHUNK, Compound, Seekable, Sink, Store, Sure, Target, distrust, givers, read_on

_PATIENCE: Final = 2.0
"""Seconds that a failed or interrupted copy waits for its threads. One that hangs in a read is left behind."""

_GRACE: Final = 2.0
"""Seconds for which blobs that are on their way when another one fails may arrive."""

_SIGNALS: Final = 0.2
"""Seconds after which a signal that woke nobody is heard."""

_DEPTH: Final = 8
"""Indexes within indexes are followed this deep."""

_TITLE: Final = "org.opencontainers.image.title"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that an image or index is made of. `manifests` has children before parents, the root last."""

    manifests: tuple[Manifest | Index, ...]
    blobs: tuple[Descriptor, ...]

    @property
    def root(self) -> Manifest | Index:
        """What was asked for."""
        return self.manifests[-1]


def copy(
    source: Store,
    root_name: str,
    target: Target,
    name: str,
    *,
    platforms: Sequence[Platform] | None,
    emit: Emit,
    jobs: int,
) -> Descriptor:
    """Put what `root_name` means in `source` under `name` in `target`: all of it, or the `platforms` asked for.

    One platform gives its manifest, several a new index of theirs, None the whole as it stands, attestations and
    all. Returns what `name` now means in `target`. Raises what the stores raise, and `NotFound` for a platform.
    """
    root = source.resolve(root_name)
    if platforms is None:
        return target.receive(source, root, name, emit=emit, jobs=jobs)
    chosen, held = choose(source, root, platforms)
    return target.receive(Stack(held, source), chosen, name, emit=emit, jobs=jobs)


def choose(source: Store, root: Descriptor, platforms: Sequence[Platform]) -> tuple[Descriptor, Held]:
    """What `platforms` (at least one) mean within `root`, and the index that had to be made for it, if any."""
    parsed = parse_manifest(source.manifest(root), root.media_type)
    if isinstance(parsed, Manifest):
        _require_platform(source, parsed, platforms)
        return root, Held({})
    entries = tuple(_by_digest(parsed.choose(platform) for platform in platforms).values())
    if len(entries) == 1:
        return entries[0], Held({})
    index = make_index(parsed.media_type, entries)
    return index.descriptor, Held({index.descriptor.digest: index.raw})


def transfer(source: Store, root: Descriptor, sink: Sink, name: str, *, emit: Emit, jobs: int) -> Descriptor:
    """Move `root` and all it names into `sink` under `name`: see `deliver`. If it is there already, that is all."""
    if isinstance(sink, Sure) and sink.holds(root, name):
        emit(moved(root, "skipped", root.size))
        return root
    return deliver(survey(source, root), source, sink, name, emit=emit, jobs=jobs)


def survey(source: Store, root: Descriptor) -> Contents:
    """Read every manifest below `root`. No blob moves. Raises `NotFound`, `Corrupt`."""
    manifests: dict[str, Manifest | Index] = {}
    _collect(source, root, manifests, _DEPTH)
    images = (manifest for manifest in manifests.values() if isinstance(manifest, Manifest))
    blobs = _by_digest(blob for image in images for blob in (image.config, *image.layers))
    return Contents(manifests=tuple(manifests.values()), blobs=tuple(blobs.values()))


def deliver(contents: Contents, source: Store, sink: Sink, name: str, *, emit: Emit, jobs: int) -> Descriptor:
    """Move blobs, `jobs` at once and the largest first, then the manifests, so that none names what is not there.

    The first error ends the copy within seconds and is raised; so does Ctrl-C. A blob that came corrupt is read
    once more before it counts. Returns the descriptor of the root.
    """
    stop = Event()
    blobs = sorted(contents.blobs, key=lambda blob: blob.size, reverse=True)
    moves = [_Move(blob, source, sink, emit, stop) for blob in blobs]
    run_all(moves, jobs=jobs, stop=stop)
    for manifest in contents.manifests[:-1]:
        sink.publish(manifest.raw, manifest.media_type, None)
    return sink.publish(contents.root.raw, contents.root.media_type, name)


def run_all(tasks: Sequence[Callable[[], None]], *, jobs: int, stop: Event) -> None:
    """Call every task, `jobs` at once, each in a thread. The first error sets `stop` and is raised.

    Before that, tasks that are nearly done may come to their end: what has moved is not thrown away. Threads are
    daemons and are given two seconds to see `stop`: neither a hanging read nor the end of the process waits for the
    other. `concurrent.futures` would join them without end.
    """
    waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    failed = Event()
    for task in tasks:
        waiting.put(task)
    crew = [Thread(target=_work, args=(waiting, ended, failed), daemon=True) for _ in range(min(jobs, len(tasks)))]
    try:
        for thread in crew:
            thread.start()
        for _ in tasks:
            if error := _next(ended):
                _join(crew, _GRACE)
                raise error
    finally:
        failed.set()
        stop.set()
        _join(crew, _PATIENCE)


def _join(crew: Sequence[Thread], seconds: float) -> None:
    """Wait for threads, all in all so long."""
    deadline = monotonic() + seconds
    for thread in crew:
        while thread.is_alive() and (left := deadline - monotonic()) > 0:
            thread.join(min(left, _SIGNALS))


def _next(ended: SimpleQueue[BaseException | None]) -> BaseException | None:
    """How the next task ends. Looks up now and then: where the system has another thread take a signal, the main one
    would hear of it only once it is woken, and Ctrl-C would wait for a connection that says nothing.
    """
    while True:
        try:
            return ended.get(timeout=_SIGNALS)
        except Empty:
            continue


def _work(waiting: SimpleQueue[Callable[[], None]], ended: SimpleQueue[BaseException | None], failed: Event) -> None:
    while not failed.is_set():
        try:
            task = waiting.get_nowait()
        except Empty:
            return
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked for it
            ended.put(error)
            failed.set()
        else:
            ended.put(None)


class _Stopped(Exception):
    """Another blob failed, or Ctrl-C was pressed: this one need not be finished."""


class _Move:
    """One blob's way from `source` to `sink`."""

    def __init__(self, blob: Descriptor, source: Store, sink: Sink, emit: Emit, stop: Event) -> None:
        self._blob = blob
        self._source = source
        self._sink = sink
        self._emit = emit
        self._stop = stop
        self._told = -1
        self._resumed = 0

    def __call__(self) -> None:
        if self._sink.has(self._blob):
            self._tell("skipped", self._blob.size)
        elif any(self._sink.mount(self._blob, part) for part in parts(self._source)):
            self._tell("mounted", self._blob.size)
        else:
            self._write()

    def _write(self) -> None:
        store = holder(self._source, self._blob)
        content = _Reopened(store, self._blob, self._watched) if isinstance(store, Seekable) else self._plain(store)
        try:
            self._sink.write(self._blob, content)
        except Corrupt:
            distrust(store, self._blob)
            self._sink.write(self._blob, content)
        self._tell("copied", self._blob.size)

    def _plain(self, store: Store) -> Callable[[], Iterator[bytes]]:
        return lambda: self._watched(store.read(self._blob), 0)

    def _watched(self, chunks: Iterator[bytes], place: int) -> Iterator[bytes]:
        """Pass the blob through from a place on, saying how far it is, until all is to stop."""
        if self._told < 0:
            self._resumed = place
            self._tell("copied", place)
        for chunk in chunks:
            if self._stop.is_set():
                raise _Stopped
            yield chunk
            place += len(chunk)
            self._tell("copied", place)

    def _tell(self, action: str, done: int) -> None:
        """Say how far it is. A blob of which something is moved once more has not gone back for that."""
        if done > self._told:
            self._told = done
            self._emit(moved(self._blob, action, done, self._resumed))


class _Reopened:
    """The `Content` of a blob in a store that can begin in the middle. `watch` passes bytes through from a place on."""

    def __init__(
        self, store: Store, blob: Descriptor, watch: Callable[[Iterator[bytes], int], Iterator[bytes]]
    ) -> None:
        self._store = store
        self._blob = blob
        self._watch = watch

    def __call__(self) -> Iterator[bytes]:
        return self._watch(self._store.read(self._blob), 0)

    def at(self, place: int) -> Iterator[bytes]:
        return self._watch(read_on(self._store, self._blob, place), place)

    @property
    def origin(self) -> str:
        return givers(self._store, self._blob)


def told(chunks: Iterator[bytes], blob: Descriptor, emit: Emit) -> Iterator[bytes]:
    """Pass a blob through, telling `emit` of every piece once it has been taken."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        emit(moved(blob, "copied", done))


def moved(blob: Descriptor, action: str, done: int, resumed: int = 0) -> Transferred:
    """The event that says how far a blob of an image has come."""
    title = blob.annotations.get(_TITLE) or _kind(blob.media_type)
    return Transferred(digest=blob.digest, title=title, action=action, done=done, total=blob.size, resumed=resumed)


def _kind(media_type: str) -> str:
    if media_type in (*MANIFESTS, *INDEXES):
        return "manifest"
    return "config" if "+json" in media_type else "layer"


class Held:
    """A `Store` of a few small things at hand, by digest: a manifest just made, a config."""

    label = "memory"

    def __init__(self, data: Mapping[str, bytes]) -> None:
        self._data = dict(data)

    def resolve(self, name: str) -> Descriptor:
        """Nothing here has a name."""
        raise NotFound(f"{name!r} is not in memory")

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes, if they are here. Raises `NotFound`."""
        if descriptor.digest not in self._data:
            raise NotFound(f"{descriptor.digest} is not in memory")
        return self._data[descriptor.digest]

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the bytes are here."""
        return descriptor.digest in self._data

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes in pieces. Raises `NotFound`."""
        data = self.manifest(descriptor)
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    def close(self) -> None:
        """Nothing is held open."""


class Stack:
    """A `Store` made of several: each is asked in turn, the last one without asking whether it has a blob."""

    def __init__(self, *stores: Store) -> None:
        self.stores = stores

    @property
    def label(self) -> str:
        """The labels of all."""
        return " or ".join(store.label for store in self.stores if not isinstance(store, Held))

    def resolve(self, name: str) -> Descriptor:
        """What the first store that knows `name` says of it. Raises the last one's `NotFound`."""
        return self._first(lambda store: store.resolve(name))

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes from the first store that has them. Raises the last one's `NotFound`."""
        return self._first(lambda store: store.manifest(descriptor))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether one of them has the blob."""
        return any(store.has(descriptor) for store in self.stores)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob from the first store that has it."""
        return self.holder(descriptor).read(descriptor)

    def holder(self, descriptor: Descriptor) -> Store:
        """The first store that has a blob. The last one is not asked."""
        return next((store for store in self.stores[:-1] if store.has(descriptor)), self.stores[-1])

    def close(self) -> None:
        """Close them all."""
        for store in self.stores:
            store.close()

    def _first(self, ask: Callable[[Store], T]) -> T:
        for store in self.stores[:-1]:
            try:
                return ask(store)
            except NotFound:
                continue
        return ask(self.stores[-1])


def holder(source: Store, blob: Descriptor) -> Store:
    """Which of the stores that a source is made of gives a blob."""
    return holder(source.holder(blob), blob) if isinstance(source, Stack) else source


def parts(source: Store) -> tuple[Store, ...]:
    """All stores that a source is, or is made of: those of a `Compound` come after itself."""
    if isinstance(source, Compound):
        return (source, *(part for store in source.stores for part in parts(store)))
    return (source,)


def _collect(source: Store, entry: Descriptor, found: dict[str, Manifest | Index], depth: int) -> None:
    """Add `entry` and all below it to `found`, children first."""
    if entry.digest in found:
        return
    if not depth:
        raise Unplannable(f"{source.label} has indexes within indexes, {_DEPTH} deep", hint="copy one of its images")
    parsed = parse_manifest(source.manifest(entry), entry.media_type)
    if isinstance(parsed, Index):
        for child in parsed.manifests:
            _collect(source, child, found, depth - 1)
    found[entry.digest] = parsed


def _require_platform(source: Store, manifest: Manifest, platforms: Sequence[Platform]) -> None:
    config = b"".join(source.read(manifest.config))
    image: Image = parse_image(manifest, config)
    for platform in platforms:
        if not platform.accepts(image.platform):
            raise NotFound(f"the image is for {image.platform}, not {platform}", hint=f"platforms: [{image.platform}]")


def _by_digest(entries: Iterator[Descriptor]) -> dict[str, Descriptor]:
    unique: dict[str, Descriptor] = {}
    for entry in entries:
        unique.setdefault(entry.digest, entry)
    return unique
