"""Reads the layers of an image once, and keeps what was learned of each by its digest, so that none is read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Final

from composer.checks.image.notes import MANNER, Notes, decode, encode, take_notes
from composer.checks.image.subject import Layer
from composer.errors import Corrupt
from composer.events import Emit, Transferred
from composer.knowledge import Knowledge
from composer.oci.compression import inflate
from composer.oci.image import Descriptor, Image
from composer.oci.store import Store
from composer.oci.tar import Entry

_AT_ONCE: Final = 2
"""Layers that are read at a time. Inflating and hashing run outside of Python's lock, and little else takes long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read: the layers from the bottom up, the files that were to be kept, by layer and path there, and how
    many layers were read now. The others were known."""

    layers: Sequence[Layer]
    kept: Mapping[tuple[int, str], bytes]
    read: int


def read_layers(image: Image, store: Store, knowledge: Knowledge, keep: Set[str], emit: Emit) -> Reading:
    """All layers of an image; `keep` are paths of files that are kept whole where a layer is read anyway.

    Raises what the store raises, and `Corrupt` for what is no layer.
    """
    known = {layer.digest: _known(layer.digest, knowledge) for layer in image.layers}
    unknown = [
        layer for layer in {layer.digest: layer for layer in image.layers}.values() if known[layer.digest] is None
    ]
    kept: dict[str, Mapping[str, bytes]] = {}
    stop = Event()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [pool.submit(_read, layer, _Source(store, emit, stop), knowledge, keep) for layer in unknown]
        try:
            for layer, job in zip(unknown, jobs, strict=True):
                known[layer.digest], kept[layer.digest] = job.result()
        except BaseException:
            # Ctrl-C, or a layer that cannot be read: what is half read now ends as well.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    layers = [found for layer in image.layers if (found := known[layer.digest])]
    held = {
        (number, path): data
        for number, layer in enumerate(image.layers)
        for path, data in kept.get(layer.digest, {}).items()
    }
    return Reading(layers=layers, kept=held, read=len(unknown))


def read_file(image: Image, number: int, path: str, store: Store, knowledge: Knowledge, emit: Emit) -> bytes:
    """One file of a layer, by the layer's number: that layer is read again for it."""
    layer = image.layers[number]
    _, _, kept = _noted(layer, _Source(store, emit, Event()), knowledge, {path})
    return kept.get(path, b"")


def _known(digest: str, knowledge: Knowledge) -> Layer | None:
    notes = knowledge.notes(digest, MANNER)
    entries = None if notes is None else knowledge.entries(digest)
    return None if notes is None or entries is None else Layer(digest=digest, entries=entries, notes=decode(notes))


@dataclass(frozen=True, slots=True)
class _Source:
    """Where layers come from, whom to tell how far they are, and whether to go on."""

    store: Store
    emit: Emit
    stop: Event

    def read(self, layer: Descriptor) -> Iterator[bytes]:
        """The bytes of a layer; they end before their time once it is to stop."""
        done = 0
        for chunk in self.store.read(layer):
            if self.stop.is_set():
                return
            yield chunk
            done += len(chunk)
            self.emit(Transferred(digest=layer.digest, title="layer", action="read", done=done, total=layer.size))


def _read(
    layer: Descriptor, source: _Source, knowledge: Knowledge, keep: Set[str]
) -> tuple[Layer, Mapping[str, bytes]]:
    entries, notes, kept = _noted(layer, source, knowledge, keep)
    if source.stop.is_set():
        raise Corrupt(f"layer {layer.digest} was not read to its end")
    if not knowledge.knows(layer.digest):
        knowledge.remember_entries(layer.digest, entries)
    knowledge.remember_notes(layer.digest, MANNER, encode(notes))
    return Layer(digest=layer.digest, entries=entries, notes=notes), kept


def _noted(
    layer: Descriptor, source: _Source, knowledge: Knowledge, keep: Set[str]
) -> tuple[Sequence[Entry], Notes, Mapping[str, bytes]]:
    origin = f"layer {layer.digest}"
    chunks = inflate(source.read(layer), origin=origin)
    return take_notes(chunks, origin=origin, scratch=knowledge.scratch, keep=keep)
