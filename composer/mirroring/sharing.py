"""Blobs that several images have in common: each is brought once, and whoever else wants it waits for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Condition, Semaphore
from typing import Self

from composer.oci.image import Descriptor
from composer.oci.registry import RegistryStore
from composer.oci.store import Store


class Arrivals:
    """Which repository of the target has a blob, and who is bringing one. Whoever else wants it waits for that."""

    def __init__(self) -> None:
        self._there: dict[str, RegistryStore] = {}
        self._coming: dict[str, Shared] = {}
        self._gone: set[Shared] = set()
        self._changed = Condition()

    def claim(self, digest: str, who: Shared) -> RegistryStore | None:
        """Where a blob is by now; None where `who` is the one to bring it."""
        with self._changed:
            while self._coming.get(digest, who) is not who:
                self._changed.wait()
            # A thread that a failed image has left behind may still come here: nobody waits for that one.
            if digest not in self._there and who not in self._gone:
                self._coming[digest] = who
            return self._there.get(digest)

    def arrived(self, digest: str, where: RegistryStore) -> None:
        """Say that a blob is there."""
        with self._changed:
            self._there.setdefault(digest, where)
            self._coming.pop(digest, None)
            self._changed.notify_all()

    def give_up(self, who: Shared) -> None:
        """What `who` was bringing, and did not, others may bring now."""
        with self._changed:
            self._gone.add(who)
            self._coming = {digest: other for digest, other in self._coming.items() if other is not who}
            self._changed.notify_all()


class Shared:
    """A repository of the target, for one of several images that move at once. Use as a context manager."""

    def __init__(self, store: RegistryStore, arrivals: Arrivals, turns: Semaphore) -> None:
        self._store = store
        self._arrivals = arrivals
        self._turns = turns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *trouble: object) -> None:
        self._arrivals.give_up(self)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        with self._turns:
            found = self._store.has(descriptor)
        if found:
            self._arrivals.arrived(descriptor.digest, self._store)
        return found

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob over from where it is by now, in whatever repository another image has brought it to."""
        there = self._arrivals.claim(descriptor.digest, self)
        with self._turns:
            taken = bool(there and self._taken(descriptor, there)) or self._store.mount(descriptor, source)
        if taken:
            self._arrivals.arrived(descriptor.digest, self._store)
        return taken

    def _taken(self, descriptor: Descriptor, there: RegistryStore) -> bool:
        return self._store.has(descriptor) if there is self._store else self._store.mount(descriptor, there)

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Take a blob."""
        with self._turns:
            self._store.write(descriptor, content)
        self._arrivals.arrived(descriptor.digest, self._store)

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Take a manifest or index."""
        return self._store.publish(raw, media_type, name)
