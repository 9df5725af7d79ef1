"""The direct engine: subtracts. Layers that lose nothing are named by digest; the rest are streamed once and cut.

No daemon, no root, no RUN. Nothing is written but the new layers, into the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from composer.config import make_config, upstream_history
from composer.errors import BuildFailed, Corrupt, NotFound
from composer.events import Emit, StageFinished, StageStarted, Transferred
from composer.inventory import HOME, component_of
from composer.knowledge import Knowledge, part_descriptor
from composer.lock import Upstream
from composer.oci import layer as layers
from composer.oci.compression import inflate
from composer.oci.copy import Held, Stack, holder
from composer.oci.image import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    Descriptor,
    Image,
    layer_media_type,
    make_manifest,
    parse_image,
)
from composer.oci.layer import Added, Cut, Outcome, Part
from composer.oci.layout import LayoutStore
from composer.oci.names import Reference
from composer.oci.partials import forget, kept
from composer.oci.store import CHUNK, Seekable, Store, distrust
from composer.plan import Add, Graft, NewFile, Plan, Reuse, Slice, Split, Step, Unread, manner_of, public_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where an engine works: the cache, what is known of layers, the other places that may hold parts of them.

    `open` opens a place to read from, until the work is done. `cut_all` makes layers of every component of a layer
    that is read, for recipes to come, and not only of those that are wanted now.
    """

    cache: LayoutStore
    knowledge: Knowledge
    elsewhere: tuple[Store, ...]
    open: Callable[[Reference], Store]
    cut_all: bool
    emit: Emit

    def holds(self, parts: Iterable[Part]) -> bool:
        """Whether these parts can be had without cutting their layer again."""
        return all(any(store.has(_plain(part)) for store in (self.cache, *self.elsewhere)) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A composed image, and the store that all its blobs can be read from."""

    image: Image
    store: Store


def learn(upstream: Upstream, layer: Descriptor, wanted: Callable[[str], bool], max_size: int, shop: Workshop) -> None:
    """Read a layer once: keep what it holds, and if it looks like a server's, the parts that will be wanted of it."""
    how = Cut(component_of=component_of, wanted=_everything if shop.cut_all else wanted, max_size=max_size)
    cut = partial(layers.cut, how=how, create=shop.cache.incoming, promising=_in_server)
    outcome = _cut_layer(upstream, layer, shop, cut)
    shop.knowledge.remember_entries(layer.digest, outcome.entries)
    if outcome.parts:
        shop.knowledge.remember_parts(layer.digest, manner_of(max_size, None), outcome.parts)


def learn_image(
    image: Upstream, wanted: Callable[[str], bool], max_size: int, shop: Workshop, *, all_layers: bool
) -> None:
    """Read every layer of an image that nobody has read: those of its base only if all are asked for."""
    for layer in image.image.layers:
        if layer.digest in image.base and not all_layers:
            continue
        if not shop.knowledge.knows(layer.digest):
            shop.emit(StageStarted(stage="read", detail=f"{layer.digest[7:19]}: not seen before"))
            learn(image, layer, wanted, max_size, shop)
            shop.emit(StageFinished(stage="read", detail=layer.digest[7:19]))


def _everything(component: str) -> bool:
    return True


def _in_server(path: str) -> bool:
    return path.startswith(HOME + "/")


def build(plan: Plan, shop: Workshop) -> Built:
    """Make what a plan says. The result is in the cache and in the stores that its other layers come from."""
    made = [_make(step, plan, shop) for step in plan.steps]
    image = _assemble(plan, made)
    held = Held({image.manifest.descriptor.digest: image.manifest.raw, image.manifest.config.digest: image.config_raw})
    return Built(image=image, store=Stack(held, shop.cache, *shop.elsewhere, plan.upstream.store))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer of the result, and what its line of history says; None where the upstream's line stays."""

    descriptor: Descriptor
    diff_id: str
    created_by: str | None


def _make(step: Step, plan: Plan, shop: Workshop) -> Sequence[_Layer]:
    match step:
        case Reuse():
            return [_Layer(descriptor=step.layer, diff_id=step.diff_id, created_by=None)]
        case Split():
            return _layers(_split(step, plan.upstream, shop), plan, "")
        case Graft():
            return _layers(graft(step, shop), plan, f"{step.takes} of {public_name(step.donor)}")
        case Add():
            return _layers(_add(step, plan.max_layer_size, shop), plan, step.title)
        case Unread():
            raise BuildFailed(f"layer {step.layer.digest} was never read, and the plan cannot be carried out")


def graft(step: Graft, shop: Workshop) -> Sequence[Part]:
    """Make the layers of a graft, or find them made. They are in the cache, or elsewhere in the shop."""
    return _split(step.split, step.donor, shop)


def _split(step: Split, upstream: Upstream, shop: Workshop) -> Sequence[Part]:
    kept = [one for one in step.slices if one.kept]
    known = [part for one in kept for part in one.parts]
    if step.known and shop.holds(known):
        return known
    fresh = _cut(step, upstream, shop)
    by_component: dict[str, list[Part]] = {}
    for part in fresh:
        by_component.setdefault(part.component, []).append(part)
    _compare(kept, by_component)
    shop.knowledge.remember_parts(step.layer.digest, step.manner, fresh)
    return [part for one in kept for part in by_component.get(one.component, ())]


def _cut(step: Split, upstream: Upstream, shop: Workshop) -> Sequence[Part]:
    missing = {one.component for one in step.slices if one.kept and not (one.parts and shop.holds(one.parts))}
    # A script names joined components, which its wanted ones are part of: it decides by itself what to write.
    wanted = _everything if shop.cut_all else missing.__contains__
    how = step.cut if step.script else replace(step.cut, wanted=wanted)
    cut = partial(layers.cut, how=how, create=shop.cache.incoming, script=step.script)
    outcome = _cut_layer(upstream, step.layer, shop, cut)
    if outcome.irregular is not None:
        raise Corrupt(f"layer {step.layer.digest} is not what it was when it was read before: {outcome.irregular}")
    made = {part.component for part in outcome.parts}
    return [*outcome.parts, *(part for one in step.slices for part in one.parts if one.component not in made)]


def _compare(kept: Sequence[Slice], fresh: Mapping[str, Sequence[Part]]) -> None:
    """A layer cut again must give what it gave before: someone may have published something else as known."""
    for one in kept:
        if one.parts and [part.blob for part in one.parts] != [part.blob for part in fresh.get(one.component, ())]:
            raise Corrupt(
                f"the layers known for {one.component} are not what cutting gives", hint="tricompose cache clear"
            )


def _add(step: Add, max_size: int, shop: Workshop) -> Sequence[Part]:
    return layers.write(
        (_added(file) for file in step.files),
        component=step.title,
        max_size=max_size,
        folders=step.folders,
        create=shop.cache.incoming,
    )


def _added(file: NewFile) -> Added:
    return Added(entry=file.entry, content=partial(_content, file.source) if file.source else None)


def _content(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


def _layers(parts: Sequence[Part], plan: Plan, title: str) -> Sequence[_Layer]:
    media_type = layer_media_type(plan.upstream.image.manifest.media_type)
    return [
        _Layer(
            descriptor=part_descriptor(part, media_type),
            diff_id=part.blob.diff_id,
            created_by=f"tricompose {title or part.component}",
        )
        for part in parts
    ]


def _cut_layer(upstream: Upstream, layer: Descriptor, shop: Workshop, cut: Callable[..., Outcome]) -> Outcome:
    """Read a layer and cut it. One that came corrupt from afar is fetched once more, from elsewhere if it can be."""
    store = holder(upstream.store, layer)
    try:
        return _cut_once(store, layer, shop, cut)
    except Corrupt:
        if not isinstance(store, Seekable):
            raise
    forget(shop.cache.path, layer.digest)
    distrust(store, layer)
    return _cut_once(store, layer, shop, cut)


def _cut_once(store: Store, layer: Descriptor, shop: Workshop, cut: Callable[..., Outcome]) -> Outcome:
    origin = f"layer {layer.digest}"
    with closing(_Reading(layer, shop.emit)) as reading:
        return cut(inflate(reading.pieces(store, shop.cache.path), origin=origin), origin=origin)


class _Reading:
    """The bytes of an upstream layer, with word of how far they are. Those of an earlier run are not fetched again."""

    def __init__(self, layer: Descriptor, emit: Emit) -> None:
        self._layer = layer
        self._emit = emit
        self._done = 0
        self._resumed = 0
        self._source: Generator[bytes] | None = None

    def pieces(self, store: Store, cache: Path) -> Iterator[bytes]:
        self._source = kept(store, self._layer, cache, self._resume)
        for chunk in self._source:
            yield chunk
            self._done += len(chunk)
            self._tell()

    def close(self) -> None:
        if self._source:
            self._source.close()

    def _resume(self, size: int) -> None:
        self._resumed = size

    def _tell(self) -> None:
        layer, done, resumed = self._layer, self._done, self._resumed
        self._emit(
            Transferred(digest=layer.digest, title="layer", action="read", done=done, total=layer.size, resumed=resumed)
        )


def _assemble(plan: Plan, made: Sequence[Sequence[_Layer]]) -> Image:
    """The manifest and config of the result, in the upstream's family of media types."""
    flat = [layer for some in made for layer in some]
    config_raw = make_config(
        plan.upstream.image,
        plan.config,
        plan.created,
        [layer.diff_id for layer in flat],
        _history(plan, made),
    )
    family = plan.upstream.image.manifest.media_type
    config = Descriptor.of(config_raw, DOCKER_CONFIG if family == DOCKER_MANIFEST else OCI_CONFIG)
    manifest = make_manifest(family, config, [layer.descriptor for layer in flat])
    return parse_image(manifest, config_raw)


def _history(plan: Plan, made: Sequence[Sequence[_Layer]]) -> Iterator[Mapping[str, Any]]:
    """The upstream's history, each layer that was cut told by its parts, then a line for each new layer."""
    upstream = upstream_history(plan.upstream.image)
    for entry, number in upstream:
        if number is None:
            yield entry
        else:
            yield from (_line(layer, entry, plan) for layer in made[number])
    for some in made[len(plan.upstream.image.layers) :]:
        yield from (_line(layer, {}, plan) for layer in some)


def _line(layer: _Layer, entry: Mapping[str, Any], plan: Plan) -> Mapping[str, Any]:
    if layer.created_by is None:
        return entry
    return {"created": plan.created, "created_by": layer.created_by, "comment": str(entry.get("created_by", ""))}


def _plain(part: Part) -> Descriptor:
    return part_descriptor(part, "application/octet-stream")
