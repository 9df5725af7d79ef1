"""What a place for images can do. Pull, push, save and load are all `copy(source, target)`.

A sink is given a way to open a blob rather than its bytes, because an upload that was cut may have to begin again,
and because what is half here already need not come from its first byte: see `from_place`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

from composer.errors import Corrupt
from composer.events import Emit
from composer.oci.image import Descriptor

CHUNK = 1 << 20
"""Bytes are moved in pieces of this size."""


class Store(Protocol):
    """A place that images can be read from. Everything read is verified against its descriptor."""

    @property
    def label(self) -> str:
        """The place in the words of the user, for messages: `docker://host/repository`."""
        ...

    def resolve(self, name: str) -> Descriptor:
        """The manifest or index that a tag or a digest names. Raises `NotFound` with the nearest name."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest or index. Raises `NotFound`, `Corrupt`."""
        ...

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        ...

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in pieces of at most `CHUNK` bytes.

        Raises `NotFound` before the first piece, `Corrupt` at the end at the latest: what has been read before
        the iterator ended normally is not yet to be trusted.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files. Half-made things that this store had begun to write are removed."""
        ...


@runtime_checkable
class Seekable(Protocol):
    """A `Store` that can also begin in the middle of a blob."""

    def read_from(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        """The blob from a place on. The caller, who has what comes before it, verifies the whole."""
        ...


@runtime_checkable
class Compound(Protocol):
    """A `Store` made of several others, which are those that it has asked so far."""

    @property
    def stores(self) -> tuple[Store, ...]:
        """The stores that it is made of."""
        ...


@runtime_checkable
class Doubtful(Protocol):
    """A `Store` whose blobs come from one of several others, of which one may give wrong bytes."""

    def distrust(self, descriptor: Descriptor) -> None:
        """The bytes of a blob were wrong: those who gave them are asked last when it is read again."""
        ...

    def givers(self, descriptor: Descriptor) -> str:
        """Who gave the bytes of a blob that is being read, for messages."""
        ...


@runtime_checkable
class Content(Protocol):
    """A way to open a blob that can also begin in the middle. A plain function will do where that is not needed."""

    def __call__(self) -> Iterator[bytes]:
        """The blob from its first byte, verified."""
        ...

    def at(self, place: int) -> Iterator[bytes]:
        """The blob from a place on, not verified: the sink does that, who has what comes before it."""
        ...

    @property
    def origin(self) -> str:
        """Who gave the bytes, for messages."""
        ...


class Sink(Protocol):
    """A place that takes blobs one by one, then the manifests that name them. It need not be readable."""

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        ...

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Take a blob. It is there once this returns, and not before. Raises `Corrupt`, `NoRoom`, `Denied`.

        `content` gives the blob from its first byte, each time it is called: once, unless an upload was cut. It may be
        a `Content`, which can begin elsewhere too.
        """
        ...

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob without moving bytes, if this place and `source` can. False is never an error."""
        ...

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Take a manifest or index whose blobs are all here; `name` (a tag) makes it visible to others."""
        ...


@runtime_checkable
class Sure(Protocol):
    """A `Sink` that takes no manifest before all that it names is there: who has the manifest has everything."""

    def holds(self, root: Descriptor, name: str) -> bool:
        """Whether `name` means `root` here already."""
        ...


class Target(Protocol):
    """A place that images can be put in."""

    @property
    def label(self) -> str:
        """The place in the words of the user."""
        ...

    def prepare(self) -> None:
        """Raise now what `receive` would end with anyway: no way there, no right to write. Leaves nothing behind."""
        ...

    def receive(self, source: Store, root: Descriptor, name: str, *, emit: Emit, jobs: int) -> Descriptor:
        """Take the image or index `root` from `source` under `name`, all of it or nothing.

        Bytes that are here are not moved again. `jobs` blobs move at once. Returns what `name` now means here.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files, and remove what was not finished."""
        ...


def read_on(store: Store, descriptor: Descriptor, place: int) -> Iterator[bytes]:
    """The blob from a place on, not verified: by what the store can, or else what comes before is read and dropped."""
    if isinstance(store, Seekable):
        return store.read_from(descriptor, place)
    return _dropped(store.read(descriptor), place)


def from_place(content: Callable[[], Iterator[bytes]], place: int) -> Iterator[bytes]:
    """What a sink was given, from a place on. Not verified, wherever it comes from."""
    return content.at(place) if isinstance(content, Content) else _dropped(content(), place)


def origin_of(content: Callable[[], Iterator[bytes]]) -> str:
    """Who gives the bytes, for messages."""
    return content.origin if isinstance(content, Content) else "the source"


def distrust(store: Store, descriptor: Descriptor) -> None:
    """Tell a store that the bytes of a blob were wrong, if that is of use to it."""
    if isinstance(store, Doubtful):
        store.distrust(descriptor)


def givers(store: Store, descriptor: Descriptor) -> str:
    """Who gave the bytes of a blob, for messages."""
    return store.givers(descriptor) if isinstance(store, Doubtful) else store.label


def _dropped(chunks: Iterator[bytes], place: int) -> Iterator[bytes]:
    """What follows the first `place` bytes."""
    for chunk in chunks:
        if place < len(chunk):
            yield chunk[place:] if place else chunk
        place = max(place - len(chunk), 0)


def verified(chunks: Iterable[bytes], descriptor: Descriptor, *, origin: str | Callable[[], str]) -> Iterator[bytes]:
    """Pass `chunks` through while hashing; the end comes only if size and digest are as described.

    Raises `Corrupt` naming `origin`, what was expected and what came.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > descriptor.size:
            break
        digest.update(chunk)
        yield chunk
    require_whole(descriptor, size, digest, origin if isinstance(origin, str) else origin())


def require_whole(descriptor: Descriptor, size: int, digest: hashlib._Hash, origin: str) -> None:
    """Raise `Corrupt`, naming `origin`, unless `size` bytes with this `digest` are what the descriptor says."""
    if size > descriptor.size:
        raise Corrupt(f"{origin} sent more than the {descriptor.size} bytes of {descriptor.digest}")
    if size != descriptor.size:
        raise Corrupt(f"{origin} sent {size} of the {descriptor.size} bytes of {descriptor.digest}")
    if (found := "sha256:" + digest.hexdigest()) != descriptor.digest:
        raise Corrupt(
            f"{origin} sent {found} where {descriptor.digest} was asked for",
            hint="the bytes changed on the way or in the registry's storage: push that image again, under another tag",
        )
