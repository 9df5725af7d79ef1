"""One image in several places: its registry's mirrors in order, and then the registry itself.

What a name means is asked once, of the first place that knows; from then on only digests count, so that it does not
matter who gives the bytes. A blob that breaks off at one place goes on at the next, in the middle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unreachable
from composer.events import Emit, Logged
from composer.oci.copy import parts
from composer.oci.image import Descriptor
from composer.oci.names import Reference
from composer.oci.store import Store, read_on, verified

T = TypeVar("T")

HASTE: Final = 10.0
"""Seconds without any gain after which a place is left, as long as there is another to ask."""

_FAULTS: Final = (NotFound, Denied, Unreachable, Corrupt)


class Lost:
    """The hosts that were given up in this session while there were others to ask: nobody asks them again."""

    def __init__(self) -> None:
        self._hosts: dict[str, Unreachable] = {}

    def add(self, host: str, why: Unreachable) -> None:
        """Give a host up."""
        self._hosts[host] = why

    def why(self, host: str) -> Unreachable | None:
        """What was wrong with it, if it was given up."""
        return self._hosts.get(host)


class Place:
    """One of the places. Nobody is asked before something is wanted of it."""

    def __init__(self, reference: Reference, opened: Callable[[], Store]) -> None:
        self.reference = reference
        self._opened = opened
        self._store: Store | None = None
        self._lock = threading.Lock()

    @property
    def store(self) -> Store:
        """The store, opened at the first call."""
        with self._lock:
            if self._store is None:
                self._store = self._opened()
            return self._store

    @property
    def asked(self) -> Store | None:
        """The store, if it was opened."""
        return self._store


class Mirrors:
    """A `Store` over the places of one image, the best first. May be used by several threads.

    `label` is the image's own place, whoever gives the bytes.
    """

    def __init__(self, origin: Reference, places: Sequence[Place], *, lost: Lost, emit: Emit) -> None:
        self.label = f"docker://{origin.place}"
        self._origin = origin
        self._places = list(places)
        self._lost = lost
        self._emit = emit
        self._resolved: dict[str, Descriptor] = {}
        self._closed = False
        self._lacking: set[Place] = set()
        self._gave: dict[str, set[Place]] = {}
        self._doubted: dict[str, set[Place]] = {}

    @property
    def stores(self) -> tuple[Store, ...]:
        """The stores of the places that were asked so far."""
        return tuple(place.asked for place in self._places if place.asked)

    @property
    def found(self) -> Reference:
        """Where the image is: the place that would be asked first now."""
        return self._order("")[0].reference

    def resolve(self, name: str) -> Descriptor:
        """The manifest or index that a name means, by the first place that knows it: asked once, then remembered."""
        if name not in self._resolved:
            self._resolved[name] = self._first(lambda store: store.resolve(name), name, lacking=True)
        return self._resolved[name]

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest or index, from the first place that has them."""
        return self._first(lambda store: store.manifest(descriptor), descriptor.digest)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is at one of the places, whole."""
        return self._first(lambda store: _present(store, descriptor), descriptor.digest, absent=False)

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob in pieces, verified. Whoever gave the bytes of a corrupt one is asked last when it is read again."""
        try:
            yield from verified(self.read_from(descriptor, 0), descriptor, origin=lambda: self.givers(descriptor))
        except Corrupt:
            self.distrust(descriptor)
            raise

    def read_from(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        """The blob from a place on, each of the places going on where the one before it broke off."""
        failed: list[tuple[Place, TricomposeError]] = []
        for one in self._order(descriptor.digest):
            try:
                for piece in read_on(one.store, descriptor, place):
                    self._gave.setdefault(descriptor.digest, set()).add(one)
                    place += len(piece)
                    yield piece
            except _FAULTS as error:
                self._note(one, error)
                failed.append((one, error))
            else:
                return
        raise self._none(descriptor.digest, failed)

    def distrust(self, descriptor: Descriptor) -> None:
        """The bytes of a blob were wrong: those who gave them are asked last when it is read again."""
        self._doubted.setdefault(descriptor.digest, set()).update(self._gave.pop(descriptor.digest, ()))

    def givers(self, descriptor: Descriptor) -> str:
        """Who gave the bytes of a blob that is being read, for messages."""
        return " and ".join(sorted(_label(place) for place in self._gave.get(descriptor.digest, ()))) or self.label

    def close(self) -> None:
        """Close what was opened. Nobody else is asked."""
        self._closed = True
        for store in self.stores:
            store.close()

    def _order(self, digest: str) -> list[Place]:
        """Whom to ask: those who never failed, then those who lack something, last those whose bytes were wrong.

        Hosts that were given up are left out, unless nobody else is there: then their errors are due.
        """
        doubted = self._doubted.get(digest, set())
        alive = [place for place in self._places if not self._lost.why(place.reference.host)]
        return sorted(alive or self._places, key=lambda place: (place in doubted, place in self._lacking))

    def _first(self, ask: Callable[[Store], T], what: str, *, lacking: bool = False, absent: T | None = None) -> T:
        failed: list[tuple[Place, TricomposeError]] = []
        for place in self._order(what):
            try:
                return ask(place.store)
            except _FAULTS as error:
                self._note(place, error)
                failed.append((place, error))
                if lacking:
                    self._lacking.add(place)
        if absent is not None and all(isinstance(error, NotFound) for _, error in failed):
            return absent
        raise self._none(what, failed)

    def _note(self, place: Place, error: TricomposeError) -> None:
        if self._closed:
            raise error
        if isinstance(error, Unreachable) and len(self._places) > 1:
            self._lost.add(place.reference.host, error)
        if place is not self._places[-1]:
            self._emit(Logged(text=f"{error.message}: the next place is asked", source=place.reference.host))

    def _none(self, what: str, failed: Iterable[tuple[Place, TricomposeError]]) -> TricomposeError:
        """That nobody could: all who were asked and why it failed, as the kind of error that says most."""
        told = dict(failed)
        for place in self._places:
            if place not in told and (why := self._lost.why(place.reference.host)):
                told[place] = why
        ordered = [(place, told[place]) for place in self._places if place in told]
        main = next((error for _, error in reversed(ordered) if not isinstance(error, Unreachable)), ordered[-1][1])
        if len(ordered) == 1:
            return main
        words = "; ".join(f"{_label(place)}: {error.message}" for place, error in ordered)
        return type(main)(f"none of {len(ordered)} places gives {what} of {self.label}: {words}", hint=main.hint)


def found_at(store: Store, reference: Reference) -> Reference:
    """Where the image `reference` was found: at one of its mirrors, or where it says itself."""
    return next((part.found.at(reference.name) for part in parts(store) if isinstance(part, Mirrors)), reference)


def _present(store: Store, descriptor: Descriptor) -> bool:
    if not store.has(descriptor):
        raise NotFound(f"{store.label} has no blob {descriptor.digest}")
    return True


def _label(place: Place) -> str:
    return f"docker://{place.reference.place}"
