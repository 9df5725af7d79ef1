"""From recipes to a bundle: each is built and proved, then all that it was made of, and is, goes in. Each blob once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from composer import pipeline
from composer.bundle.artifacts import Piece, make_artifact
from composer.bundle.document import Bundle
from composer.bundle.draft import Thing, draft
from composer.bundle.signing import sign
from composer.bundle.writing import Supply, requires, write
from composer.bundling import kinds
from composer.bundling.folders import Folder, folder_of
from composer.bundling.having import known_by
from composer.bundling.kinds import LAYOUTS, NAME, RECIPE_PATH
from composer.bundling.reports import report_of
from composer.bundling.toolkit import tool_files
from composer.errors import NotFound, Unplannable
from composer.events import StageFinished, StageStarted
from composer.lock import LockedStore, images_of, references
from composer.lockfile import ImagePin, Lock
from composer.models.sources import Shelf
from composer.oci.copy import Stack, choose, survey
from composer.oci.image import Descriptor, Platform
from composer.oci.layout import LayoutStore
from composer.oci.names import TRANSPORTS, Reference
from composer.oci.referrers import attached_to, referrers_of
from composer.oci.store import Store
from composer.oci.transports import open_source
from composer.pipeline import Outcome
from composer.recipe import Recipe
from composer.wheels import SHELF as WHEELS
from composer.with_server import Proving
from composer.words import count, size
from composer.workplace import Workplace

_MODELS = "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a bundle is to be. `part_size` is in bytes; `since`: what the far side has; `key` signs it.

    `images_only` leaves out recipes, models, wheels, locks and reports.
    """

    part_size: int | None = None
    since: Sequence[Path] = ()
    key: Path | None = None
    with_tool: bool = False
    images_only: bool = False
    platforms: Sequence[Platform] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """A recipe, the place that it is built at, and what came of that."""

    recipe: Recipe
    place: Workplace
    outcome: Outcome


def create(
    wanted: Sequence[tuple[Recipe, Workplace]], out: Path, packing: Packing, *, how: Proving | None
) -> tuple[Bundle, Path]:
    """Build what is not built, and write the bundle `out` (a folder and a name). Returns it, and its document's path.

    Without `how` nothing is proved. Raises what `pipeline.build` raises; `NoRoom` before the first byte is written.
    """
    place = wanted[0][1]
    known = {digest: at for path in packing.since for digest, at in known_by(path).items()}
    orders = [_built(recipe, one, packing, how) for recipe, one in wanted]
    with ExitStack() as stack:
        place.emit(StageStarted(stage="gather", detail="what is to go in"))
        things = list(_things(orders, packing, stack))
        loose = tool_files(place) if packing.with_tool else ()
        made = draft(things, loose, known, tool=f"tricompose {version('tricompose')}")
        requires(out.parent, made)
        told = f"{count(len(things), 'thing')}, {size(made.size)}"
        place.emit(StageFinished(stage="gather", detail=told))
        place.emit(StageStarted(stage="bundle", detail=str(out)))
        bundle = write(
            made,
            Supply(things, loose),
            out.parent,
            out.name,
            part_size=packing.part_size,
            finish=lambda document: sign(document, packing.key) if packing.key else None,
            emit=place.emit,
            jobs=place.jobs,
        )
    place.emit(StageFinished(stage="bundle", detail=f"{size(bundle.size)} in {count(len(bundle.parts), 'part')}"))
    return bundle, out.with_name(f"{out.name}.bundle.json")


def _built(recipe: Recipe, place: Workplace, packing: Packing, how: Proving | None) -> _Order:
    if packing.platforms:
        recipe = recipe.model_copy(update={"platforms": tuple(packing.platforms)})
    return _Order(recipe=recipe, place=place, outcome=pipeline.build(recipe, place, outputs=(), how=how))


# -- what goes in -------------------------------------------------------------------------------------------------


def _things(orders: Sequence[_Order], packing: Packing, stack: ExitStack) -> Iterator[Thing]:
    upstreams = list(_upstreams(orders, stack))
    yield from upstreams
    names: dict[str, str] = {}
    for order in orders:
        yield _composed(order, names, stack)
    if not packing.images_only:
        called = {thing.called: thing.contents.root.descriptor for thing in upstreams if thing.called}
        yield from _artifacts(orders, called)


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """An image that recipes start from: where it is, for which platforms it is wanted, whether its layers are."""

    reference: Reference
    store: Store
    root: Descriptor
    platforms: dict[str, Platform] = field(default_factory=dict)
    slight: bool = True


def _upstreams(orders: Sequence[_Order], stack: ExitStack) -> Iterator[Thing]:
    wanted: dict[str, _Wanted] = {}
    for order in orders:
        for reference in _origins(order.recipe):
            name = kinds.name_of(reference)
            if name not in wanted and (found := _found(reference, order, stack)):
                wanted[name] = found
            if one := wanted.get(name):
                one.platforms |= {str(platform): platform for platform in order.recipe.platforms}
                one.slight &= _is_slight(reference, order.recipe)
    for name, one in wanted.items():
        thing = _upstream(name, one)
        yield thing
        yield from _attached(thing, one)


def _origins(recipe: Recipe) -> Iterator[Reference]:
    """The images that a recipe starts from. Those that only models come from are on the shelf, as models."""
    models = {model.source for model in recipe.models if model.source}
    for reference in images_of(recipe):
        if not any(source.partition(":")[0] in TRANSPORTS and str(reference) == source for source in models):
            yield reference


def _found(reference: Reference, order: _Order, stack: ExitStack) -> _Wanted | None:
    """An image as the build has found it. One that only follows from the release need not be there."""
    cache = LayoutStore(order.place.cache)
    store: Store = open_source(reference, order.place.access)
    stack.callback(store.close)
    if reference.transport == "docker":
        store = LockedStore(reference, cache, store, order.place.ledger)
    try:
        return _Wanted(reference=reference, store=store, root=store.resolve(reference.name))
    except NotFound:
        if order.recipe.upstream is None and reference == references(order.recipe)[1]:
            return None
        raise


def _is_slight(reference: Reference, recipe: Recipe) -> bool:
    """Whether only the manifest of an image is needed: of a `-min` one, unless a Dockerfile begins with it."""
    return reference == references(recipe)[1] and recipe.engine == "direct"


def _upstream(name: str, one: _Wanted) -> Thing:
    root, held = choose(one.store, one.root, tuple(one.platforms.values()))
    return Thing(
        name=name,
        kind=kinds.BASE if one.slight else kinds.UPSTREAM,
        contents=survey(Stack(held, one.store), root),
        source=one.store,
        platforms=tuple(sorted(one.platforms)),
        called=kinds.source_of(one.reference),
        slight=one.slight,
    )


def _attached(subject: Thing, one: _Wanted) -> Iterator[Thing]:
    """Signatures and other things about the manifests of an image, and about these in their turn."""
    repository = subject.name.partition("@")[0].rpartition(":")[0]
    seen: set[str] = set()
    pending = [manifest.descriptor for manifest in subject.contents.manifests]
    if one.root not in pending:
        pending.append(one.root)
    while pending:
        about = pending.pop()
        tagged = {entry.digest: tag for tag, entry in attached_to(one.store, about).items()}
        entries = {entry.digest: entry for entry in (*attached_to(one.store, about).values(), *_about(one, about))}
        for digest, entry in sorted(entries.items()):
            if digest not in seen:
                seen.add(digest)
                pending.append(entry)
                yield _attachment(repository, entry, tagged.get(digest), one)


def _about(one: _Wanted, about: Descriptor) -> tuple[Descriptor, ...]:
    return referrers_of(one.store, about)


def _attachment(repository: str, entry: Descriptor, tag: str | None, one: _Wanted) -> Thing:
    name = f"{repository}:{tag}" if tag else f"{repository}@{entry.digest}"
    return Thing(
        name=name,
        kind=kinds.ATTACHED,
        contents=survey(one.store, entry),
        source=one.store,
        called=str(replace(one.reference, tag=tag, digest=None if tag else entry.digest)),
    )


def _composed(order: _Order, names: dict[str, str], stack: ExitStack) -> Thing:
    assert order.outcome.cached
    name = kinds.composed_name(order.recipe)
    if name in names:
        hint = "name: ... in one of them, or a bundle for each"
        raise Unplannable(f"the images of {names[name]} and {order.recipe.path} are both called {name}", hint=hint)
    names[name] = str(order.recipe.path)
    store = stack.enter_context(closing(LayoutStore(order.place.cache)))
    return Thing(
        name=name,
        kind=kinds.COMPOSED,
        contents=survey(store, order.outcome.root),
        source=store,
        platforms=tuple(str(image.platform) for image in order.outcome.images),
        docker=kinds.docker_name(name),
    )


# -- what is no image ---------------------------------------------------------------------------------------------


def _artifacts(orders: Sequence[_Order], images: Mapping[str, Descriptor]) -> Iterator[Thing]:
    stems: dict[str, int] = {}
    for order in orders:
        stem = kinds.stem_of(order.recipe)
        stems[stem] = stems.get(stem, 0) + 1
        name = stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"
        lock = _lock_text(order.place.ledger.used, images)
        folder = folder_of(order.recipe, lock, order.place.emit)
        yield _recipe(name, folder)
        if order.outcome.reports:
            yield _report(name, order)
    pieces = {piece.path: piece for order in orders for piece in _shelf(order.place.cache, order.place.ledger.used)}
    if pieces:
        yield _artifact("shelf", kinds.SHELF, tuple(pieces.values()))


def _lock_text(lock: Lock, images: Mapping[str, Descriptor]) -> bytes:
    """The lock as it is true on the far side: there a name means what of its index went in, and not the index."""
    pins = {
        name: ImagePin(digest=one.digest, size=one.size, media_type=one.media_type) if pin and one else pin
        for name, pin in lock.images.items()
        for one in [images.get(name)]
    }
    document = lock.model_copy(update={"images": pins}).to_json()
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _recipe(name: str, folder: Folder) -> Thing:
    notes = {NAME: name, RECIPE_PATH: folder.recipe}
    if folder.layouts:
        notes[LAYOUTS] = json.dumps(folder.layouts, sort_keys=True)
    return _artifact(f"recipe/{name}", kinds.RECIPE, folder.pieces, folder.folders, notes)


def _report(name: str, order: _Order) -> Thing:
    assert order.recipe.path
    raw = report_of(order.place.cache, order.recipe.path.read_bytes(), order.outcome.root.digest, order.outcome.reports)
    piece = Piece(path=f"{name}.report.json", source=raw, size=len(raw), digest=Descriptor.of(raw, "").digest)
    return _artifact(f"report/{name}", kinds.REPORT, (piece,), (), {NAME: name})


def _artifact(
    name: str, kind: str, pieces: Sequence[Piece], folders: Sequence[str] = (), notes: Mapping[str, str] | None = None
) -> Thing:
    contents, store = make_artifact(kinds.artifact_type(kind), pieces, folders, notes or {})
    return Thing(name=name, kind=kind, contents=contents, source=store)


def _shelf(cache: Path, lock: Lock) -> Iterable[Piece]:
    """Fetched models and wheels, where a cache keeps them."""
    shelf = Shelf(cache / _MODELS)
    for pin in lock.models.values():
        yield from _model(cache, shelf, pin.digest)
    for pins in lock.wheels.values():
        for wheel in pins:
            path = f"{WHEELS}/sha256/{wheel.sha256}/{wheel.filename}"
            place = cache / path
            if place.is_file():
                yield Piece(path=path, source=place, size=place.stat().st_size, digest=f"sha256:{wheel.sha256}")


def _model(cache: Path, shelf: Shelf, digest: str) -> Iterable[Piece]:
    """A fetched file, or a folder: its list and all its files."""
    files = shelf.tree(digest)
    if files is None:
        alone = shelf.file(digest, "model")
        files = (alone,) if alone else ()
    else:
        place = cache / _MODELS / "trees" / digest.removeprefix("sha256:")
        yield Piece(path=place.relative_to(cache).as_posix(), source=place, size=place.stat().st_size, digest=digest)
    for file in files:
        path = file.place.relative_to(cache).as_posix()
        yield Piece(path=path, source=file.place, size=file.size, digest=file.digest)
