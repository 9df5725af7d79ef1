"""The waist: everything that is decided, before anything is done. Pure functions; the engine only obeys."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from composer import config as configs
from composer.custom import BACKENDS, Brought, Donor, LocalBackend
from composer.errors import NotFound, Unplannable
from composer.files import LocalFile
from composer.inventory import CORE, KINDS, Component, Inventory, component_of, components
from composer.lock import Upstream
from composer.models.repository import Model, ModelRepository, needed_backends
from composer.oci.compression import CODEC
from composer.oci.image import Descriptor, chain_ids
from composer.oci.layer import Cut, Part, Script, irregularity, loses, script
from composer.oci.layer import component_of as component_of_entry
from composer.oci.tar import DIRECTORY, FILE, LINK, Entry, ancestors
from composer.oci.tree import Tree, hidden_by, is_whiteout
from composer.recipe import Recipe

MOST_LAYERS: Final = 125
"""Docker takes no more: overlay2 mounts 127, and a container adds two. Source: moby, layer_store.go, maxLayerDepth."""

KnownParts = Callable[[str, str], Sequence[Part]]
"""From a layer's digest and the manner of cutting it to the parts that are known to come of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """A layer that stays as it is, by digest."""

    layer: Descriptor
    diff_id: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A layer whose content is not known yet: it has to be read before it can be decided upon.

    One of another image than the upstream, the `donor`, is no part of the result: only something of it may be.
    """

    layer: Descriptor
    diff_id: str
    because: str
    donor: Upstream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What a layer holds of one component: bytes and files before compression, and its layers if they are known."""

    component: str
    kept: bool
    content: int
    files: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A layer that loses something: its slices, in order, and how to cut those that are not known."""

    layer: Descriptor
    diff_id: str
    slices: tuple[Slice, ...]
    manner: str
    cut: Cut
    script: Script | None
    because: str

    @property
    def known(self) -> bool:
        """Whether all that is kept of it has been cut before, so that it need not be read."""
        return all(one.parts for one in self.slices if one.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """A layer of another image that holds something of a component that is taken: it is cut, and the rest left."""

    takes: str
    donor: Upstream
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """An entry of a new layer, and the file of this machine that its content comes from."""

    entry: Entry
    source: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """A new layer: what it is called, its entries in order, and the folders above them."""

    title: str
    files: tuple[NewFile, ...]
    folders: Mapping[str, Entry]
    because: str

    @property
    def content(self) -> int:
        """Bytes of all its files."""
        return sum(file.entry.size for file in self.files)


Step = Reuse | Unread | Split | Graft | Add


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done for one platform, and why. `complete` if nothing has to be read before it is certain."""

    upstream: Upstream
    steps: tuple[Step, ...]
    kept: tuple[Component, ...]
    dropped: tuple[Component, ...]
    models: tuple[Model, ...]
    config: Mapping[str, Any]
    created: str
    max_layer_size: int

    @property
    def complete(self) -> bool:
        """Whether every layer has been decided upon."""
        return not any(isinstance(step, Unread) for step in self.steps)

    @property
    def upstream_size(self) -> int:
        """Compressed bytes of the upstream's layers."""
        return sum(layer.size for layer in self.upstream.image.layers)

    @property
    def size(self) -> int:
        """Compressed bytes of the result's layers: exact where they are known, else estimated from the source's."""
        return sum(size_of(step) for step in self.steps)

    @property
    def splits(self) -> tuple[Split, ...]:
        """All layers that are cut, the upstream's and those of other images."""
        found = (split_of(step) for step in self.steps)
        return tuple(split for split in found if split)

    @property
    def exact(self) -> bool:
        """Whether `size` is no estimate."""
        return not any(isinstance(step, Unread | Add) for step in self.steps) and all(one.known for one in self.splits)

    @property
    def to_read(self) -> int:
        """Bytes of layers that have to be read to cut them, or to learn what they hold."""
        unread = [step.layer for step in self.steps if isinstance(step, Unread)]
        layers = {layer.digest: layer for layer in (*unread, *(one.layer for one in self.splits if not one.known))}
        return sum(layer.size for layer in layers.values())

    @property
    def to_write(self) -> int:
        """Estimated bytes of the layers that will be made."""
        return sum(size_of(step) for step in self.steps if isinstance(step, Add)) + sum(
            slice_size(split, one) for split in self.splits for one in split.slices if one.kept and not one.parts
        )


def split_of(step: Step) -> Split | None:
    """How the layer of a step is cut, if it is."""
    return step.split if isinstance(step, Graft) else step if isinstance(step, Split) else None


def size_of(step: Step) -> int:
    """Compressed bytes that a step brings to the result, estimated where they are not known."""
    if isinstance(step, Split | Graft):
        split = step.split if isinstance(step, Graft) else step
        return sum(slice_size(split, one) for one in split.slices if one.kept)
    if isinstance(step, Unread) and step.donor:
        return 0
    return step.content if isinstance(step, Add) else step.layer.size


def slice_size(step: Split, one: Slice) -> int:
    """Compressed bytes of a slice: its share of the layer's, where its own layers are not known."""
    if one.parts:
        return sum(part.blob.size for part in one.parts)
    total = sum(each.content for each in step.slices)
    return step.layer.size * one.content // total if total else 0


def make_plan(
    recipe: Recipe,
    upstream: Upstream,
    inventory: Inventory,
    repositories: Sequence[ModelRepository],
    files: Sequence[LocalFile],
    packages: Sequence[LocalFile],
    brought: Brought,
    known: KnownParts,
    *,
    validated: str,
    epoch: int | None,
) -> Plan:
    """Decide. `brought` are the backends of other origin; `validated` is what the result's label says of its proof;
    `epoch` is SOURCE_DATE_EPOCH in seconds.

    Raises `NotFound` for a backend that the upstream lacks, `Unplannable` for what does not fit together, and
    `NeedsLower` where a layer of the base must be read after all.
    """
    tree = inventory.tree()
    present, new = components(tree), brought.components()
    certain = not _unread_above(upstream, inventory)
    selected = select(recipe, present, new, repositories, certain=certain)
    models = tuple(model for repository in repositories for model in repository.models)
    moment = configs.created(upstream.image, epoch)
    how = Cut(component_of=component_of, wanted=_wanted(present, selected), max_size=recipe.max_layer_size)
    look = tree.look if certain else tree.get
    steps = (
        *_layer_steps(upstream, inventory, how, present, known),
        *_brought_steps(brought, recipe.max_layer_size, known, look, configs.seconds(moment)),
        *_file_steps("packages", packages, tree, configs.seconds(moment)),
        *_model_steps(recipe, models, tree, configs.seconds(moment)),
        *_file_steps("files", files, tree, configs.seconds(moment)),
    )
    _refuse_too_many(steps, how.max_size)
    labels = {
        configs.UPSTREAM_LABEL: public_name(upstream),
        configs.BACKENDS_LABEL: ",".join(
            name.partition("/")[2]
            for name in sorted({*selected, *(one.key for one in new)})
            if name.startswith("backends/")
        ),
        configs.VALIDATION_LABEL: validated,
    }
    return Plan(
        upstream=upstream,
        steps=steps,
        kept=_ordered([*(one for one in present if one.key in selected), *new]),
        dropped=tuple(one for one in present if one.key not in selected),
        models=models,
        config=configs.changed_config(upstream.image, recipe, labels),
        created=moment,
        max_layer_size=recipe.max_layer_size,
    )


def public_name(upstream: Upstream) -> str:
    """What an image is for everybody: where it lay on this machine, or which mirror had it, is nobody's business."""
    digest = upstream.image.manifest.descriptor.digest
    return f"{upstream.origin.place}@{digest}" if upstream.origin.transport == "docker" else digest


# -- which components -----------------------------------------------------------------------------------------


def wished(
    recipe: Recipe, repositories: Sequence[ModelRepository], new: Sequence[Component] = ()
) -> Mapping[str, tuple[str, ...]]:
    """The names that a recipe asks the upstream for, by kind; `new` are the backends that it brings itself.

    Raises `Unplannable` where a model's backend is not among them, or a backend is to come from two places.
    """
    _refuse_double(recipe)
    own = {one.name for one in recipe.custom_backends}
    needed = needed_backends(repositories)
    backends = _needed(needed, new, own) if recipe.backends == "auto" else recipe.backends
    if missing := sorted({*needed} - {*backends} - own):
        users = [model.name for one in repositories for model in one.models if model.backend == missing[0]]
        raise Unplannable(
            f"the model {users[0]} needs the backend {missing[0]}, which the recipe leaves out",
            hint=f"backends: [{', '.join([*backends, *missing])}]   (or: backends: auto)",
        )
    return dict(zip(KINDS, (backends, recipe.repoagents, recipe.caches), strict=True))


def _needed(needed: Sequence[str], some: Iterable[Component], own: Iterable[str]) -> tuple[str, ...]:
    """What models need, and with it what the backends among `some` cannot be without, but for the recipe's `own`."""
    besides = {need for one in some if one.kind == "backends" for need in one.needs}
    return tuple(sorted({*needed, *besides} - {*own}))


def _refuse_double(recipe: Recipe) -> None:
    for number, custom in enumerate(recipe.custom_backends):
        if custom.name in recipe.backends and recipe.backends != "auto":
            rest = ", ".join(name for name in recipe.backends if name != custom.name)
            instead = f"backends: [{rest}]" if rest else "backends: auto"
            raise Unplannable(
                f"{recipe.where('custom_backends', number, 'name')}: the backend {custom.name} stands in `backends` "
                "too, and there can be only one",
                hint=f"{instead}   (the upstream's own is then left out, if it has one)",
            )


def select(
    recipe: Recipe,
    present: Sequence[Component],
    new: Sequence[Component],
    repositories: Sequence[ModelRepository],
    *,
    certain: bool,
) -> frozenset[str]:
    """The keys of the components to keep, beside the `new` ones that the recipe brings.

    What is missing is refused only once it is `certain` what there is.
    """
    names = dict(wished(recipe, repositories, new))
    own = {one.name for one in recipe.custom_backends}
    if recipe.backends == "auto":
        served = (one for one in present if one.name in names["backends"])
        names["backends"] = _needed(names["backends"], served, own)
    if certain:
        for kind, some in names.items():
            _refuse_absent(recipe, kind, some, [one.name for one in present if one.kind == kind])
        replaced = [one for one in present if not (one.kind == "backends" and one.name in own)]
        _refuse_stranded(names["backends"], own, [*replaced, *new])
    return frozenset(f"{kind}/{name}" for kind, some in names.items() for name in some)


def _ordered(some: Iterable[Component]) -> tuple[Component, ...]:
    return tuple(sorted(some, key=lambda one: (KINDS.index(one.kind), one.name)))


_SINGULAR: Final = {"backends": "backend", "repoagents": "repository agent", "caches": "cache"}


def _refuse_absent(recipe: Recipe, kind: str, names: Sequence[str], there: Sequence[str]) -> None:
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
            meant = f'did you mean "{near[0]}"? ' if near else ""
            written = getattr(recipe, kind)
            where = recipe.where(kind, written.index(name)) if name in written else recipe.where("models")
            raise NotFound(
                f"{where}: the upstream has no {_SINGULAR[kind]} {name!r}",
                hint=f"{meant}it has: {', '.join(there) or 'none'}",
            )


def _refuse_stranded(backends: Sequence[str], own: Set[str], some: Sequence[Component]) -> None:
    there = {*backends, *own}
    for one in some:
        missing = [need for need in one.needs if need not in there]
        if one.kind == "backends" and one.name in there and missing:
            raise Unplannable(
                f"the backend {one.name} is written in Python: it runs only beside the {missing[0]} backend",
                hint=f"backends: [{', '.join([*backends, *missing])}]",
            )


def _wanted(present: Sequence[Component], selected: frozenset[str]) -> Callable[[str], bool]:
    droppable = {one.key for one in present} - selected
    return lambda component: component not in droppable


def _unread_above(upstream: Upstream, inventory: Inventory) -> tuple[str, ...]:
    return tuple(digest for digest in inventory.unread() if digest not in upstream.base)


# -- layers of the upstream -----------------------------------------------------------------------------------


def _layer_steps(
    upstream: Upstream, inventory: Inventory, how: Cut, present: Sequence[Component], known: KnownParts
) -> Iterable[Step]:
    tree = Tree(partial=bool(inventory.unread()))
    chain = ("", *chain_ids(upstream.image.diff_ids))
    for number, (layer, diff_id) in enumerate(zip(upstream.image.layers, upstream.image.diff_ids, strict=True)):
        entries = inventory.layers.get(layer.digest)
        if entries is None:
            yield _unread(upstream, layer, diff_id)
            continue
        flaw = irregularity(entries, how.component_of)
        below = tree.copy() if flaw else None
        if not loses(entries, tree.apply(entries), how):
            yield Reuse(layer=layer, diff_id=diff_id, because="nothing in it is dropped")
            continue
        plot = script(entries, how, below) if flaw else None
        manner = manner_of(how.max_size, flaw and _situation(chain[number], present, how))
        yield _split(layer, diff_id, entries, how, plot, manner, known(layer.digest, manner))


def _unread(upstream: Upstream, layer: Descriptor, diff_id: str) -> Reuse | Unread:
    if layer.digest in upstream.base:
        because = f"shared with {upstream.base_of}: taken to hold no backends, not read"
        return Reuse(layer=layer, diff_id=diff_id, because=because)
    return Unread(layer=layer, diff_id=diff_id, because="never read before: what it holds is not known")


def manner_of(max_size: int, situation: str | None) -> str:
    """What the bytes of a layer's parts depend on besides the layer: names what is kept in the cache.

    Parts of an irregular layer depend on its `situation` too: what lies below it, and what is dropped.
    """
    return f"2 {CODEC} {max_size} {situation or ''}"


def _situation(chain_id: str, present: Sequence[Component], how: Cut) -> str:
    dropped = sorted(one.key for one in present if not how.wanted(one.key))
    return hashlib.sha256(" ".join([chain_id, *dropped]).encode()).hexdigest()


def _split(
    layer: Descriptor,
    diff_id: str,
    entries: Sequence[Entry],
    how: Cut,
    plot: Script | None,
    manner: str,
    parts: Sequence[Part],
) -> Split:
    slices = _slices(_holdings(entries, how, plot), parts)
    dropped = ", ".join(one.component.partition("/")[2] for one in slices if not one.kept)
    return Split(
        layer=layer,
        diff_id=diff_id,
        slices=slices,
        manner=manner,
        cut=how,
        script=plot,
        because=f"loses {dropped}",
    )


def _holdings(entries: Sequence[Entry], how: Cut, plot: Script | None) -> Mapping[tuple[str, bool], Sequence[Entry]]:
    """What will be written for each kept component, and what each dropped one holds."""
    held: dict[tuple[str, bool], list[Entry]] = {}
    if plot:
        for writes in plot.writes.values():
            for write in writes:
                held.setdefault((write.component, True), []).append(write.entry)
    for entry in entries:
        component = component_of_entry(entry, how.component_of)
        if component is not None and not (plot and how.wanted(component)):
            held.setdefault((component, how.wanted(component)), []).append(entry)
    return held


def _slices(held: Mapping[tuple[str, bool], Sequence[Entry]], parts: Sequence[Part]) -> tuple[Slice, ...]:
    made: dict[str, list[Part]] = {}
    for part in parts:
        made.setdefault(part.component, []).append(part)
    slices = (
        Slice(
            component=component,
            kept=kept,
            content=sum(entry.size for entry in some),
            files=sum(entry.kind != DIRECTORY and not is_whiteout(entry) for entry in some),
            parts=tuple(sorted(made.get(component, ()), key=lambda part: part.number)) if kept else (),
        )
        for (component, kept), some in held.items()
    )
    # Whiteouts hide only what other layers brought, so the core, which has them, comes first.
    return tuple(sorted(slices, key=lambda one: (CORE not in one.component.split("+"), one.component)))


# -- backends of other origin ---------------------------------------------------------------------------------


Look = Callable[[str], Entry | None]
"""What stands at a canonical path of the upstream."""


def _brought_steps(
    brought: Brought, max_size: int, known: KnownParts, look: Look, mtime: int
) -> Iterable[Graft | Unread | Add]:
    """First what other images bring, then what this machine does; the folders above them stay the upstream's."""
    grafts = [step for donor in brought.donors for step in _graft_steps(donor, max_size, known)]
    yield from grafts
    if not grafts and not brought.local:
        return
    above = {path: _known_folder(look(path), path, mtime) for path in ancestors(f"{BACKENDS}/x")}
    for backend in brought.local:
        yield _backend_step(backend, above, mtime)
    if not brought.local:
        # The layers of a donor carry its own folders, with owners and times that are not the upstream's.
        mended = tuple(NewFile(entry=entry) for entry in above.values())
        yield Add(title="folders", files=mended, folders={}, because="above custom_backends, as the upstream has them")


def _backend_step(backend: LocalBackend, above: Mapping[str, Entry], mtime: int) -> Add:
    """One layer for a backend. Everything in it belongs to whom the upstream's backends belong to."""
    owner = above[BACKENDS]
    entries = (_local_entry(file.target, file, mtime) for file in backend.files)
    owned = (entry._replace(uid=owner.uid, gid=owner.gid) for entry in entries)
    return Add(
        title=f"backends/{backend.name}",
        files=tuple(_linked(zip(owned, (file.source for file in backend.files), strict=True))),
        folders=above,
        because=f"custom_backends: {backend.path}",
    )


def _linked(files: Iterable[tuple[Entry, Path | None]]) -> Iterable[NewFile]:
    """A file that several names lead to is there once: libraries come with chains of links."""
    first: dict[Path, str] = {}
    for entry, source in files:
        if source in first:
            yield NewFile(entry=entry._replace(kind=LINK, link=first[source], size=0))
            continue
        if source:
            first[source] = entry.path
        yield NewFile(entry=entry, source=source)


def _graft_steps(donor: Donor, max_size: int, known: KnownParts) -> Sequence[Graft | Unread]:
    """The layers of another image that hold something of the one backend, in order. Nothing else of it is taken."""
    how = Cut(component_of=component_of, wanted=donor.key.__eq__, max_size=max_size)
    tree = Tree(partial=bool(donor.inventory.unread()))
    chain = ("", *chain_ids(donor.image.image.diff_ids))
    steps: list[Graft | Unread] = []
    pairs = zip(donor.image.image.layers, donor.image.image.diff_ids, strict=True)
    for number, (layer, diff_id) in enumerate(pairs):
        entries = donor.inventory.layers.get(layer.digest)
        if entries is None:
            if layer.digest not in donor.image.base:
                because = f"never read before: {donor.key} may be in it"
                steps.append(Unread(layer=layer, diff_id=diff_id, because=because, donor=donor.image))
            continue
        flaw = irregularity(entries, how.component_of)
        below = tree.copy() if flaw else None
        paths = tree.apply(entries)
        if _uproots(entries, donor.key):
            steps.clear()
        if not _concerns(entries, paths, donor.key):
            continue
        plot = script(entries, how, below) if flaw else None
        manner = manner_of(max_size, flaw and f"{chain[number]} only {donor.key}")
        split = _split(layer, diff_id, entries, how, plot, manner, known(layer.digest, manner))
        if any(one.kept for one in split.slices):
            steps.append(Graft(takes=donor.key, donor=donor.image, split=replace(split, because=f"only {donor.key}")))
    return steps


def _uproots(entries: Iterable[Entry], key: str) -> bool:
    """Whether a layer takes away the whole backend that layers below it have: by its folder, or by one above that."""
    folder = f"{BACKENDS}/{key.partition('/')[2]}"
    above = {"", *ancestors(folder), folder}
    return any(
        hidden_by(entry) in above if is_whiteout(entry) else entry.path in above and entry.kind != DIRECTORY
        for entry in entries
    )


def _concerns(entries: Iterable[Entry], paths: Iterable[str], key: str) -> bool:
    """Whether a layer has anything to do with a component, by the names it uses or by where they lead."""
    spelled = (component_of_entry(entry, component_of) for entry in entries)
    return any(key in some for some in (map(component_of, paths), spelled))


# -- new layers -----------------------------------------------------------------------------------------------


def _model_steps(recipe: Recipe, models: Sequence[Model], tree: Tree, mtime: int) -> Iterable[Add]:
    root = model_root(recipe)
    for model in models:
        yield Add(
            title=f"model {model.name}",
            files=_model_files(model, root, mtime),
            # A base that was not read is taken to have no such folder, as NVIDIA's have none.
            folders={path: _known_folder(tree.get(path), path, mtime) for path in ancestors(f"{root}/x")},
            because=f"models: {model.origin or model.folder.parent}",
        )


def model_root(recipe: Recipe) -> str:
    """The folder of the image, without leading slash, that models are baked into: where its server looks for them."""
    said = recipe.server.get("model-repository", "/models")
    return str(said[0] if isinstance(said, tuple) else said).strip("/")


def _model_files(model: Model, root: str, mtime: int) -> tuple[NewFile, ...]:
    folders = [NewFile(entry=_folder(f"{root}/{path}", mtime)) for path in model.folders]
    files = [
        NewFile(entry=_file(f"{root}/{file.path}", file.size, file.mode, mtime), source=file.source)
        for file in model.files
    ]
    return tuple(sorted(folders + files, key=lambda one: one.entry.path.split("/")))


def _file_steps(title: str, files: Sequence[LocalFile], tree: Tree, mtime: int) -> Iterable[Add]:
    """One layer for all files of one key of the recipe, each at its canonical path, below folders as they are."""
    if not files:
        return
    placed = {tree.resolve(file.target): file for file in files}
    for path, file in placed.items():
        _refuse_covering(tree, path, file, title)
    folders = {folder for path in placed for folder in ancestors(path)} - set(placed)
    yield Add(
        title=title,
        files=tuple(
            NewFile(entry=_local_entry(path, placed[path], mtime), source=placed[path].source)
            for path in sorted(placed, key=lambda path: path.split("/"))
        ),
        folders={path: _known_folder(tree.look(path), path, mtime) for path in folders},
        because=title,
    )


def _refuse_covering(tree: Tree, path: str, file: LocalFile, title: str) -> None:
    entry = tree.look(path)
    if entry and (entry.kind == DIRECTORY) != (file.source is None):
        kind = "folder" if entry.kind == DIRECTORY else "file"
        raise Unplannable(f"{title}: /{path} is a {kind} in the upstream", hint="choose another target")


def _local_entry(path: str, file: LocalFile, mtime: int) -> Entry:
    entry = _folder(path, mtime) if file.source is None else _file(path, file.size, file.mode, mtime)
    return entry._replace(mode=file.mode)


def _known_folder(entry: Entry | None, path: str, mtime: int) -> Entry:
    """A folder that the upstream has keeps its metadata; anything else under that name must not be covered."""
    if entry and entry.kind != DIRECTORY:
        raise Unplannable(f"/{path} is no folder in the upstream, so nothing can be put into it")
    return entry or _folder(path, mtime)


def _folder(path: str, mtime: int) -> Entry:
    return Entry(path, DIRECTORY, 0o755, 0, 0, 0, mtime * 1_000_000_000)


def _file(path: str, size: int, mode: int, mtime: int) -> Entry:
    return Entry(path, FILE, mode, 0, 0, size, mtime * 1_000_000_000)


def _refuse_too_many(steps: Sequence[Step], max_size: int) -> None:
    count = sum(_count(step, max_size) for step in steps)
    if count > MOST_LAYERS:
        raise Unplannable(
            f"the result would have {count} layers, and Docker takes at most {MOST_LAYERS}",
            hint="raise max_layer_size, or put models into fewer repositories",
        )


def _count(step: Step, max_size: int) -> int:
    if split := split_of(step):
        return sum(len(one.parts) or max(1, one.content // max_size) for one in split.slices if one.kept)
    return max(1, step.content // max_size) if isinstance(step, Add) else 1
