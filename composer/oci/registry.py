"""Images in a registry: `docker://host/repository`. Source: the OCI distribution specification, 1.1.

Downloads go on where they broke off, uploads too where the registry keeps what it has; no blob is kept on disk.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests

from composer.errors import Corrupt, Denied, NotFound, TricomposeError, Unplannable, Unreachable
from composer.events import Emit, ignore
from composer.oci.copy import transfer
from composer.oci.credentials import Credentials
from composer.oci.gates import Gates
from composer.oci.image import (
    EMPTY_JSON,
    INDEXES,
    MANIFESTS,
    OCI_EMPTY,
    OCI_INDEX,
    Descriptor,
    Manifest,
    is_digest,
    parse_manifest,
    sha256,
)
from composer.oci.journal import Journal
from composer.oci.names import Reference, within
from composer.oci.patience import PATIENCE, Interrupted, Patience
from composer.oci.referrers import cosign_tags, entered, entry_of, fallback_tag, listed, subject_of
from composer.oci.store import Store, verified
from composer.oci.tokens import Scopes
from composer.oci.upload import Manners, Upload, present
from composer.oci.wire import Wire, discard
from composer.words import natural

_ACCEPT: Final = ", ".join((*MANIFESTS, *INDEXES))
_LARGEST_MANIFEST: Final = 4 << 20

_GUESSES: Final = 3
"""Repositories that are asked for a blob which they held when we last saw it."""

_PAGES: Final = 50
"""Pages of a list that are read: a registry that goes on for ever is not followed."""

_UNKNOWN: Final = (400, 403, 404, 405, 406, 501)
"""How registries answer who do not know the referrers API."""


class RegistryStore:
    """One repository of a registry, as a source, a sink and a target. May be used by several threads."""

    def __init__(
        self,
        reference: Reference,
        *,
        session: requests.Session,
        credentials: Credentials,
        insecure: frozenset[str] = frozenset(),
        emit: Emit = ignore,
        patience: float = PATIENCE,
        gates: Gates | None = None,
        journal: Journal | None = None,
        mount_from: tuple[str, ...] = (),
    ) -> None:
        self.label = f"docker://{reference.place}"
        self.host = reference.host
        self.repository = within(reference.host, reference.repository)
        self._wire = Wire(
            host=self.host,
            repository=self.repository,
            session=session,
            credentials=credentials,
            insecure=insecure,
            emit=emit,
            patience=patience,
            gates=gates or Gates(),
        )
        self._pull: Scopes = (f"repository:{self.repository}:pull",)
        self._push: Scopes = (f"repository:{self.repository}:pull,push",)
        self._resolved: dict[str, Descriptor] = {}
        self._uploads: dict[str, Upload] = {}
        self._manners = Manners()
        self._journal = journal
        self._mount_from = mount_from
        self._offered: set[str] = set()
        self._lock = threading.Lock()

    def resolve(self, name: str) -> Descriptor:
        """The manifest or index that a tag or a digest names: asked for once, then remembered."""
        if name not in self._resolved:
            self._resolved[name] = self._wire.persist(lambda: self._look_up(name))
        return self._resolved[name]

    def tags(self) -> tuple[str, ...]:
        """Every tag of the repository, sorted. Raises `NotFound`, `Denied`, `Unreachable`."""
        return tuple(sorted(self._wire.persist(self._tags)))

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest or index. Fetched once more where they are not what their digest says."""
        try:
            raw = self._wire.persist(lambda: self._fetch_manifest(descriptor))
        except Corrupt:
            raw = self._wire.persist(lambda: self._fetch_manifest(descriptor))
        self._learn(raw, descriptor.media_type)
        return raw

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        return self._wire.persist(lambda: present(self._wire, self.repository, descriptor, self._pull))

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob, going on after each cut as long as bytes come."""
        return verified(self._pieces(descriptor, 0), descriptor, origin=self.label)

    def read_from(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        """The blob from a place on. The caller, who has what comes before it, verifies the whole."""
        return self._pieces(descriptor, place)

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Upload a blob. Bytes that the registry kept of an upload that was cut are not sent again."""
        if descriptor.urls:
            raise Unplannable(
                f"layer {descriptor.digest} may not be pushed: its media type says that it stays where it is kept",
                hint="use an image without foreign layers (Windows images have them)",
            )
        try:
            self._upload(descriptor).send(content)
        finally:
            self._uploads.pop(descriptor.digest, None)
        self._remember(descriptor)

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob over from another repository of this registry: from `source`, or wherever it may be."""
        if descriptor.urls:
            return False
        near = isinstance(source, RegistryStore) and source.host == self.host and source.repository != self.repository
        if near and isinstance(source, RegistryStore) and self._mount(descriptor, source.repository):
            return True
        return any(self._mount(descriptor, repository) for repository in self._elsewhere(descriptor))

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """The manifests whose subject is `descriptor`; those of one type only, if one is named.

        Registries leave types and annotations out of their lists, or put others in: the manifests themselves are asked.
        """
        listed_there = self._wire.persist(lambda: self._ask_for_referrers(descriptor.digest))
        entries = self._noted_referrers(descriptor.digest) if listed_there is None else listed_there
        if artifact_type is None:
            return entries
        told = (entry_of(parse_manifest(self.manifest(entry), entry.media_type)) for entry in entries)
        return tuple(entry for entry in told if entry.artifact_type == artifact_type)

    def attached(self, descriptor: Descriptor) -> Mapping[str, Descriptor]:
        """The tags that belong to `descriptor` by their names, as cosign gives them, and what each names."""
        found = {tag: self._find(tag) for tag in cosign_tags(descriptor.digest)}
        return {tag: entry for tag, entry in found.items() if entry}

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Push a manifest or index, and see that it is there. Raises `Corrupt` where it is not what was pushed.

        One with a subject is entered into the list of its subject's referrers, where the registry does not do that.
        """
        descriptor = self._put(raw, media_type, name or sha256(raw))
        if name and name != descriptor.digest:
            self._confirm(name, descriptor)
            self._resolved[name] = descriptor
        self._learn(raw, media_type)
        return descriptor

    def holds(self, root: Descriptor, name: str) -> bool:
        """Whether a tag means `root` here already: a registry takes no manifest before what it names."""
        try:
            found = self._find(name or "latest")
        except (Denied, NotFound):
            return False
        return found is not None and found.digest == root.digest

    def prepare(self) -> None:
        """Begin an upload and drop it. Raises `Denied`, `Unreachable`, `NotFound`."""
        probe = Upload(self._wire, self.repository, Descriptor.of(EMPTY_JSON, OCI_EMPTY), self._manners)
        try:
            probe.open()
        finally:
            probe.cancel()

    def receive(self, source: Store, root: Descriptor, name: str, *, emit: Emit, jobs: int) -> Descriptor:
        """Take an image or index with all it names."""
        return transfer(source, root, self, name, emit=emit, jobs=jobs)

    def close(self) -> None:
        """Stop trying, and tell the registry to forget uploads that were begun and not finished, if they are small."""
        self._wire.close()
        with self._lock:
            uploads, self._uploads = list(self._uploads.values()), {}
        for upload in uploads:
            upload.leave()

    def _put(self, raw: bytes, media_type: str, name: str) -> Descriptor:
        descriptor = Descriptor.of(raw, media_type)
        response = self._wire.persist(
            lambda: self._wire.attempt(
                "PUT",
                f"{self.repository}/manifests/{name}",
                scopes=self._push,
                what=f"the manifest {self.repository}:{name}",
                accept=(200, 201, 202),
                headers={"Content-Type": media_type},
                body=lambda: raw,
            )
        )
        stored = response.headers.get("Docker-Content-Digest", descriptor.digest)
        if stored != descriptor.digest:
            raise Corrupt(f"{self.host} stored {stored} where {descriptor.digest} was pushed")
        subject = subject_of(raw)
        if subject and not self._lists(subject, response):
            self._enter(subject, raw, media_type)
        return descriptor

    def _lists(self, subject: str, response: requests.Response) -> bool:
        """Whether the registry keeps a list of referrers: by what it says, as it must, and by what it does."""
        if "OCI-Subject" not in response.headers:
            return False
        return self._wire.persist(lambda: self._ask_for_referrers(subject)) is not None

    def _confirm(self, name: str, descriptor: Descriptor) -> None:
        """See that a tag means what was just pushed. Those who may push and not pull are believed."""
        try:
            found = self._wire.persist(lambda: self._look_up(name))
        except Denied:
            return
        except NotFound:
            raise Corrupt(f"{self.host} took {self.repository}:{name}, and does not have it") from None
        if found.digest != descriptor.digest:
            raise Corrupt(
                f"{self.host} has {found.digest} as {self.repository}:{name}, where {descriptor.digest} was pushed",
                hint="somebody else pushed that tag at the same time: push again, or under another tag",
            )

    def _mount(self, descriptor: Descriptor, repository: str) -> bool:
        if not self._upload(descriptor).mount(repository):
            if self._journal:
                self._journal.unlearn(self.host, repository, descriptor.digest)
            return False
        self._uploads.pop(descriptor.digest, None)
        self._remember(descriptor)
        return True

    def _elsewhere(self, descriptor: Descriptor) -> Iterator[str]:
        """Other repositories here that may hold a blob: once for each blob. Those of the user's are looked at first."""
        with self._lock:
            if descriptor.digest in self._offered:
                return
            self._offered.add(descriptor.digest)
        for repository in self._mount_from:
            if repository != self.repository and self._is_in(repository, descriptor):
                yield repository
        seen = self._journal.holders(self.host, descriptor.digest) if self._journal else ()
        yield from [repository for repository in seen if repository != self.repository][:_GUESSES]

    def _is_in(self, repository: str, descriptor: Descriptor) -> bool:
        scopes = (f"repository:{repository}:pull",)
        try:
            return self._wire.persist(lambda: present(self._wire, repository, descriptor, scopes))
        except (Denied, NotFound, Unreachable):
            return False

    def _remember(self, *blobs: Descriptor) -> None:
        if self._journal:
            self._journal.learn(self.host, self.repository, (blob.digest for blob in blobs if not blob.urls))

    def _learn(self, raw: bytes, media_type: str) -> None:
        """A manifest that is here names blobs that are here."""
        if self._journal and media_type in MANIFESTS:
            with contextlib.suppress(Corrupt):
                parsed = parse_manifest(raw, media_type)
                if isinstance(parsed, Manifest):
                    self._remember(parsed.config, *parsed.layers)

    def _ask_for_referrers(self, digest: str) -> tuple[Descriptor, ...] | None:
        """The referrers that the registry lists itself; None where it does not know how to."""
        path = f"{self.repository}/referrers/{digest}"
        found: list[Descriptor] = []
        for _ in range(_PAGES):
            response = self._wire.attempt(
                "GET",
                path,
                scopes=self._pull,
                what=f"the referrers of {self.repository}@{digest}",
                accept=(200, *_UNKNOWN),
                headers={"Accept": OCI_INDEX},
                stream=True,
            )
            if response.status_code != 200 or not response.headers.get("Content-Type", "").startswith(OCI_INDEX):
                discard(response)
                return None
            found += listed(self._wire.whole(response, _LARGEST_MANIFEST), self.host)
            following = self._next_page(response)
            if not following:
                break
            path = following
        return tuple(found)

    def _noted_referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """The referrers in the list that clients keep, under a tag, for registries that keep none."""
        entry = self._find(fallback_tag(digest))
        return listed(self.manifest(entry), self.label) if entry else ()

    def _enter(self, subject: str, raw: bytes, media_type: str) -> None:
        """Enter a manifest into the list that clients keep of the referrers of its subject.

        Two who do so at once may overwrite each other: so it is looked at once more.
        """
        tag, entry = fallback_tag(subject), entry_of(parse_manifest(raw, media_type))
        for _ in range(3):
            fresh = entered(self._noted_referrers(subject), entry)
            if fresh is None:
                return
            self._put(fresh, OCI_INDEX, tag)

    def _find(self, tag: str) -> Descriptor | None:
        """What a tag means now, if it means anything."""
        response = self._wire.persist(lambda: self._ask("HEAD", tag, (200, 404, 405)))
        if response.status_code == 404:
            return None
        return self._wire.persist(lambda: self._described(tag, response))

    def _look_up(self, name: str) -> Descriptor:
        return self._described(name, self._ask_for_manifest("HEAD", name))

    def _described(self, name: str, response: requests.Response) -> Descriptor:
        """What a `HEAD` says of a manifest, or where it says too little, the manifest itself."""
        digest = response.headers.get("Docker-Content-Digest", "")
        size = natural(response.headers.get("Content-Length", ""))
        if size is None or not is_digest(digest):
            response = self._ask_for_manifest("GET", name)
            raw = self._wire.whole(response, _LARGEST_MANIFEST)
            digest, size = sha256(raw), len(raw)
        if ":" in name and digest != name:
            raise Corrupt(f"{self.host} answered with {digest} where {name} was asked for")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def _ask_for_manifest(self, method: str, name: str) -> requests.Response:
        response = self._ask(method, name, (200, 404) if method == "GET" else (200, 404, 405))
        if response.status_code == 404:
            discard(response)
            raise NotFound(f"{self.host} has no image {self.repository}:{name}", hint=self._likely(name))
        return response

    def _ask(self, method: str, name: str, accept: tuple[int, ...]) -> requests.Response:
        return self._wire.attempt(
            method,
            f"{self.repository}/manifests/{name}",
            scopes=self._pull,
            what=f"the manifest {self.repository}:{name}",
            accept=accept,
            headers={"Accept": _ACCEPT},
            stream=method == "GET",
        )

    def _likely(self, name: str) -> str:
        """The tag that was probably meant, or how to look where there is none. A list that is refused is no error."""
        try:
            tags = self._wire.persist(self._tags)
        except TricomposeError:
            tags = []
        near = difflib.get_close_matches(name, tags, n=1, cutoff=0.0)
        if near:
            return f"{self.label}:{near[0]}"
        return f"skopeo list-tags {self.label}   (is the repository's name right?)"

    def _tags(self) -> list[str]:
        path, found = f"{self.repository}/tags/list", list[str]()
        for _ in range(_PAGES):
            response = self._wire.attempt(
                "GET", path, scopes=self._pull, what=f"the tags of {self.repository}", stream=True
            )
            try:
                page = json.loads(self._wire.whole(response, _LARGEST_MANIFEST))["tags"] or ()
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            found += [str(tag) for tag in page]
            following = self._next_page(response)
            if not following:
                break
            path = following
        return found

    def _next_page(self, response: requests.Response) -> str | None:
        """Where a list goes on, if it does. Another registry is not asked: who we are is meant for this one."""
        following = response.links.get("next", {}).get("url")
        if not following:
            return None
        url = urljoin(response.url, following)
        return url if urlsplit(url).netloc == urlsplit(response.url).netloc else None

    def _fetch_manifest(self, descriptor: Descriptor) -> bytes:
        response = self._ask_for_manifest("GET", descriptor.digest)
        return b"".join(verified(self._wire.pieces(response), descriptor, origin=self.label))

    def _pieces(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        patience, doubted = self._wire.patience(), False
        while place < descriptor.size:
            before = place
            try:
                for piece in self._read_on(descriptor, place, patience, sure=doubted):
                    yield piece
                    place += len(piece)
                    patience.gained(len(piece))
            except _OtherSize as cut:
                doubted = True
                patience.wait(cut)
            except Interrupted as cut:
                patience.wait(cut)
            else:
                if place == before:
                    raise self._short(descriptor, place)

    def _read_on(self, descriptor: Descriptor, place: int, patience: Patience, *, sure: bool) -> Iterator[bytes]:
        """What follows the first `place` bytes of the blob, up to where the connection breaks.

        An answer of another size is not read: asking again is cheaper. One that is `sure` to be shorter may be gone on
        with all the same.
        """
        response = self._wire.attempt(
            "GET",
            f"{self.repository}/blobs/{descriptor.digest}",
            scopes=self._pull,
            what=f"blob {descriptor.digest} of {self.repository}",
            accept=(200, 206, 416),
            headers={"Range": f"bytes={place}-{descriptor.size - 1}"} if place else {},
            stream=True,
        )
        if response.status_code == 416:
            discard(response)
            raise self._short(descriptor, place)
        offered = _whole_size(response)
        if offered is not None and offered != descriptor.size and not (sure and offered < descriptor.size):
            discard(response)
            said = f"{self.host} offers {offered} bytes as {descriptor.digest}, which has {descriptor.size}"
            raise Corrupt(said) if sure else _OtherSize(Unreachable(said))
        passed = place - self._start(response, place)
        for piece in self._wire.pieces(response):
            if passed >= len(piece):
                passed -= len(piece)
                patience.moved()
            else:
                yield piece[passed:] if passed else piece
                passed = 0

    def _start(self, response: requests.Response, place: int) -> int:
        """The place in the blob that an answer begins at: 0 where the registry does not know ranges."""
        if response.status_code == 200:
            if place:
                self._wire.note(f"{self.host} cannot continue a download: {place} bytes are fetched once more")
            return 0
        found = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) > place:
            discard(response)
            raise Corrupt(f"{self.host} sent another part of a blob than was asked for")
        return int(found[1])

    def _short(self, descriptor: Descriptor, place: int) -> Corrupt:
        return Corrupt(
            f"{self.label} has only {place} of the {descriptor.size} bytes of {descriptor.digest}",
            hint="the registry's storage lost the rest: push that image again, under another tag",
        )

    def _upload(self, descriptor: Descriptor) -> Upload:
        """The upload of a blob: the one that an attempt to mount it has begun, or a new one."""
        with self._lock:
            fresh = Upload(self._wire, self.repository, descriptor, self._manners, self._journal)
            return self._uploads.setdefault(descriptor.digest, fresh)


class _OtherSize(Interrupted):
    """What was offered as a blob cannot be it."""


def _whole_size(response: requests.Response) -> int | None:
    """The size of the blob that an answer gives all or a part of, as far as it says so."""
    if response.status_code == 206:
        return natural(response.headers.get("Content-Range", "").rpartition("/")[2])
    return natural(response.headers.get("Content-Length", ""))
