"""Where models come from: files and folders, the web, buckets, the Hugging Face Hub, images, Git LFS.

    fetch("s3://models/densenet.onnx", sha256=None, into=cache / "models", way=way)

What is fetched is kept by its digest: of a file its own, of a folder that of what `sha256sum` says of all its files,
sorted by path. What is kept, and asked for by digest, is asked of nobody again. Archives are not unpacked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from composer.errors import Corrupt, Denied, NotFound, Unreachable
from composer.events import Transferred, Warned
from composer.models.sources import buckets, hub, images, lfs, local, web
from composer.models.sources.download import take, wrong
from composer.models.sources.remote import Here, Listing, Remote, require_safe
from composer.models.sources.shelf import FetchedFile, Shelf, digest_of, tree_digest
from composer.models.sources.way import Way, shown

__all__ = ["ELSEWHERE", "SOURCES", "Fetched", "FetchedFile", "Pinned", "Shelf", "Way", "fetch", "scheme_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A source with no question left: what it is called, `sha256:` and hex, bytes. It may be shown and written down."""

    uri: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a source came to: its files, sorted by path, and its name and digest. `folder`: several may be meant."""

    pinned: Pinned
    files: tuple[FetchedFile, ...]
    folder: bool

    @property
    def digest(self) -> str:
        """Of the file, or of the folder."""
        return self.pinned.digest


Look = Callable[[str, Way], Listing]

SOURCES: Final[Mapping[str, Look]] = {
    "": local.look,
    "file": local.look,
    "http": web.look,
    "https": web.look,
    "s3": buckets.look,
    "gs": buckets.look,
    "hf": hub.look,
    "docker": images.look,
    "docker-archive": images.look,
    "docker-daemon": images.look,
    "oci": images.look,
    "oci-archive": images.look,
}
"""What knows each kind of source, by what stands before the first colon."""

ELSEWHERE: Final = ("http", "https", "s3", "gs", "hf", "docker")
"""Those that are not on this machine: a lock pins what they come to."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_NEXT: Final = (NotFound, Denied, Unreachable)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def fetch(source: str, *, sha256: str | None, into: Path, way: Way) -> Fetched:
    """Have what a source names on this machine. `sha256` is the digest of the file, or of the folder, in hex.

    `into` is the folder of the cache for models. Raises `Corrupt` with both digests for other bytes than those asked
    for, `NotFound`, `Denied`, `Unreachable`, `NoRoom`, and `Unplannable` where a Python package is missing.
    """
    scheme = scheme_of(source)
    shelf, expected = Shelf(into), f"sha256:{sha256.removeprefix('sha256:')}" if sha256 else None
    if expected and scheme not in ("", "file") and (kept := _kept(source, expected, shelf)):
        return kept
    if scheme in ("http", "https"):
        web.require_address(source)
    if scheme == "http" and not expected and urlsplit(source).hostname not in _LOOPBACK:
        message = f"{shown(source)} has no TLS: on the way anybody could put another model in its place"
        way.emit(Warned(message=message, hint="https://..., or add its sha256"))
    found = _fetched(_mirrored(source, way), expected, shelf, way)
    if expected and found.digest != expected:
        raise wrong(shown(source), expected, found.digest)
    return found


def scheme_of(source: str) -> str:
    """What kind of source it is; empty for a path. Raises `NotFound` for one that nobody knows."""
    match = _SCHEME.match(source)
    scheme = match[1].lower() if match else ""
    if scheme in SOURCES:
        return scheme
    near = difflib.get_close_matches(scheme, [name for name in SOURCES if name], n=1, cutoff=0.5)
    known = ", ".join(name for name in SOURCES if name)
    hint = f"did you mean {near[0]}:?" if near else f"a path, or one of {known}"
    raise NotFound(f"models do not come from {scheme}: in {shown(source)!r}", hint=hint)


def _kept(source: str, digest: str, shelf: Shelf) -> Fetched | None:
    """What is asked for by digest, if it is here already."""
    if files := shelf.tree(digest):
        return _done(shown(source), files, digest, folder=True)
    name = unquote(shown(source).rstrip("/").rpartition("/")[2])
    if file := shelf.file(digest, name or "model"):
        return _done(shown(source), (file,), digest, folder=False)
    return None


def _fetched(sources: tuple[str, ...], expected: str | None, shelf: Shelf, way: Way) -> Fetched:
    *others, last = sources
    for source in others:
        try:
            return _from(source, expected, shelf, way)
        except _NEXT as error:
            way.emit(Warned(message=f"{error.message}: the next mirror is asked"))
    return _from(last, expected, shelf, way)


def _from(source: str, expected: str | None, shelf: Shelf, way: Way) -> Fetched:
    listing = SOURCES[scheme_of(source)](source, way)
    if listing.fixed and (files := shelf.known(listing.fixed)):
        return _done(listing.uri, files, tree_digest(files), folder=True)
    if listing.unfold is None:
        require_safe(tuple(file.path for file in listing.files), shown(source))
    alone = None if listing.folder else expected
    got = tuple(_take(file, alone, shelf, way) for file in listing.files)
    files = _unfolded(listing, got, shelf, shown(source)) if listing.unfold else _sorted(got)
    for file in files:
        _refuse_pointer(file, source)
    digest = tree_digest(files) if listing.folder else files[0].digest
    if listing.folder and scheme_of(source) not in ("", "file"):
        _keep(listing, got, files, shelf)
    return _done(listing.uri, files, digest, folder=listing.folder)


def _keep(listing: Listing, got: tuple[FetchedFile, ...], files: tuple[FetchedFile, ...], shelf: Shelf) -> None:
    """Remember which files it came to. What they were made of, such as layers, is of no more use."""
    tree = shelf.keep_tree(files)
    if listing.fixed:
        shelf.keep_known(listing.fixed, tree)
        for digest in {file.digest for file in got} - {file.digest for file in files}:
            shelf.drop(digest)


def _take(file: Remote | Here, expected: str | None, shelf: Shelf, way: Way) -> FetchedFile:
    if isinstance(file, Remote):
        return take(file, expected, shelf, way)

    def watch(done: int) -> None:
        if done % (16 << 20) == 0 or done == file.size:
            way.emit(Transferred(digest=str(file.place), title=file.path, action="fetched", done=done, total=file.size))

    try:
        digest, size = digest_of(file.place, watch=watch)
    except OSError as error:
        raise NotFound(f"{file.place} cannot be read: {error.strerror}", hint=f"ls -l {file.place}") from error
    return FetchedFile(path=file.path, place=file.place, size=size, digest=digest)


def _unfolded(listing: Listing, got: tuple[FetchedFile, ...], shelf: Shelf, origin: str) -> tuple[FetchedFile, ...]:
    """The files out of what was fetched, each moved to its own place on the shelf."""
    assert listing.unfold
    blobs = {file.path: file.place for file in got}
    kept = {file.place: file for file in got}
    with shelf.scratch() as scratch:
        made = list(listing.unfold(blobs, scratch))
        require_safe(tuple(path for path, _ in made), origin)
        if not made:
            raise NotFound(f"there are no files in {origin}", hint="is it a model?")
        files: list[FetchedFile] = []
        for path, place in made:
            if place not in kept:
                kept[place] = shelf.adopt(place, path)
            one = kept[place]
            files.append(FetchedFile(path=path, place=one.place, size=one.size, digest=one.digest))
    return _sorted(files)


def _refuse_pointer(file: FetchedFile, source: str) -> None:
    """A pointer that came over the web is not the model, and nobody knows of which repository it is."""
    if file.size < 1024 and lfs.pointer_in(file.place):
        raise Corrupt(
            f"{shown(source)} gives a Git LFS pointer, not the file that it stands for",
            hint="name the address of the file itself (media.githubusercontent.com, /resolve/); or clone it",
        )


def _sorted(files: list[FetchedFile] | tuple[FetchedFile, ...]) -> tuple[FetchedFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def _done(uri: str, files: tuple[FetchedFile, ...], digest: str, *, folder: bool) -> Fetched:
    pinned = Pinned(uri=uri, digest=digest, size=sum(file.size for file in files))
    return Fetched(pinned=pinned, files=files, folder=folder)


def _mirrored(source: str, way: Way) -> tuple[str, ...]:
    """Where a file of the web is asked for: at the mirrors of its host, in order, then where it says itself."""
    if scheme_of(source) not in ("http", "https"):
        return (source,)
    if found := way.routes.addresses(source):
        return found
    host = urlsplit(source).hostname
    raise Unreachable(
        f"{host} may not be asked, and has no mirror", hint=f"network: {{mirrors: {{{host}: [mirror.example.com]}}}}"
    )
