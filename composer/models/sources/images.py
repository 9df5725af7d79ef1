"""`docker://`, `oci:` and the other transports: models kept as images or as artifacts.

* A *modelcar* of KServe is an image with the model in `/models`.
* An ORAS artifact has a layer for each file, whose title is the file's path; of a folder it is a tar.

Source: KServe's "Serving models with OCI images", and the annotations of ORAS (`org.opencontainers.image.title`,
`io.deis.oras.content.unpack`).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from composer.disk import room
from composer.errors import Corrupt, NotFound
from composer.models.repository import MOST_LINKED
from composer.models.sources.remote import Listing, Remote, Stream, Unfold
from composer.models.sources.way import Way
from composer.oci.image import Descriptor, Image, Index, Manifest, parse_image, parse_manifest
from composer.oci.names import Reference, parse_reference
from composer.oci.store import Seekable, Store
from composer.oci.transports import open_source
from composer.oci.unpack import unpack

MODELS: Final = "models"
"""The folder of a modelcar that holds its model."""

_TITLE: Final = "org.opencontainers.image.title"
_IS_FOLDER: Final = "io.deis.oras.content.unpack"


def look(source: str, way: Way) -> Listing:
    """What an image or an artifact holds. Raises what the stores raise."""
    reference = _from_base(parse_reference(source), way.base)
    return _look(reference, way)


def _from_base(reference: Reference, base: Path) -> Reference:
    if reference.transport in ("docker", "docker-daemon"):
        return reference
    return replace(reference, place=str(base / reference.place))


def _look(reference: Reference, way: Way) -> Listing:
    store = open_source(reference, way.access)
    manifest = _manifest(store, store.resolve(reference.name), way)
    titled = {title: layer for layer in manifest.layers if (title := layer.annotations.get(_TITLE))}
    digest = manifest.descriptor.digest
    layers = {layer.digest: layer for layer in (titled.values() if titled else manifest.layers)}
    unfold: Unfold
    if titled:
        unfold = partial(_titled, titled)
    else:
        image = parse_image(manifest, b"".join(store.read(manifest.config)))
        unfold = partial(_modelcar, image, way)
    return Listing(
        uri=str(reference.at(digest)),
        files=tuple(_remote(layer, store) for layer in layers.values()),
        folder=True,
        unfold=unfold,
        fixed=digest,
    )


def _manifest(store: Store, root: Descriptor, way: Way) -> Manifest:
    """The manifest for the platform, or else the first: an artifact is for none."""
    parsed = parse_manifest(store.manifest(root), root.media_type)
    if not isinstance(parsed, Index):
        return parsed
    try:
        entry = parsed.choose(way.platform)
    except NotFound:
        images = parsed.images()
        if not images:
            raise
        entry = images[0]
    return _manifest(store, entry, way)


def _remote(layer: Descriptor, store: Store) -> Remote:
    def opened(place: int, version: str | None) -> Stream:
        if place and isinstance(store, Seekable):
            pieces = store.read_from(layer, place)
        else:
            place, pieces = 0, store.read(layer)
        return Stream(start=place, total=layer.size, version=layer.digest, pieces=pieces)

    return Remote(path=layer.digest, address=layer.digest, open=opened, size=layer.size, sha256=layer.digest)


# -- from blobs to files ------------------------------------------------------------------------------------------


def _titled(titled: Mapping[str, Descriptor], blobs: Mapping[str, Path], scratch: Path) -> Iterator[tuple[str, Path]]:
    """The files of an artifact: those of its folders too."""
    for number, (title, layer) in enumerate(titled.items()):
        if layer.annotations.get(_IS_FOLDER) != "true":
            yield title.removeprefix("./"), blobs[layer.digest]
            continue
        room_of = scratch / str(number)
        _extract(blobs[layer.digest], room_of, title)
        yield from _below(room_of, room_of)


def _extract(blob: Path, folder: Path, title: str) -> None:
    """A folder out of its tar. What would lead out of it is refused."""
    try:
        with room(folder), tarfile.open(blob) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Corrupt(f"the folder {title} of the artifact is no sound tar: {error}", hint="push it again") from error


def _modelcar(image: Image, way: Way, blobs: Mapping[str, Path], scratch: Path) -> Iterator[tuple[str, Path]]:
    """The files below `/models` of an image."""
    target = scratch / "image"
    unpack(image, _Kept(blobs=blobs), target, emit=way.emit)
    folder = target / MODELS
    if not folder.is_dir():
        raise NotFound(
            f"the image has no folder /{MODELS}", hint="a modelcar has its model there: COPY model/ /models/"
        )
    yield from _below(folder, target.resolve())


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        hint = "take it out of the image"
        raise Corrupt(f"{folder.name} cannot be listed: {error.strerror}", hint=hint) from error


def _below(top: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """All files in a folder. Links are followed within `root`."""
    links, inside = 0, os.path.realpath(root)
    left: list[tuple[Path, str, tuple[Path, ...]]] = [(top, "", (Path(os.path.realpath(top)),))]
    while left:
        folder, prefix, above = left.pop()
        links += folder.is_symlink()
        for entry in _listed(folder):
            # Asking each time where a folder really lies takes long in deep ones.
            name, linked = f"{prefix}{entry.name}", entry.is_symlink()
            real = Path(os.path.realpath(entry)) if linked else above[-1] / entry.name
            if not real.is_relative_to(inside):
                words = f"{name} leads out of what was fetched, to {os.readlink(entry)}"
                raise Corrupt(words, hint="put the file there")
            if real.is_dir() and not (linked and real in above) and links <= MOST_LINKED:
                left.append((entry, f"{name}/", (*above, real)))
            elif real.is_file():
                yield name, real
            else:
                raise Corrupt(f"{name} is neither a file nor a folder", hint="take it out of the image")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Layers that were fetched, as the place to read them from."""

    blobs: Mapping[str, Path]
    label: str = "the cache"

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        with self.blobs[descriptor.digest].open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk

    def resolve(self, name: str) -> Descriptor:
        raise NotFound(f"there is no {name} here")

    def manifest(self, descriptor: Descriptor) -> bytes:
        return b"".join(self.read(descriptor))

    def has(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.blobs

    def close(self) -> None:
        pass
