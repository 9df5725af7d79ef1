"""The dockerfile engine: lets a Docker Engine build a folder, and reads back what it made. Decides nothing.

The result is an image like that of the direct engine: its layers that the base has are named by the base's digests,
so that they need not be moved again; those that were built are compressed into the cache.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from composer.config import created, make_config, upstream_history
from composer.disk import room, temporary_folder
from composer.engines.direct import Built
from composer.errors import BuildFailed, Denied, NotFound, Unreachable
from composer.events import Emit, Logged, StageFinished, StageStarted
from composer.folder import Member, fill
from composer.lock import Pinned, read_image
from composer.oci.building import build as build_image
from composer.oci.building import has_image, pull_image
from composer.oci.compression import BLOCK, deflater, inflate
from composer.oci.copy import Held, Stack
from composer.oci.credentials import Credentials
from composer.oci.daemon import DaemonStore, DaemonTarget, Engine
from composer.oci.image import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    Descriptor,
    Image,
    Platform,
    layer_media_type,
    make_manifest,
    parse_image,
)
from composer.oci.layout import LayoutStore
from composer.oci.names import Reference
from composer.oci.store import Store

_GIVEN: Final = "tricompose/given"
"""What the engine calls images that it could not pull itself, and what it has built, until the build is over."""

_TRIES: Final = 5
"""How often an image is given or built that other builds take away meanwhile: all but the first are quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """Where Docker builds: the engine, our cache, what registries are told, how the build is run.

    `network` is Docker's network mode of RUN, `classic` the builder without BuildKit, whatever the engine offers.
    """

    engine: Engine
    cache: LayoutStore
    scratch: Path
    credentials: Credentials
    hosts: Mapping[str, str]
    network: str | None
    classic: bool
    use_cache: bool
    pull: bool
    emit: Emit


@contextmanager
def named(images: Sequence[Pinned], kitchen: Kitchen, platform: Platform, *, jobs: int) -> Iterator[Sequence[str]]:
    """What FROM calls images, which the engine has then: pulled by digest, or given by us where it cannot."""
    given: list[str] = []
    try:
        yield [_name(image, kitchen, platform, given, jobs) for image in images]
    finally:
        for name in given:
            kitchen.engine.forget(name)


def _name(image: Pinned, kitchen: Kitchen, platform: Platform, given: list[str], jobs: int) -> str:
    if image.reference.transport == "docker":
        name = f"{image.reference.place}@{image.image.manifest.descriptor.digest}"
        if not kitchen.pull and has_image(kitchen.engine, name, platform):
            return name
        kitchen.emit(StageStarted(stage="pull", detail=name))
        try:
            pull_image(kitchen.engine, name, platform=platform, credentials=kitchen.credentials, emit=kitchen.emit)
        except (Unreachable, Denied, NotFound, BuildFailed) as error:
            kitchen.emit(Logged(text=f"the engine cannot pull it, so it is given: {error.message}", source="docker"))
        else:
            kitchen.emit(StageFinished(stage="pull", detail=name))
            return name
    return _give(image, kitchen, given, jobs)


def _give(image: Pinned, kitchen: Kitchen, given: list[str], jobs: int) -> str:
    digest = image.image.manifest.descriptor.digest
    name = f"{_GIVEN}:{_own_tag(digest)}"
    kitchen.emit(StageStarted(stage="give", detail=f"{image.reference} to the Docker Engine"))
    target = DaemonTarget(Reference(transport="docker-daemon", place=_GIVEN, tag=name.partition(":")[2]))
    given.append(name)
    with closing(target):
        for _ in range(_TRIES):
            target.receive(
                image.store, image.image.manifest.descriptor, name.partition(":")[2], emit=kitchen.emit, jobs=jobs
            )
            # Whoever takes away the last name of the same image just then may take the image with it.
            if kitchen.engine.has(name):
                break
    kitchen.emit(StageFinished(stage="give", detail=name))
    return name


def _own_tag(digest: str) -> str:
    """A tag that no other build has: whoever is over first takes its names away."""
    return f"{digest.removeprefix('sha256:')[:32]}-{secrets.token_hex(4)}"


def build(
    members: Mapping[str, Member],
    base: Pinned,
    kitchen: Kitchen,
    platform: Platform,
    labels: Mapping[str, str],
    *,
    epoch: int | None,
) -> Built:
    """Build a folder on `base`, and read back the result, with `labels` besides its own."""
    for _ in range(_TRIES):
        image_id = _cook(members, kitchen, platform)
        with suppress(_Gone):
            return _read_back(image_id, base, kitchen, platform, labels, epoch=epoch)
    raise BuildFailed(
        f"other builds of the same image took it away {_TRIES} times before it could be read back",
        hint="build one after the other",
    )


def _cook(members: Mapping[str, Member], kitchen: Kitchen, platform: Platform) -> str:
    """The ID of the image that the engine makes of a folder."""
    with temporary_folder(kitchen.scratch, "build-", mode=0o700) as path:
        with room(kitchen.scratch):
            fill(path, members, link=True)
        return build_image(
            kitchen.engine,
            path,
            platform=platform,
            hosts=kitchen.hosts,
            arguments={},
            tag=None,
            network=kitchen.network,
            use_cache=kitchen.use_cache,
            pull=False,
            classic=kitchen.classic,
            credentials=kitchen.credentials,
            emit=kitchen.emit,
        )


def _read_back(
    image_id: str, base: Pinned, kitchen: Kitchen, platform: Platform, labels: Mapping[str, str], *, epoch: int | None
) -> Built:
    kitchen.emit(StageStarted(stage="read back", detail=image_id))
    place = Reference(transport="docker-daemon", place="", digest=image_id)
    saved = DaemonStore(place, scratch=kitchen.scratch, emit=kitchen.emit)
    with closing(saved), _kept(kitchen.engine, image_id):
        made = read_image(saved, saved.resolve(image_id), platform)
        image = _adopt(made, saved, base.image, kitchen.cache, labels, epoch=epoch)
    kitchen.emit(StageFinished(stage="read back", detail=image.manifest.descriptor.digest))
    held = Held({image.manifest.descriptor.digest: image.manifest.raw, image.manifest.config.digest: image.config_raw})
    return Built(image=image, store=Stack(held, kitchen.cache, base.store))


class _Gone(Exception):
    """Another build made the same image, and took it away with its own name before it had one of ours."""


@contextmanager
def _kept(engine: Engine, image_id: str) -> Iterator[None]:
    """Have a name for what was built as long as this lasts; then it goes, unless somebody else has named it too.

    What the classic builder has made stays: its images, each with a parent, are all the cache that it has.
    """
    name = _take(engine, image_id)
    try:
        yield
    finally:
        if name:
            engine.forget(name)


def _take(engine: Engine, image_id: str) -> str | None:
    """Name an image that would not stay without. Raises `_Gone`."""
    tag = _own_tag(image_id)
    try:
        if engine.inspect(image_id).get("Parent"):
            return None
        engine.tag(image_id, _GIVEN, tag)
    except NotFound as error:
        raise _Gone from error
    return f"{_GIVEN}:{tag}"


def _adopt(
    made: Image, saved: Store, base: Image, cache: LayoutStore, labels: Mapping[str, str], *, epoch: int | None
) -> Image:
    """The image that Docker made, over the layers of its base as the base names them."""
    family = base.manifest.media_type
    shared = _shared(made.diff_ids, base.diff_ids)
    media_type = layer_media_type(family)
    own = [_compressed(saved, layer, media_type, cache) for layer in made.layers[shared:]]
    config = dict(made.config.get("config") or {})
    config["Labels"] = {**(config.get("Labels") or {}), **labels}
    history = [entry for entry, _ in upstream_history(made)]
    raw = make_config(made, _without_leavings(config), created(made, epoch), made.diff_ids, history)
    described = Descriptor.of(raw, DOCKER_CONFIG if family == DOCKER_MANIFEST else OCI_CONFIG)
    return parse_image(make_manifest(family, described, [*base.layers[:shared], *own]), raw)


_LEAVINGS: Final = frozenset(
    [
        *("Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr"),
        *("Tty", "OpenStdin", "StdinOnce", "Image"),
    ]
)
"""What the classic builder leaves in a config: the state of its container, the image that it came from."""


def _without_leavings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in config.items() if key not in _LEAVINGS and value not in (None, "", {}, [])}


def _shared(upper: Sequence[str], lower: Sequence[str]) -> int:
    """How many layers both begin with."""
    count = 0
    for one, other in zip(upper, lower, strict=False):
        if one != other:
            break
        count += 1
    return count


def _compressed(saved: Store, layer: Descriptor, media_type: str, cache: LayoutStore) -> Descriptor:
    """A layer of the engine as a gzip blob of the cache; the same layer gives the same blob."""
    digest, size = hashlib.sha256(), 0
    with cache.incoming() as incoming:
        for piece in _deflated(inflate(saved.read(layer), origin=f"layer {layer.digest}")):
            digest.update(piece)
            size += len(piece)
            incoming.write(piece)
        name = f"sha256:{digest.hexdigest()}"
        incoming.commit(name, size)
    return Descriptor(media_type=media_type, digest=name, size=size)


def _deflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same however the chunks fall: the compressor is fed pieces of one size."""
    packer = deflater()
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) >= BLOCK:
            yield packer.compress(bytes(pending[:BLOCK]))
            del pending[:BLOCK]
    yield packer.compress(bytes(pending))
    yield packer.flush()
