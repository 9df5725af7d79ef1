"""What a place for images can do. Pull, push, save and load are all `copy(source, target)`.

A sink is given a way to open a blob rather than its bytes, because an upload that was cut may have to begin again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

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


class Sink(Store, Protocol):
    """A place that takes blobs one by one, then the manifests that name them."""

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Take a blob. It is there once this returns, and not before. Raises `Corrupt`, `NoRoom`, `Denied`.

        `content` gives the blob from its first byte, each time it is called: once, unless an upload was cut.
        """
        ...

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob without moving bytes, if this place and `source` can. False is never an error."""
        ...

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Take a manifest or index whose blobs are all here; `name` (a tag) makes it visible to others."""
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


def verified(chunks: Iterable[bytes], descriptor: Descriptor, *, origin: str) -> Iterator[bytes]:
    """Pass `chunks` through while hashing; the end comes only if size and digest are as described.

    Raises `Corrupt` naming `origin`, what was expected and what came.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > descriptor.size:
            raise Corrupt(f"{origin} sent more than the {descriptor.size} bytes of {descriptor.digest}")
        digest.update(chunk)
        yield chunk
    if size != descriptor.size:
        raise Corrupt(f"{origin} sent {size} of the {descriptor.size} bytes of {descriptor.digest}")
    if (found := "sha256:" + digest.hexdigest()) != descriptor.digest:
        raise Corrupt(
            f"{origin} sent {found} where {descriptor.digest} was asked for",
            hint="the bytes changed on the way or in the registry's storage: push that image again",
        )
