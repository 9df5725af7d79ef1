"""The story of `mirror`: images from their registries into one's own, and the rules by which others find them there.

    PREFIX/<registry, its colon as an underscore>/<repository>:<tag>

is where every image goes. All of them move at once, by one ledger: what several have in common moves once, and is
mounted from then on. An image's tag comes last, after all that it is made of and all that is attached to it: where the
tag is, everything is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Event, Lock, Semaphore
from typing import Final, Literal, Self

from composer.errors import NotFound, Problem, RecipeError, TricomposeError, Unplannable
from composer.events import Emit, Logged, StageFinished, StageStarted, Transferred, Warned
from composer.events import Event as Happening
from composer.lock import images_of, references
from composer.network.routes import Routes
from composer.oci.copy import Contents, Stack, choose, deliver, run_all, survey
from composer.oci.image import Descriptor, Platform
from composer.oci.names import TRANSPORTS, Reference, is_host, parse_reference, spellings, within
from composer.oci.referrers import attached_to, referrers_of
from composer.oci.registry import RegistryStore
from composer.oci.store import Store
from composer.oci.transports import Access, open_source, open_target
from composer.recipe import Recipe
from composer.recipe_yaml import read_yaml
from composer.words import count, short
from composer.workplace import Workplace

Action = Literal["copied", "unchanged", "pending", "absent", "failed"]
"""What became of an image. `pending`: it would be copied, in a dry run. `absent`: it need not exist, and does not."""

_LOCAL: Final = "local"
"""Where images go that come from no registry."""

_AT_ONCE: Final = 4
"""Images that move at once, if the blobs that may do so are not fewer."""

_DEPTH: Final = 3
"""What is attached to an image may have things attached to it in its turn, such as the signature of a list of parts."""

_LISTS: Final = (".txt", ".list", ".lst")


# -- what, and where to -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An image that is to be mirrored, by its name; `digest` is what a lock says that it means.

    `place` is where it was named: how it is reached. One that only follows from a recipe's release is not `needed`.
    """

    reference: Reference
    place: Workplace
    digest: str | None = None
    needed: bool = True

    @property
    def pinned(self) -> Reference:
        """The image itself, by digest where that is known."""
        return replace(self.reference, digest=self.digest) if self.digest else self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A registry, and the path in it that all images are below."""

    host: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read `docker://HOST[/PREFIX]`. Raises `NotFound`, and `Unplannable` for other places than registries."""
        transport, _, rest = text.partition(":")
        if transport in TRANSPORTS and transport != "docker":
            hint = "tricompose bundle create   (for files); or --to docker://registry.example.com/mirror"
            raise Unplannable(f"{text} is no registry, and a mirror is one", hint=hint)
        if transport != "docker":
            parse_reference(text)  # is refused, with what was probably meant
        try:
            known = parse_reference(f"docker:{rest.rstrip('/')}/x")
        except NotFound as error:
            raise NotFound(f"{text!r} names no registry", hint="docker://host[:port]/path/in/lower-case") from error
        return cls(host=known.host, prefix=known.repository.rpartition("/")[0])

    def place(self, *parts: str) -> str:
        """A place below this one."""
        return "/".join(part for part in (self.host, self.prefix, *parts) if part)

    def target(self, reference: Reference) -> Reference:
        """Where an image goes. One that is named by its digest alone gets a tag of it, so that it is not swept away."""
        if reference.transport == "docker-archive" and reference.tag:
            reference = parse_reference(f"docker-daemon:{reference.tag}")
        tag = reference.tag or (f"digest-{short(reference.digest)}" if reference.digest else "latest")
        return parse_reference(f"docker://{self.place(_within(reference))}:{tag}")

    def rules(self, wanted: Sequence[Wanted]) -> Routes:
        """The rules by which those images are found here, by registry."""
        references = [one.reference for one in wanted]
        hosts = dict.fromkeys(spellings(one.host)[0] for one in references if one.transport == "docker")
        insecure = {self.host} if any(self.host in one.place.access.insecure for one in wanted) and hosts else ()
        return Routes(mirrors={host: (self.place(_folder(host)),) for host in hosts}, insecure=frozenset(insecure))

    def authorities(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """The certificates that vouch for this registry, by its name, where any but the system's were given."""
        bundle = wanted[0].place.routes.ca_bundle
        try:
            return {self.host: bundle.read_text("utf-8", "surrogateescape")} if bundle else {}
        except OSError as error:
            raise NotFound(f"no certificates could be read from {bundle}: {error.strerror}", hint=f"ls -l {bundle}") \
                from error  # fmt: skip

    def __str__(self) -> str:
        return f"docker://{self.place()}"


def _folder(host: str) -> str:
    """A registry as a part of a repository's name."""
    if host.startswith("["):
        hint = "give it a name: network: {hosts: {registry.example.com: ADDRESS}}"
        raise Unplannable(f"images of {host} have no name in a mirror: repositories take no brackets", hint=hint)
    return host.lower().replace(":", "_")


def _within(reference: Reference) -> str:
    """The repository of an image below the prefix."""
    if reference.transport == "docker":
        host = spellings(reference.host)[0]
        return f"{_folder(host)}/{within(host, reference.repository)}"
    if reference.transport == "docker-daemon":
        head, slash, rest = reference.place.partition("/")
        return f"{_folder(head)}/{rest}" if slash and is_host(head) else f"{_LOCAL}/{reference.place or 'image'}"
    name = Path(reference.place).name.removesuffix(".tar").lower()
    return f"{_LOCAL}/{re.sub(r'[^a-z0-9]+', '-', name).strip('-') or 'image'}"


def of_recipe(recipe: Recipe, place: Workplace, *, pins: bool) -> Iterator[Wanted]:
    """The images that a recipe names; with `pins` as its lock has them, without the one that was not there then."""
    implied = None if recipe.upstream else references(recipe)[1]
    known = place.ledger.known.images if pins else {}
    for one in images_of(recipe):
        name = str(one.at(one.name))
        pin = known.get(name)
        if pin or name not in known:
            digest = pin.digest if pin else None
            yield Wanted(reference=one, place=place, digest=digest, needed=one != implied)


def is_list(path: Path) -> bool:
    """Whether a file is a list of images, and no recipe: by its suffix, or as YAML with `images:`."""
    if path.suffix in _LISTS:
        return True
    try:
        return bool(re.search(r"^[\"']?images[\"']?\s*:", path.read_text("utf-8"), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def read_list(text: str, path: str) -> tuple[Reference, ...]:
    """The images of a list: a name in each line, `#` begins a comment; or YAML, `images: [...]`.

    A name without a transport is one of a registry. Raises `RecipeError` with the place of every name that is none.
    """
    named = list(_of_yaml(text, path) if re.search(r"^[\"']?images[\"']?\s*:", text, re.MULTILINE) else _of_lines(text))
    problems: list[Problem] = []
    found: list[Reference] = []
    for name, where in named:
        try:
            found.append(parse_reference(name if name.partition(":")[0] in TRANSPORTS else f"docker://{name}"))
        except NotFound as error:
            problems.append(Problem(where=f"{path}:{where}", message=error.message, hint=error.hint))
    if problems:
        raise RecipeError(problems)
    return tuple(dict.fromkeys(found))


def _of_lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if name:
            yield name, f"{number}:{line.index(name) + 1}"


def _of_yaml(text: str, path: str) -> Iterator[tuple[str, str]]:
    document = read_yaml(text, environ={})
    faults = [(fault.message, fault.hint, document.place(fault.path)) for fault in document.faults]
    images = document.data.get("images") if isinstance(document.data, Mapping) else None
    if not faults and (not isinstance(images, tuple) or not all(isinstance(one, str) for one in images)):
        faults = [("images must be a list of names", "images: [nvcr.io/nvidia/tritonserver:24.10-py3]", (1, 1))]
    if faults:
        raise RecipeError(
            [Problem(where=f"{path}:{place[0]}:{place[1]}", message=said, hint=hint) for said, hint, place in faults]
        )
    for index, name in enumerate(images or ()):
        line, column = document.place(("images", index))
        yield name, f"{line}:{column}"


# -- what came of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """What moved, what was taken over within the target, and what was there. In a dry run `moved` is what would."""

    moved: int = 0
    mounted: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What became of one image: `digest` is what its tag means in the mirror now, `previous` what it meant before.

    `attached` counts signatures and the like that came in this run.
    """

    source: Reference
    target: Reference
    action: Action
    digest: str | None = None
    previous: str | None = None
    attached: int = 0
    size: Bytes = Bytes()
    error: TricomposeError | None = None


class Unmirrored(TricomposeError):
    """Some images were not mirrored. It counts as what went wrong with the first of them."""

    def __init__(self, failed: Sequence[Mirrored], total: int) -> None:
        first = failed[0].error
        assert first
        names = ", ".join(str(one.source) for one in failed)
        super().__init__(f"{len(failed)} of {count(total, 'image')} could not be mirrored: {names}", hint=first.hint)
        self.code, self.status = first.code, first.status  # type: ignore[misc]  # of the first, not of a class


def summary(found: Sequence[Mirrored]) -> str:
    """How many images became what: `3 copied, 1 failed`."""
    return ", ".join(f"{number} {action}" for action, number in Counter(one.action for one in found).items())


def brought(wanted: Sequence[Wanted], found: Sequence[Mirrored]) -> list[Wanted]:
    """Those of the images that are in the mirror by now, or would be but for a dry run."""
    there = {one.source for one in found if one.action in ("copied", "unchanged", "pending")}
    return [one for one in wanted if one.reference in there]


def failure(found: Sequence[Mirrored]) -> TricomposeError | None:
    """What to end with: nothing, the one error, or a word of all that failed."""
    failed = [one for one in found if one.error]
    if len(found) == 1 and failed:
        return failed[0].error
    return Unmirrored(failed, len(found)) if failed else None


# -- doing it -----------------------------------------------------------------------------------------------------


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
    """What all images of a run share: the manner, the stores, each opened once, the ledger of blobs in the target."""

    def __init__(self, manner: Manner, *, jobs: int, emit: Emit, several: bool) -> None:
        self.manner = manner
        self.jobs = jobs
        self.emit = emit
        self.several = several
        self.ledger = _Ledger()
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
        with _Shared(target, self.yard) as sink:
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


# -- blobs in common ----------------------------------------------------------------------------------------------


class _Ledger:
    """Which repository of the target has a blob, and who is bringing one. Whoever else wants it waits for that."""

    def __init__(self) -> None:
        self._there: dict[str, RegistryStore] = {}
        self._coming: dict[str, _Shared] = {}
        self._gone: set[_Shared] = set()
        self._changed = Condition()

    def claim(self, digest: str, who: _Shared) -> RegistryStore | None:
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

    def give_up(self, who: _Shared) -> None:
        """What `who` was bringing, and did not, others may bring now."""
        with self._changed:
            self._gone.add(who)
            self._coming = {digest: other for digest, other in self._coming.items() if other is not who}
            self._changed.notify_all()


class _Shared:
    """A repository of the target, for one of several images that move at once. Use as a context manager."""

    def __init__(self, store: RegistryStore, yard: _Yard) -> None:
        self._store = store
        self._ledger = yard.ledger
        self._turns = yard.turns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *trouble: object) -> None:
        self._ledger.give_up(self)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        with self._turns:
            found = self._store.has(descriptor)
        if found:
            self._ledger.arrived(descriptor.digest, self._store)
        return found

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob over from where it is by now, in whatever repository another image has brought it to."""
        there = self._ledger.claim(descriptor.digest, self)
        with self._turns:
            taken = bool(there and self._taken(descriptor, there)) or self._store.mount(descriptor, source)
        if taken:
            self._ledger.arrived(descriptor.digest, self._store)
        return taken

    def _taken(self, descriptor: Descriptor, there: RegistryStore) -> bool:
        return self._store.has(descriptor) if there is self._store else self._store.mount(descriptor, there)

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Take a blob."""
        with self._turns:
            self._store.write(descriptor, content)
        self._ledger.arrived(descriptor.digest, self._store)

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Take a manifest or index."""
        return self._store.publish(raw, media_type, name)
