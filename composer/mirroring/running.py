"""Images on their way into one's own registry, several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from threading import Event, Lock, Semaphore
from typing import Final

from composer.errors import NotFound, TricomposeError, Unplannable
from composer.events import Emit, Logged, StageFinished, StageStarted, Transferred, Warned
from composer.events import Event as Happening
from composer.mirroring.outcome import Action, Bytes, Mirrored, summary
from composer.mirroring.sharing import Arrivals, Shared
from composer.mirroring.wanted import Destination, Wanted
from composer.oci.copy import Contents, Stack, choose, deliver, run_all, survey
from composer.oci.image import Descriptor, Platform
from composer.oci.names import Reference
from composer.oci.referrers import attached_to, referrers_of
from composer.oci.registry import RegistryStore
from composer.oci.store import Store
from composer.oci.transports import Access, open_source, open_target
from composer.words import count

_AT_ONCE: Final = 4
"""Images that move at once, if the blobs that may do so are not fewer."""

_DEPTH: Final = 3
"""What is attached to an image may have things attached to it in its turn, such as the signature of a list of parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How images are mirrored. `platforms`: these of each, or all, with the index as it is.

    With `watch`, also images whose tag is in the mirror already are looked at for signatures that came later. With
    `dry` nothing is written.
    """

    platforms: Sequence[Platform] | None = None
    watch: bool = False
    dry: bool = False


def mirror(wanted: Sequence[Wanted], to: Destination, manner: Manner, *, jobs: int, emit: Emit) -> tuple[Mirrored, ...]:
    """Put images below a prefix of a registry, several at once, `jobs` blobs at a time. What became of each, in order.

    An image comes whole or not at all, and one that fails does not keep the others: its error is in what is returned.
    """
    wanted = _each_once(wanted, to)
    emit(StageStarted(stage="mirror", detail=f"{count(len(wanted), 'image')} to {to}"))
    found: dict[int, Mirrored] = {}
    with _Yard(manner, jobs=jobs, emit=emit, several=len(wanted) > 1) as yard:
        tasks = [_Task(number, one, to.target(one.reference), yard, found) for number, one in enumerate(wanted)]
        run_all(tasks, jobs=min(jobs, _AT_ONCE), stop=Event())
    emit(StageFinished(stage="mirror", detail=summary(list(found.values()))))
    return tuple(found[number] for number in range(len(wanted)))


def _each_once(wanted: Sequence[Wanted], to: Destination) -> list[Wanted]:
    """Every name once, by its digest if anybody knows that. Raises `Unplannable` for two images of one name."""
    found: dict[Reference, Wanted] = {}
    for one in wanted:
        target = to.target(one.reference)
        other = found.setdefault(target, one)
        if one.reference != other.reference or (one.digest and other.digest and one.digest != other.digest):
            raise Unplannable(f"{other.pinned} and {one.pinned} would both be {target}", hint="mirror one of them")
        found[target] = replace(other, digest=other.digest or one.digest, needed=other.needed or one.needed)
    return list(found.values())


class _Yard:
    """What all images of a run share: the manner, the stores, each opened once, which blobs came."""

    def __init__(self, manner: Manner, *, jobs: int, emit: Emit, several: bool) -> None:
        self.manner = manner
        self.jobs = jobs
        self.emit = emit
        self.several = several
        self.arrivals = Arrivals()
        self.turns = Semaphore(jobs)
        self._stores: dict[str, Store] = {}
        self._missed: set[str] = set()
        self._lock = Lock()
        self._stack = ExitStack()

    def __enter__(self) -> _Yard:
        return self

    def __exit__(self, *trouble: object) -> None:
        self._stack.close()

    def source(self, one: Wanted, target: Reference) -> Store:
        """Where an image is read: not from the very place that it goes to, though rules say that it is there."""
        reference, mirrors = one.reference, one.place.access.mirrors

        def others(found: Reference) -> tuple[Reference, ...]:
            return tuple(place for place in mirrors(found) if place.place != target.place)

        apart = replace(one.place.access, mirrors=others)
        return self._opened(f"from {reference.transport}:{reference.place}", lambda: open_source(reference, apart))

    def target(self, target: Reference, access: Access) -> RegistryStore:
        """Where an image goes."""
        found = self._opened(f"to {target.place}", lambda: _as_registry(target, access))
        assert isinstance(found, RegistryStore)
        return found

    def missing(self, contents: Contents, target: RegistryStore) -> int:
        """The bytes that the target lacks of an image, but for what it lacks of another one that was looked at."""
        lacking = [blob for blob in contents.blobs if not target.has(blob)]
        with self._lock:
            fresh = [blob.size for blob in lacking if blob.digest not in self._missed]
            self._missed.update(blob.digest for blob in lacking)
        return sum(fresh)

    def _opened(self, name: str, opener: Callable[[], Store]) -> Store:
        with self._lock:
            if name not in self._stores:
                self._stores[name] = opener()
                self._stack.callback(self._stores[name].close)
            return self._stores[name]


def _as_registry(target: Reference, access: Access) -> RegistryStore:
    found = open_target(target, access)
    assert isinstance(found, RegistryStore)
    return found


@dataclass(slots=True)
class _Task:
    """One image on its way."""

    number: int
    wanted: Wanted
    to: Reference
    yard: _Yard
    found: dict[int, Mirrored]
    _tally: _Tally = field(init=False)

    def __call__(self) -> None:
        self._tally = _Tally(self.yard.emit)
        try:
            done = self._mirrored()
        except TricomposeError as error:
            done = self._failed(error)
        self.found[self.number] = done
        # That of one image alone is told at the end.
        if done.error and self.yard.several:
            self.yard.emit(Warned(message=f"{self.wanted.reference}: {done.error.message}", hint=done.error.hint))
        else:
            self.yard.emit(Logged(text=f"{done.target} {done.action}", source="mirror"))

    def _failed(self, error: TricomposeError) -> Mirrored:
        return Mirrored(
            source=self.wanted.reference, target=self.to, action="failed", error=error, size=self._tally.size
        )

    def _mirrored(self) -> Mirrored:
        source = self.yard.source(self.wanted, self.to)
        try:
            root = source.resolve(self.wanted.pinned.name)
        except NotFound:
            if self.wanted.needed:
                raise
            return Mirrored(source=self.wanted.reference, target=self.to, action="absent")
        target = self.yard.target(self.to, self.wanted.place.access)
        before = _meaning(target, self.to.tag or "")
        if before != root.digest:
            root, source = self._chosen(source, root)
        made = Mirrored(
            source=self.wanted.reference, target=self.to, action="unchanged", digest=root.digest, previous=before
        )
        return self._bring(source, target, root, made)

    def _bring(self, source: Store, target: RegistryStore, root: Descriptor, made: Mirrored) -> Mirrored:
        """Copy an image if it is not in the target under its tag, and what is attached to it. What came of it."""
        manner, there = self.yard.manner, made.previous == root.digest
        if there and (manner.dry or not manner.watch):
            return made
        # What is in the mirror already is read there: registries count how often one fetches of them.
        contents = survey(target if there else source, root)
        if manner.dry:
            return replace(made, action="pending", size=Bytes(moved=self.yard.missing(contents, target)))
        attached = self._attach(contents, source, target)
        if not there:
            self._move(contents, source, target, self.to.tag or "")
        action: Action = "copied" if attached or not there else "unchanged"
        return replace(made, action=action, attached=attached, size=self._tally.size)

    def _chosen(self, source: Store, root: Descriptor) -> tuple[Descriptor, Store]:
        if self.yard.manner.platforms is None:
            return root, source
        chosen, held = choose(source, root, self.yard.manner.platforms)
        return chosen, Stack(held, source)

    def _move(self, contents: Contents, source: Store, target: RegistryStore, tag: str) -> None:
        with Shared(target, self.yard.arrivals, self.yard.turns) as sink:
            deliver(contents, source, sink, tag, emit=self._tally, jobs=self.yard.jobs)

    def _attach(self, contents: Contents, source: Store, target: RegistryStore) -> int:
        """Bring what is attached to an image's manifests, and to that in its turn. How many things came."""
        came, seen = 0, set[tuple[str, str]]()
        subjects = [one.descriptor for one in contents.manifests]
        for _ in range(_DEPTH):
            found = [thing for subject in subjects for thing in _attached(source, subject) if thing.key not in seen]
            seen.update(thing.key for thing in found)
            subjects = [thing.descriptor for thing in found]
            for thing in found:
                if not _is_attached(thing, target):
                    self._move(survey(source, thing.descriptor), source, target, thing.tag)
                    came += 1
        return came


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    """What is about a manifest: it says so itself, or its tag does."""

    subject: Descriptor
    descriptor: Descriptor
    tag: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.descriptor.digest, self.tag


def _attached(source: Store, subject: Descriptor) -> Iterator[_Thing]:
    """What is about a manifest where it comes from."""
    for one in referrers_of(source, subject):
        yield _Thing(subject=subject, descriptor=one)
    for tag, one in attached_to(source, subject).items():
        yield _Thing(subject=subject, descriptor=one, tag=tag)


def _is_attached(thing: _Thing, target: RegistryStore) -> bool:
    """Whether it is in the target, and found there: one that is there may be missing in a list that we keep."""
    if thing.tag:
        return _meaning(target, thing.tag) == thing.descriptor.digest
    return thing.descriptor.digest in {one.digest for one in target.referrers(thing.subject)}


def _meaning(store: RegistryStore, name: str) -> str | None:
    """The digest of what a name means, or None where it means nothing."""
    try:
        return store.resolve(name).digest
    except NotFound:
        return None


class _Tally:
    """Counts the bytes of an image, and passes on what it is told."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._done: dict[str, dict[str, int]] = {"copied": {}, "mounted": {}, "skipped": {}}

    def __call__(self, event: Happening) -> None:
        if isinstance(event, Transferred) and event.action in self._done:
            self._done[event.action][event.digest] = event.done - event.resumed
        self._emit(event)

    @property
    def size(self) -> Bytes:
        """How much of what there was so far."""
        moved, mounted, skipped = (sum(done.values()) for done in self._done.values())
        return Bytes(moved=moved, mounted=mounted, skipped=skipped)
