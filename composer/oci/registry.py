"""Images in a registry: `docker://host/repository`. Source: the OCI distribution specification, 1.1.

Downloads go on where they broke off, uploads too where the registry keeps what it has; nothing is kept on disk.
"""

from __future__ import annotations

import difflib
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Final

import requests

from composer.errors import Corrupt, NotFound, TricomposeError, Unplannable
from composer.events import Emit, ignore
from composer.oci.copy import transfer
from composer.oci.credentials import DOCKER_HUB, Credentials
from composer.oci.image import EMPTY_JSON, INDEXES, MANIFESTS, OCI_EMPTY, Descriptor, sha256
from composer.oci.names import Reference
from composer.oci.patience import Interrupted, Patience
from composer.oci.store import Store, verified
from composer.oci.tokens import Scopes
from composer.oci.upload import Manners, Upload
from composer.oci.wire import Wire, discard

PATIENCE: Final = 120.0
"""Seconds for which something is tried again without any gain."""

_ACCEPT: Final = ", ".join((*MANIFESTS, *INDEXES))
_LARGEST_MANIFEST: Final = 4 << 20


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
    ) -> None:
        self.label = f"docker://{reference.place}"
        self.host = reference.host
        self.repository = _repository(reference)
        self._wire = Wire(
            host=self.host,
            repository=self.repository,
            session=session,
            credentials=credentials,
            insecure=insecure,
            emit=emit,
            patience=patience,
        )
        self._pull: Scopes = (f"repository:{self.repository}:pull",)
        self._push: Scopes = (f"repository:{self.repository}:pull,push",)
        self._resolved: dict[str, Descriptor] = {}
        self._uploads: dict[str, Upload] = {}
        self._manners = Manners()
        self._lock = threading.Lock()

    def resolve(self, name: str) -> Descriptor:
        """The manifest or index that a tag or a digest names: asked for once, then remembered."""
        if name not in self._resolved:
            self._resolved[name] = self._wire.persist(lambda: self._look_up(name))
        return self._resolved[name]

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The raw bytes of a manifest or index. Fetched once more where they are not what their digest says."""
        try:
            return self._wire.persist(lambda: self._fetch_manifest(descriptor))
        except Corrupt:
            return self._wire.persist(lambda: self._fetch_manifest(descriptor))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, whole."""
        response = self._wire.persist(
            lambda: self._wire.attempt(
                "HEAD",
                f"{self.repository}/blobs/{descriptor.digest}",
                scopes=self._pull,
                what=f"blob {descriptor.digest} of {self.repository}",
                accept=(200, 404),
            )
        )
        length = response.headers.get("Content-Length", str(descriptor.size))
        return response.status_code == 200 and length == str(descriptor.size)

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

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Take a blob over from another repository of this registry."""
        if not isinstance(source, RegistryStore) or source.host != self.host or descriptor.urls:
            return False
        if source.repository == self.repository or not self._upload(descriptor).mount(source.repository):
            return False
        self._uploads.pop(descriptor.digest, None)
        return True

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Push a manifest or index. Raises `Corrupt` where the registry made something else of it."""
        descriptor = Descriptor.of(raw, media_type)
        response = self._wire.persist(
            lambda: self._wire.attempt(
                "PUT",
                f"{self.repository}/manifests/{name or descriptor.digest}",
                scopes=self._push,
                what=f"the manifest {self.repository}:{name or descriptor.digest}",
                accept=(200, 201, 202),
                headers={"Content-Type": media_type},
                body=lambda: raw,
            )
        )
        stored = response.headers.get("Docker-Content-Digest", descriptor.digest)
        if stored != descriptor.digest:
            raise Corrupt(f"{self.host} stored {stored} where {descriptor.digest} was pushed")
        if name:
            self._resolved[name] = descriptor
        return descriptor

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
        """Stop trying, and tell the registry to forget uploads that were begun and not finished."""
        self._wire.close()
        with self._lock:
            uploads, self._uploads = list(self._uploads.values()), {}
        for upload in uploads:
            upload.cancel()

    def _look_up(self, name: str) -> Descriptor:
        response = self._ask_for_manifest("HEAD", name)
        digest = response.headers.get("Docker-Content-Digest", "")
        size = response.headers.get("Content-Length", "")
        if not (digest.startswith("sha256:") and size.isdigit()):
            response = self._ask_for_manifest("GET", name)
            raw = self._wire.whole(response, _LARGEST_MANIFEST)
            digest, size = sha256(raw), str(len(raw))
        if ":" in name and digest != name:
            raise Corrupt(f"{self.host} answered with {digest} where {name} was asked for")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        return Descriptor(media_type=media_type, digest=digest, size=int(size))

    def _ask_for_manifest(self, method: str, name: str) -> requests.Response:
        response = self._wire.attempt(
            method,
            f"{self.repository}/manifests/{name}",
            scopes=self._pull,
            what=f"the manifest {self.repository}:{name}",
            accept=(200, 404) if method == "GET" else (200, 404, 405),
            headers={"Accept": _ACCEPT},
            stream=method == "GET",
        )
        if response.status_code == 404:
            discard(response)
            raise NotFound(f"{self.host} has no image {self.repository}:{name}", hint=self._likely(name))
        return response

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
        response = self._wire.attempt(
            "GET", f"{self.repository}/tags/list", scopes=self._pull, what=f"the tags of {self.repository}", stream=True
        )
        try:
            return [str(tag) for tag in json.loads(self._wire.whole(response, _LARGEST_MANIFEST))["tags"] or ()]
        except (ValueError, KeyError, TypeError):
            return []

    def _fetch_manifest(self, descriptor: Descriptor) -> bytes:
        response = self._ask_for_manifest("GET", descriptor.digest)
        return b"".join(verified(self._wire.pieces(response), descriptor, origin=self.label))

    def _pieces(self, descriptor: Descriptor, place: int) -> Iterator[bytes]:
        patience = self._wire.patience()
        while place < descriptor.size:
            before = place
            try:
                for piece in self._read_on(descriptor, place, patience):
                    yield piece
                    place += len(piece)
                    patience.gained()
            except Interrupted as cut:
                patience.wait(cut)
            else:
                if place == before:
                    raise self._short(descriptor, place)

    def _read_on(self, descriptor: Descriptor, place: int, patience: Patience) -> Iterator[bytes]:
        """What follows the first `place` bytes of the blob, up to where the connection breaks."""
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
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) > place:
            discard(response)
            raise Corrupt(f"{self.host} sent another part of a blob than was asked for")
        return int(found[1])

    def _short(self, descriptor: Descriptor, place: int) -> Corrupt:
        return Corrupt(
            f"{self.label} has only {place} of the {descriptor.size} bytes of {descriptor.digest}",
            hint="the registry's storage lost the rest: push that image again",
        )

    def _upload(self, descriptor: Descriptor) -> Upload:
        """The upload of a blob: the one that an attempt to mount it has begun, or a new one."""
        with self._lock:
            fresh = Upload(self._wire, self.repository, descriptor, self._manners)
            return self._uploads.setdefault(descriptor.digest, fresh)


def _repository(reference: Reference) -> str:
    """Docker Hub keeps images of one-part names below `library`."""
    official = reference.host == DOCKER_HUB and "/" not in reference.repository
    return f"library/{reference.repository}" if official else reference.repository
