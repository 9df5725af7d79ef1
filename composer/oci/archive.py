"""Images in one file: `oci-archive:file.tar:tag` and `docker-archive:file.tar[:name:tag]`.

Both are written as one format, which `docker load`, skopeo, podman and containerd all read: the tar of an OCI layout
that also has Docker's `manifest.json`, whose paths point into `blobs/`. Members stand in the order of the manifests,
without times or owners, so the same image gives the same file. Where each begins is known before the first byte, so
blobs are written in parallel all the same.

Nothing is ever unpacked: members are read by their offsets, and only those that a manifest or `manifest.json` names.

Sources: the OCI image layout; the Docker image specification v1.2; `docker save` of Engine 20.10 and 25.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from composer.disk import begin_file, require_room, require_writable, room, sweep, write_all
from composer.errors import Corrupt, NoRoom, NotFound, Unplannable
from composer.events import Emit
from composer.oci import partials
from composer.oci.copy import Contents, deliver, survey
from composer.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEXES,
    OCI_CONFIG,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
    make_manifest,
    parse_manifest,
)
from composer.oci.layout import INDEX, LAYOUT_VERSION, MARKER, REF_NAME, LayoutReader, blob_path, listed
from composer.oci.names import is_docker_name
from composer.oci.store import CHUNK, Content, Store, from_place, origin_of, require_whole

DOCKER_INDEX: Final = "manifest.json"
CONTAINERD_NAME: Final = "io.containerd.image.name"

BLOCK: Final = tarfile.BLOCKSIZE
"""Bytes that headers of a tar have, and that its files are filled up to."""

_SMALL: Final = 32 << 20
"""A JSON document of an archive larger than this is refused rather than read into memory."""

_BLURRED: Final = 1 << 20
"""Bytes before a hole that may not have been written: no file system has larger blocks."""

_LINKS: Final = 8
_COMPRESSED: Final = {b"\x1f\x8b": "gunzip", b"\x28\xb5": "unzstd", b"\xfd7": "unxz", b"BZ": "bunzip2"}


# -- reading -------------------------------------------------------------------------------------


def open_oci_archive(path: Path) -> LayoutReader:
    """The images of an OCI archive as a `Store`. Raises `NotFound`, `Corrupt`; `Unplannable` for a compressed one."""
    members = Members(path)
    if members.size(INDEX) is None:
        hint = f"docker-archive:{path}" if members.size(DOCKER_INDEX) is not None else "an archive with an index.json"
        raise NotFound(f"{path} is not an OCI archive", hint=hint)
    return LayoutReader(f"oci-archive:{path}", members)


def open_docker_archive(path: Path, *, label: str | None = None) -> LayoutReader:
    """The images of a `docker save` as a `Store` whose tags are their full names. Raises as `open_oci_archive`.

    Where the file has OCI manifests too, those are given as they are. Where it has not (Engine before 25), they are
    made up over the uncompressed layers, whose digests are the config's diff IDs.
    """
    members = Members(path)
    if members.size(DOCKER_INDEX) is None:
        hint = f"oci-archive:{path}" if members.size(INDEX) is not None else "an archive made by docker save"
        raise NotFound(f"{path} is not a Docker archive", hint=hint)
    try:
        items = [_Item.of(item) for item in json.loads(members.small(DOCKER_INDEX))]
        known = _manifests_by_config(members, str(path))
        entries = [_entry(members, item, known) for item in items]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Corrupt(f"{path} has a {DOCKER_INDEX} that Docker did not write: {error}") from error
    named = [_named(entry, name) for item, entry in zip(items, entries, strict=True) for name in _names(item.names)]
    members.add(INDEX, canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named}))
    return LayoutReader(label or f"docker-archive:{path}", members)


class Members:
    """The files of an uncompressed tar by name, read in place, and small ones made up beside them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = _index_of(path)
        self._made: dict[str, bytes] = {}

    def size(self, path: str) -> int | None:
        """The size in bytes of a file, or None where there is none."""
        if path in self._made:
            return len(self._made[path])
        return self._places[path].size if path in self._places else None

    def read(self, path: str) -> Iterator[bytes]:
        """A file in pieces of at most `CHUNK` bytes."""
        if path in self._made:
            yield self._made[path]
            return
        place = self._places[path]
        with self._path.open("rb", buffering=0) as file:
            file.seek(place.offset)
            left = place.size
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    def small(self, path: str) -> bytes:
        """The whole of a JSON document. Raises `Corrupt` where it is missing or no such thing by its size."""
        size = self.size(path)
        if size is None or size > _SMALL:
            raise Corrupt(f"{self._path} has no {path}" if size is None else f"{path} in {self._path} is {size} bytes")
        return b"".join(self.read(path))

    def add(self, path: str, data: bytes) -> None:
        """Make up a file, in place of the one in the tar if there is one."""
        self._made[path] = data

    def alias(self, path: str, other: str) -> None:
        """Let `path` be the file `other`. Raises `KeyError` where there is no `other`."""
        self._places[path] = self._places[other]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in a tar a member's bytes are."""

    offset: int
    size: int


def _index_of(path: Path) -> dict[str, _Place]:
    """Every regular file of a tar, and links to one. The last of a name counts, as tar(1) has it."""
    _require_plain(path)
    places: dict[str, _Place] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in _forward(tar):
                name = posixpath.normpath(member.name)
                if member.isreg():
                    places[name] = _Place(offset=member.offset_data, size=member.size)
                elif member.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise Corrupt(f"{path} is not a whole tar: {error}", hint="copy the file here again") from error
    for name in links:
        if (place := places.get(_follow(name, links))) is not None:
            places[name] = place
    return places


def _require_plain(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except FileNotFoundError as error:
        raise NotFound(f"there is no archive {path}", hint=f"ls -l {path.parent}") from error
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -ld {path}") from error
    if tool := _COMPRESSED.get(head):
        raise Unplannable(f"{path} is compressed, and cannot be read in place", hint=f"{tool} {path}")


def _forward(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members, as long as they come one behind the other: a negative size would lead in a circle."""
    last = -1
    while (member := tar.next()) is not None:
        if member.size < 0 or member.offset <= last:
            raise tarfile.ReadError(f"{member.name!r} has an impossible size")
        last = member.offset
        yield member


def _follow(name: str, links: Mapping[str, str]) -> str:
    for _ in range(_LINKS):
        if name not in links:
            break
        name = links[name]
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """An entry of Docker's `manifest.json`."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> _Item:
        layers = tuple(posixpath.normpath(layer) for layer in item["Layers"] or ())
        return cls(config=posixpath.normpath(item["Config"]), layers=layers, names=tuple(item.get("RepoTags") or ()))


def _names(names: Sequence[str]) -> Sequence[str | None]:
    """What an image may be called: Docker leaves out its own host, skopeo writes it."""
    spelled = {name for full in names for name in (full, full.removeprefix("docker.io/library/"))}
    spelled |= {name.removeprefix("docker.io/") for name in spelled}
    spelled |= {name.removesuffix(":latest") for name in spelled}
    return sorted(spelled) or (None,)


def _named(entry: Descriptor, name: str | None) -> dict[str, Any]:
    return entry.to_json() | ({"annotations": {REF_NAME: name}} if name else {})


def _manifests_by_config(members: Members, label: str) -> dict[str, Descriptor]:
    """The OCI manifests that the archive has, by the path of their configs."""
    if members.size(INDEX) is None:
        return {}
    found: dict[str, Descriptor] = {}
    reader = LayoutReader(label, members)
    pending = list(listed(members.small(INDEX), label))
    while pending:
        entry = pending.pop()
        if not reader.has(entry) or entry.size > _SMALL:
            continue
        parsed = parse_manifest(reader.manifest(entry), entry.media_type)
        if isinstance(parsed, Index):
            pending += parsed.manifests
        else:
            found[blob_path(parsed.config.digest)] = entry
    return found


def _entry(members: Members, item: _Item, known: Mapping[str, Descriptor]) -> Descriptor:
    """The manifest of an image: the archive's own, or one made up."""
    if item.config in known:
        return known[item.config]
    config_raw = members.small(item.config)
    config = Descriptor.of(config_raw, DOCKER_CONFIG)
    diff_ids = json.loads(config_raw)["rootfs"]["diff_ids"]
    layers = [_layer(members, path, diff_id) for path, diff_id in zip(item.layers, diff_ids, strict=True)]
    manifest = make_manifest(DOCKER_MANIFEST, config, layers)
    members.add(blob_path(config.digest), config_raw)
    members.add(blob_path(manifest.descriptor.digest), manifest.raw)
    for path, layer in zip(item.layers, layers, strict=True):
        members.alias(blob_path(layer.digest), path)
    return manifest.descriptor


def _layer(members: Members, path: str, diff_id: str) -> Descriptor:
    """A layer of `docker save` is named by its diff ID; one that crane or bazel compressed has to be read for it."""
    size = members.size(path)
    if size is None:
        raise ValueError(f"there is no {path}")
    if not next(members.read(path), b"").startswith(b"\x1f\x8b"):
        return Descriptor(media_type=DOCKER_LAYER, digest=diff_id, size=size)
    digest = hashlib.sha256()
    for chunk in members.read(path):
        digest.update(chunk)
    return Descriptor(media_type=DOCKER_LAYER_GZIP, digest=f"sha256:{digest.hexdigest()}", size=size)


# -- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive before it is written: each file's place by its path, the small ones' bytes, the size in all."""

    places: Mapping[str, _Place]
    small: Mapping[str, bytes]
    size: int


def plan_archive(contents: Contents, *, tag: str | None, full_name: str | None) -> Archive:
    """Lay out the tar of `contents`, listed as `tag` in the OCI index and as `full_name` by `docker load`."""
    small = {
        MARKER: LAYOUT_VERSION,
        INDEX: _oci_index(contents.root.descriptor, tag, full_name),
        DOCKER_INDEX: _docker_index(contents, full_name),
    }
    small |= {blob_path(manifest.descriptor.digest): manifest.raw for manifest in reversed(contents.manifests)}
    sizes = {path: len(data) for path, data in small.items()}
    sizes |= {blob_path(blob.digest): blob.size for blob in contents.blobs}
    places: dict[str, _Place] = {}
    end = 0
    for path, size in sizes.items():
        places[path] = _Place(offset=end + BLOCK, size=size)
        end += BLOCK + padded(size)
    return Archive(places=places, small=small, size=end + 2 * BLOCK)


def stream_archive(
    archive: Archive, contents: Contents, read: Callable[[Descriptor], Iterator[bytes]]
) -> Iterator[bytes]:
    """The bytes of the archive from first to last; blobs are taken from `read` as their turn comes."""
    blobs = {blob_path(blob.digest): blob for blob in contents.blobs}
    for path, place in archive.places.items():
        yield header(path, place.size)
        if path in archive.small:
            yield archive.small[path]
        else:
            yield from read(blobs[path])
        yield bytes(padded(place.size) - place.size)
    yield bytes(2 * BLOCK)


def sole_image(source: Store, root: Descriptor) -> Descriptor:
    """The one image that `root` is or lists. Raises `Unplannable` where it lists several platforms."""
    if root.media_type not in INDEXES:
        return root
    parsed = parse_manifest(source.manifest(root), root.media_type)
    images = parsed.images() if isinstance(parsed, Index) else (root,)
    if len(images) == 1:
        return images[0]
    platforms = ", ".join(str(image.platform) for image in images)
    raise Unplannable(
        f"a Docker archive holds one platform, and {source.label} has {platforms or 'none'}",
        hint=f"platforms: [{images[0].platform if images else 'linux/amd64'}], or write an oci-archive:",
    )


class ArchiveTarget:
    """An archive to be written, in place of what has that name now. `docker` says which of the two it is called.

    An OCI archive takes an index of several platforms as it is, and `docker load` finds the first of them. A Docker
    archive holds one platform.
    """

    def __init__(self, path: Path, *, docker: bool) -> None:
        self.label = f"{'docker' if docker else 'oci'}-archive:{path}"
        self._path = path
        self._docker = docker
        self._half_made: Path | None = None

    def prepare(self) -> None:
        """Raises `NoRoom` where the file cannot be made."""
        require_writable(self._path.parent)

    def receive(self, source: Store, root: Descriptor, name: str, *, emit: Emit, jobs: int) -> Descriptor:
        """Write the file, all of it or nothing. Raises `NoRoom` before the first byte if it will not fit."""
        contents = survey(source, sole_image(source, root) if self._docker else root)
        tag, full_name = self._spell(name)
        archive = plan_archive(contents, tag=tag, full_name=full_name)
        lock, self._half_made = self._begin(archive)
        sink = _ArchiveSink(self._half_made, archive)
        try:
            received = deliver(contents, source, sink, name, emit=emit, jobs=jobs)
            with room(self._path):
                os.replace(self._half_made, self._path)
        except (NoRoom, Corrupt):
            raise
        except BaseException:
            if sink.came >= partials.LEAST:
                self._half_made = None  # the next run goes on with it
            raise
        finally:
            os.close(lock)
            self.close()
        return received

    def close(self) -> None:
        """Remove what was not finished."""
        if self._half_made:
            self._half_made.unlink(missing_ok=True)
        self._half_made = None

    def _spell(self, name: str) -> tuple[str | None, str | None]:
        """The tag in the OCI index, and the name that `docker load` gives the image."""
        if self._docker:
            full = f"{name}:latest" if name and ":" not in name.rpartition("/")[2] else name
            return full.rpartition(":")[2] or None, full or None
        tag = name or "latest"
        full = f"{self._path.name.removesuffix('.tar').lower()}:{tag}"
        return tag, full if is_docker_name(full) else None

    def _begin(self, archive: Archive) -> tuple[int, Path]:
        """A locked file beside the target: that of a run that broke off, if it was to be the same, or a new one."""
        folder, prefix = self._path.absolute().parent, f".{self._path.name}.part-"
        if self._path.is_dir():
            raise NoRoom(f"{self._path} is a directory", hint=f"{self.label}/image.tar")
        with room(folder):
            folder.mkdir(parents=True, exist_ok=True)
            left = [file for file in folder.iterdir() if file.name.startswith(prefix)]
            taken = next((found for file in left if (found := _take_up(file, archive))), None)
            sweep(file for file in left if taken is None or file != taken[1])
            require_room(folder, archive.size - (os.fstat(taken[0]).st_blocks * 512 if taken else 0))
            return taken or begin_file(folder, prefix)


def _take_up(path: Path, archive: Archive) -> tuple[int, Path] | None:
    """A file that a run left which broke off, locked, if it was to be this very archive and nobody is at it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()) and _is_of(handle, archive):
            return handle, path
    except OSError:
        pass
    os.close(handle)
    return None


def _is_of(handle: int, archive: Archive) -> bool:
    small = (
        (archive.places[name].offset - BLOCK, header(name, len(data)) + data) for name, data in archive.small.items()
    )
    return os.fstat(handle).st_size == archive.size and all(
        os.pread(handle, len(data), at) == data for at, data in small
    )


class _ArchiveSink:
    """Blobs go to their places in a file, in any order. The file is one archive once all are there.

    `came` is how many bytes came that can be gone on with. How far a blob had come is seen by where the file has its
    first hole: what was never written takes no space.
    """

    def __init__(self, path: Path, archive: Archive) -> None:
        self.came = 0
        self._path = path
        self._archive = archive
        with room(path), path.open("r+b") as file:
            file.truncate(archive.size)
            for name, data in archive.small.items():
                file.seek(archive.places[name].offset - BLOCK)
                file.write(header(name, len(data)) + data)

    def has(self, descriptor: Descriptor) -> bool:
        """Never: every blob is offered once."""
        return False

    def mount(self, descriptor: Descriptor, source: Store) -> bool:
        """Never: a tar has its bytes to itself."""
        return False

    def write(self, descriptor: Descriptor, content: Callable[[], Iterator[bytes]], /) -> None:
        """Put a blob, verified, where it belongs; a second time over the first."""
        name = blob_path(descriptor.digest)
        # A handle of its own: a thread that was left behind must not write into a file that reuses the number.
        with room(self._path):
            file = self._path.open("r+b", buffering=0)
        with file:
            with room(self._path):
                file.seek(self._archive.places[name].offset - BLOCK)
                write_all(file, header(name, descriptor.size))
            start = self._archive.places[name].offset
            there = _written(file, start, descriptor.size) if isinstance(content, Content) else 0
            try:
                self._fill(file, start, there, descriptor, content)
            except Corrupt:
                if not there:
                    raise
                self._fill(file, start, 0, descriptor, content)

    def _fill(
        self, file: io.FileIO, start: int, there: int, descriptor: Descriptor, content: Callable[[], Iterator[bytes]]
    ) -> None:
        """Write what is missing of a blob after its first `there` bytes. Raises `Corrupt` unless it is right then."""
        file.seek(start)
        digest, size = hashlib.sha256(), there
        while there and (piece := file.read(min(CHUNK, there))):
            digest.update(piece)
            there -= len(piece)
        for chunk in from_place(content, size):
            size += len(chunk)
            if size > descriptor.size:
                break
            digest.update(chunk)
            with room(self._path):
                write_all(file, chunk)
            self.came += len(chunk) if isinstance(content, Content) else 0
        require_whole(descriptor, size, digest, origin_of(content))

    def publish(self, raw: bytes, media_type: str, name: str | None) -> Descriptor:
        """Manifests and names were written first: nobody sees them before the file has its name."""
        return Descriptor.of(raw, media_type)


def _written(file: io.FileIO, start: int, size: int) -> int:
    """How many bytes of a blob are surely there. Blocks that are written in part count as holes."""
    try:
        hole = os.lseek(file.fileno(), start, os.SEEK_HOLE)
    except OSError:
        return 0
    return size if hole >= start + size else max(hole - start - _BLURRED, 0)


def header(name: str, size: int, mode: int = 0o644) -> bytes:
    """What stands before a file of a tar, without times or owners: one block, unless the name has 100 bytes or more.

    Sizes above 8 GiB are written in base 256, as GNU tar and Go read them.
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, mode
    return member.tobuf(tarfile.GNU_FORMAT)


def padded(size: int) -> int:
    """The bytes that a file of `size` takes in a tar."""
    return -(-size // BLOCK) * BLOCK


def _oci_index(root: Descriptor, tag: str | None, full_name: str | None) -> bytes:
    names = {REF_NAME: tag, CONTAINERD_NAME: with_host(full_name) if full_name else None}
    annotations = {key: value for key, value in names.items() if value}
    entry = root.to_json() | ({"annotations": annotations} if annotations else {})
    return canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})


def _docker_index(contents: Contents, full_name: str | None) -> bytes:
    """What `docker load` sees: the image, or the first of an index, as Docker knows one platform by a name."""
    image = first_image(contents)
    return canonical_json([docker_item(image, full_name)] if image else [])


def docker_item(image: Manifest, full_name: str | None) -> Mapping[str, object]:
    """An entry of Docker's `manifest.json`, whose paths lead into an image layout."""
    return {
        "Config": blob_path(image.config.digest),
        "RepoTags": [full_name] if full_name else None,
        "Layers": [blob_path(layer.digest) for layer in image.layers],
    }


def first_image(contents: Contents) -> Manifest | None:
    """The first manifest that is a container image, in the order of the index."""
    by_digest = {manifest.descriptor.digest: manifest for manifest in contents.manifests}
    root = contents.root
    entries = root.images() if isinstance(root, Index) else (root.descriptor,)
    for entry in entries:
        found = by_digest[entry.digest]
        if isinstance(found, Manifest) and found.config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
            return found
    return None


def with_host(name: str) -> str:
    """How containerd spells a name that Docker shortens."""
    head, slash, _ = name.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"
