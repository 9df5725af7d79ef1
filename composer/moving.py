"""Images as they are, moved and looked at: the part of the story that needs no recipe."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from composer.events import StageFinished, StageStarted
from composer.oci import copy as transfers
from composer.oci.image import Descriptor, Image, Index, Manifest, Platform, parse_image, parse_manifest
from composer.oci.names import Reference
from composer.oci.store import Store
from composer.oci.transports import open_source, open_target
from composer.workplace import Workplace


def copy(source: Reference, target: Reference, place: Workplace, *, platforms: Sequence[Platform] | None) -> Descriptor:
    """Move an image between two places: all of it, or the platforms asked for. What `target` now means."""
    place.emit(StageStarted(stage="copy", detail=f"{source} to {target}"))
    with ExitStack() as stack:
        store = open_source(source, place.access)
        stack.callback(store.close)
        sink = open_target(target, place.access)
        stack.callback(sink.close)
        name = target.tag or ""
        root = transfers.copy(store, source.name, sink, name, platforms=platforms, emit=place.emit, jobs=place.jobs)
    place.emit(StageFinished(stage="copy", detail=f"{target} is {root.digest}"))
    return root


def inspect(image: Reference, place: Workplace) -> tuple[Descriptor, tuple[Image, ...]]:
    """What a name means, and the images of all its platforms. No layer is read."""
    store = open_source(image, place.access)
    try:
        root = store.resolve(image.name)
        parsed = parse_manifest(store.manifest(root), root.media_type)
        entries = parsed.images() if isinstance(parsed, Index) else (root,)
        found = (parse_manifest(store.manifest(entry), entry.media_type) for entry in entries)
        images = (one for one in found if isinstance(one, Manifest))
        return root, tuple(_whole(store, manifest) for manifest in images)
    finally:
        store.close()


def _whole(store: Store, manifest: Manifest) -> Image:
    return parse_image(manifest, b"".join(store.read(manifest.config)))
