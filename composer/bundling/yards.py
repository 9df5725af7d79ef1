"""The places that a bundle is brought to: a registry, a layout, the cache, a Docker Engine. `opened` has them all.

Blobs move first; what is left of the bundle is checked; then manifests come, and tags after them.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from composer.bundle.artifacts import files_of, write_file
from composer.bundle.document import Item, Need
from composer.bundle.reading import BundleStore
from composer.bundling import kinds
from composer.bundling.having import NAMED
from composer.cache import IMAGE_TAG
from composer.disk import require_room, room
from composer.errors import Corrupt, Denied, NotFound, Unplannable
from composer.events import Warned
from composer.mirroring import Destination, Wanted
from composer.network.routes import Routes
from composer.oci.copy import Contents, Stack, deliver, survey
from composer.oci.image import Descriptor, Manifest
from composer.oci.layout import LayoutStore, blob_path
from composer.oci.names import Reference, is_host, parse_reference
from composer.oci.registry import RegistryStore
from composer.oci.store import Sink, Store
from composer.oci.transports import open_target
from composer.words import count, size
from composer.workplace import Workplace

_SHELVED: Final = re.compile(
    r"models/sha256/[0-9a-f]{64}|models/trees/[0-9a-f]{64}|wheels/sha256/[0-9a-f]{64}/[A-Za-z0-9_.+!-]+\.whl"
)
"""The paths in a cache that a bundle may bring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Where a thing of a bundle is now: its name in there, its kind, the place, its digest."""

    name: str
    kind: str
    place: str
    digest: str


class Yard(ABC):
    """A place that a bundle is brought to."""

    def __init__(self, store: BundleStore, place: Workplace) -> None:
        self.store = store
        self.place = place
        self.left: list[str] = []

    @abstractmethod
    def require(self) -> None:
        """Raise now what `bring` would end with: something is missing that the bundle is built on."""

    @abstractmethod
    def bring(self) -> Iterator[Loaded]:
        """Bring everything."""

    def rules(self) -> Routes | None:
        """How what was brought is found there by its old names."""
        return None

    def items(self, *wanted: str) -> list[Item]:
        """The things of these kinds that are whole, or are with what the place has. Others are told, and left."""
        found = [item for item in self.store.bundle.items if item.kind in wanted]
        for item in found:
            if item.lacks and item.name not in self.left:
                self.left.append(item.name)
                message = (
                    f"{item.name} is left out: {count(len(item.lacks), 'layer')} of it that no build reads are not here"
                )
                self.place.emit(Warned(message=message))
        return [item for item in found if not item.lacks]


def opened(to: str | None, store: BundleStore, place: Workplace, stack: ExitStack) -> Yard:
    """The place that `--to` names; without it the cache. Raises `Unplannable` for others."""
    transport, _, rest = (to or "cache:").partition(":")
    if transport == "cache":
        return _Cache(store, place)
    if transport == "docker":
        return _Registry(store, place, Destination.parse(to or ""), stack)
    if transport == "oci":
        return _Layout(store, place, Path(rest))
    if transport == "docker-daemon":
        return _Engine(store, place)
    hint = "--to docker://HOST/PREFIX, oci:DIR, docker-daemon:   (without it: the cache)"
    raise Unplannable(f"a bundle cannot be loaded to {to}", hint=hint)


def _refused(place: str, needs: Sequence[Need]) -> NotFound:
    """The error that names all that is missing."""
    names = ", ".join(f"{one.digest} ({size(one.size)})" for one in needs)
    items = ", ".join(dict.fromkeys(name for one in needs for name in one.items))
    lacking = f"{count(len(needs), 'blob')}, {size(sum(one.size for one in needs))}"
    told = f"{place} lacks {lacking}, that {items} build on: {names}"
    return NotFound(told, hint="load what was there before, or make the bundle anew, without --since")


def manifest_of(store: Store, item: Item) -> Manifest:
    """The manifest of an artifact. Raises `Corrupt` where it is an index."""
    found = survey(store, item.root).root
    if not isinstance(found, Manifest):
        raise Corrupt(f"the bundle has an index as {item.name}, where files should be", hint="do not trust its maker")
    return found


class Held:
    """A sink that takes blobs, and keeps manifests and tags back until everything was seen to be sound."""

    def __init__(self, sink: Sink, kept: list[Callable[[], Descriptor]], mount: Callable[[Descriptor], bool]) -> None:
        self._sink = sink
        self._kept = kept
        self._mount = mount

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there."""
        return self._sink.has(descriptor)

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob over from where this run has brought it, or by what the place knows itself."""
        return self._mount(descriptor) or self._sink.mount(descriptor, source)

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Take a blob."""
        self._sink.write(descriptor, content)

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Remember to publish it."""
        self._kept.append(lambda: self._sink.publish(raw, media_type, name or None))
        return Descriptor.of(raw, media_type)


# -- a registry ---------------------------------------------------------------------------------------------------


class _Registry(Yard):
    """Images below a prefix of a registry, called as `mirror` calls them."""

    def __init__(self, store: BundleStore, place: Workplace, to: Destination, stack: ExitStack) -> None:
        super().__init__(store, place)
        self._to = to
        self._stack = stack
        self._stores: dict[str, RegistryStore] = {}
        self._brought: dict[str, RegistryStore] = {}
        self._images = self.items(*kinds.IMAGES)

    def require(self) -> None:
        """Look for every blob that the bundle needs, in the repositories where it was seen or is to go."""
        missing = []
        for need in self.store.bundle.needs:
            users = [item for item in self._images if item.name in need.items]
            if users and not self._find(need, users):
                missing.append(need)
        if missing:
            raise _refused(str(self._to), missing)
        if self._images:
            self._open(self._target(self._images[0])).prepare()

    def _find(self, need: Need, users: Sequence[Item]) -> bool:
        blob = Descriptor(media_type="", digest=need.digest, size=need.size)
        stores = [self._open(self._target(item)) for item in users]
        there = next((store for store in stores if store.has(blob)), None)
        for reference in () if there else self._seen(need):
            # A repository of others that we may not look into is as good as none.
            with suppress(Denied):
                store = self._open(reference)
                there = there or (store if store.has(blob) else None)
        if there:
            self._brought[need.digest] = there
        return there is not None

    def _seen(self, need: Need) -> Iterator[Reference]:
        """The repositories of this registry that may have a blob: as an inventory says, or as an earlier bundle did."""
        for where in need.at:
            if where.startswith(NAMED):
                yield self._called(where.removeprefix(NAMED))
            elif where.startswith("docker://") and (seen := parse_reference(where)).host == self._to.host:
                yield seen

    def bring(self) -> Iterator[Loaded]:
        """All blobs of all images; then what is left of the bundle is checked; then manifests, and tags after them."""
        kept: list[Callable[[], Descriptor]] = []
        made = []
        for item in self._images:
            target = self._target(item)
            sink = self._open(target)
            held = Held(sink, kept, lambda blob, sink=sink: self._taken(blob, sink))  # type: ignore[misc]
            contents = survey(self.store, item.root)
            source: Store = Stack(self.store, *dict.fromkeys(self._brought.values()))
            name = "" if item.name.endswith(f"@{item.digest}") else target.tag or "latest"
            deliver(contents, source, held, name, emit=self.place.emit, jobs=self.place.jobs)
            self._brought |= {blob.digest: self._brought.get(blob.digest, sink) for blob in contents.blobs}
            called = str(target if name else target.at(item.digest))
            made.append(Loaded(name=item.name, kind=item.kind, place=called, digest=item.digest))
        self.store.check_rest()
        for publish in kept:
            publish()
        yield from made

    def _taken(self, blob: Descriptor, sink: RegistryStore) -> bool:
        there = self._brought.get(blob.digest)
        return there is not None and there is not sink and sink.mount(blob, there)

    def _target(self, item: Item) -> Reference:
        if item.source:
            return self._to.target(parse_reference(item.source))
        return parse_reference(f"docker://{self._to.place(item.name)}")

    def _called(self, name: str) -> Reference:
        """Where an image of an earlier bundle went, by its name there: a host in it tells that it came from one."""
        head, slash, _ = name.partition("/")
        if slash and is_host(head):
            return self._to.target(parse_reference(f"docker://{name}"))
        return parse_reference(f"docker://{self._to.place(name)}")

    def _open(self, reference: Reference) -> RegistryStore:
        if reference.place not in self._stores:
            opened = open_target(replace(reference, tag="latest", digest=None), self.place.access)
            assert isinstance(opened, RegistryStore)
            self._stack.callback(opened.close)
            self._stores[reference.place] = opened
        return self._stores[reference.place]

    def rules(self) -> Routes | None:
        """Where images of other registries are found."""
        origins = [parse_reference(item.source) for item in self._images if item.source]
        wanted = [Wanted(reference=one, place=self.place) for one in origins if one.transport == "docker"]
        return self._to.rules(wanted) if wanted else None


# -- a layout, and the cache --------------------------------------------------------------------------------------


class _Layout(Yard):
    """Images in an OCI layout, tagged with their full names."""

    def __init__(self, store: BundleStore, place: Workplace, folder: Path) -> None:
        super().__init__(store, place)
        self._sink = LayoutStore(folder)
        self._images = self.items(*kinds.IMAGES)

    def require(self) -> None:
        """What is needed must be in the layout, and there must be room for the rest."""
        names = {item.name for item in self._images}
        needs = [one for one in self.store.bundle.needs if names.intersection(one.items)]
        require_blobs(self._sink, needs)
        self._sink = LayoutStore.ensure(self._sink.path)
        _require_room(self._sink, self.store, names)

    def bring(self) -> Iterator[Loaded]:
        """Blobs, then manifests and tags."""
        kept: list[Callable[[], Descriptor]] = []
        for item in self._images:
            held = Held(self._sink, kept, lambda blob: False)
            contents = survey(self.store, item.root)
            deliver(contents, self.store, held, item.name, emit=self.place.emit, jobs=self.place.jobs)
        self.store.check_rest()
        for publish in kept:
            publish()
        for item in self._images:
            place = f"oci:{self._sink.path}@{item.digest}"
            yield Loaded(name=item.name, kind=item.kind, place=place, digest=item.digest)


class _Cache(Yard):
    """Everything, where builds look for it: blobs by digest, models and wheels on their shelves."""

    def __init__(self, store: BundleStore, place: Workplace) -> None:
        super().__init__(store, place)
        self._sink = LayoutStore(place.cache)

    def require(self) -> None:
        """What is needed must be in the cache, and there must be room for the rest."""
        require_blobs(self._sink, self.store.bundle.needs)
        self._sink = LayoutStore.ensure(self._sink.path)
        _require_room(self._sink, self.store, {item.name for item in self.store.bundle.items})

    def bring(self) -> Iterator[Loaded]:
        """Blobs and manifests of all, whole or not; at last what makes them found: tags, and files on shelves."""
        kept: list[Callable[[], Descriptor]] = []
        for item in self.store.bundle.items:
            contents = present(survey(self.store, item.root), item)
            held = Held(self._sink, kept, lambda blob: False)
            deliver(contents, self.store, held, _cache_tag(item), emit=self.place.emit, jobs=self.place.jobs)
        self.store.check_rest()
        for publish in kept:
            publish()
        for item in self.store.bundle.items:
            if item.kind == kinds.SHELF:
                self._shelve(item)
            place = f"oci:{self._sink.path}@{item.digest}"
            yield Loaded(name=item.name, kind=item.kind, place=place, digest=item.digest)

    def _shelve(self, item: Item) -> None:
        for path, blob in files_of(manifest_of(self.store, item)).items():
            if not _SHELVED.fullmatch(path) or not _says(path, blob.digest):
                raise Corrupt(f"the bundle has a file {path!r}, for which there is no place in a cache")
            if not (self._sink.path / path).exists():
                _link(self._sink, blob, self._sink.path / path)


def _says(path: str, digest: str) -> bool:
    """Whether a path of a shelf is the one of that digest."""
    return digest.removeprefix("sha256:") in path.split("/")


def _link(cache: LayoutStore, blob: Descriptor, place: Path) -> None:
    """Put a blob of a cache on one of its shelves: the same file, if the file system can."""
    with room(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cache.path / blob_path(blob.digest), place)
    except FileExistsError:
        return
    except OSError:
        write_file(place, blob, cache)
    # As files on shelves have it: an image that is made of one has it too.
    place.chmod(0o444)


def _cache_tag(item: Item) -> str:
    """What makes an image kept: the tag that builds give those that have no other place. Others get none."""
    return f"{IMAGE_TAG}{item.digest.removeprefix('sha256:')}" if item.kind == kinds.COMPOSED else ""


def present(contents: Contents, item: Item) -> Contents:
    """The contents without the blobs that are not in the bundle on purpose."""
    return replace(contents, blobs=tuple(blob for blob in contents.blobs if blob.digest not in item.lacks))


def require_blobs(store: Store, needs: Sequence[Need]) -> None:
    """Raise `NotFound` with all that a store should have and has not."""
    missing = [one for one in needs if not store.has(Descriptor(media_type="", digest=one.digest, size=one.size))]
    if missing:
        raise _refused(store.label, missing)


def _require_room(sink: LayoutStore, store: BundleStore, names: set[str]) -> None:
    """Raise `NoRoom` before anything is written."""
    wanted = {digest for name in names for digest in store.bundle.contents.get(name, ())}
    blobs = (Descriptor(media_type="", digest=one.digest, size=one.size) for one in store.bundle.stored())
    require_room(sink.path, sum(blob.size for blob in blobs if blob.digest in wanted and not sink.has(blob)))


# -- a Docker Engine ----------------------------------------------------------------------------------------------


class _Engine(Yard):
    """Images that were composed, in a Docker Engine."""

    def __init__(self, store: BundleStore, place: Workplace) -> None:
        super().__init__(store, place)
        self._images = self.items(kinds.COMPOSED)

    def require(self) -> None:
        """An engine cannot be asked for single layers: all must be in the bundle."""
        names = {item.name for item in self._images}
        if needs := [one for one in self.store.bundle.needs if names.intersection(one.items)]:
            raise _refused("the Docker Engine", needs)
        if not self._images:
            raise NotFound("the bundle has no composed image", hint="--to docker://HOST/PREFIX, or oci:DIR")

    def bring(self) -> Iterator[Loaded]:
        """An engine takes images one by one, so everything is checked before."""
        self.store.check_rest()
        for item in self._images:
            reference = parse_reference(f"docker-daemon:{item.name}")
            target = open_target(reference, self.place.access)
            try:
                tag = reference.tag or ""
                target.receive(self.store, item.root, tag, emit=self.place.emit, jobs=self.place.jobs)
            finally:
                target.close()
            yield Loaded(name=item.name, kind=item.kind, place=str(reference), digest=item.digest)
