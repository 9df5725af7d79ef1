"""Backends of other origin: found, read, and looked into before they go into an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import IO

from composer.compatibility import (
    RELEASE,
    Candidate,
    Host,
    Misfit,
    environment,
    host,
    judge_build,
    judge_libraries,
    judge_packages,
    judge_release,
    judge_versions,
)
from composer.custom import BACKENDS, Brought, Donor, LocalBackend, survey_custom
from composer.elf import MAGIC, Binary, read_elf
from composer.engines.direct import Workshop, graft, learn_image
from composer.errors import Corrupt, Unplannable
from composer.events import Emit, Warned
from composer.inventory import HOME, Component
from composer.knowledge import part_descriptor
from composer.lock import Upstream, resolve_donor
from composer.oci.compression import inflate
from composer.oci.contents import contents
from composer.oci.copy import Stack
from composer.oci.image import OCI_LAYER
from composer.oci.layer import Part
from composer.oci.names import Reference
from composer.oci.tar import DIRECTORY, LINK, SYMLINK, Entry
from composer.oci.tree import NeedsLower, Tree, join
from composer.plan import Graft, Plan
from composer.recipe import Recipe
from composer.releases import RELEASES


def find(recipe: Recipe, local: tuple[LocalBackend, ...], upstream: Upstream, shop: Workshop) -> Brought:
    """Everything that `custom_backends` brings to an upstream: the images are looked up, and no layer is read.

    Raises what the stores raise, and `Unplannable` for what can be seen not to fit before anything is read.
    """
    donors = [
        _donor(recipe, number, recipe.place(one.image), upstream, shop)
        for number, one in enumerate(recipe.custom_backends)
        if one.image
    ]
    offered = _host(recipe, upstream, Tree(), ())
    early = [misfit for one in donors for misfit in _of_release(one, upstream)]
    early += [misfit for one in local for misfit in judge_build(_candidate(one), offered)]
    settle([one for one in early if one.fatal], shop.emit)
    return Brought(local=local, donors=tuple(donors))


def _donor(recipe: Recipe, number: int, source: Reference, upstream: Upstream, shop: Workshop) -> Donor:
    found = resolve_donor(recipe, source, upstream, shop.open)
    return Donor(
        name=recipe.custom_backends[number].name,
        where=recipe.where("custom_backends", number, "image"),
        source=source,
        image=found,
        inventory=shop.knowledge.inventory(found.image),
    )


def read(brought: Brought, max_size: int, shop: Workshop, *, all_layers: bool) -> Brought:
    """Read the layers of donors that nobody has read, but those of their bases only if all are asked for.

    Returns the same backends, with what is known of their images now.
    """
    wanted = {one.key for one in brought.donors}
    donors = [_read(one, wanted, max_size, shop, all_layers=all_layers) for one in brought.donors]
    return replace(brought, donors=tuple(donors))


def _read(donor: Donor, wanted: Set[str], max_size: int, shop: Workshop, *, all_layers: bool) -> Donor:
    learn_image(donor.image, wanted.__contains__, max_size, shop, all_layers=all_layers)
    found = replace(donor, inventory=shop.knowledge.inventory(donor.image.image))
    try:
        found.inventory.tree()
    except NeedsLower:
        return _read(donor, wanted, max_size, shop, all_layers=True)
    return found


# -- whether they can run -----------------------------------------------------------------------------------------


def fit(recipe: Recipe, plan: Plan, brought: Brought, shop: Workshop, *, deep: bool) -> None:
    """Warn of what may keep a backend of other origin from running in the planned image, and refuse what will.

    With `deep` the layers that are taken from other images are made, so that their files can be looked into.
    Raises `Unplannable`, `Corrupt`.
    """
    tree = shop.knowledge.inventory(plan.upstream.image).tree()
    offered = _host(recipe, plan.upstream, tree, plan.dropped)
    candidates = [_candidate(one) for one in brought.local]
    found: list[Misfit] = []
    for donor in brought.donors if deep else ():
        theirs = donor.inventory.tree()
        candidates.append(_grafted(donor, theirs, plan, shop))
        if donor.component(theirs).needs:
            found += judge_packages(donor.name, donor.where, donor.source, theirs, tree)
    for one in candidates:
        found += judge_build(one, offered)
        found += judge_libraries(one, offered) if plan.complete else ()
    settle(found, shop.emit)


def screen(recipe: Recipe, upstream: Upstream, shop: Workshop) -> None:
    """The same for an image that Docker builds, of which no layer is read: what is told by the images' own words, and
    by the files of this machine. Raises what `find` raises.
    """
    local = find(recipe, survey_custom(recipe), upstream, shop).local
    offered = _host(recipe, upstream, Tree(), ())
    for one in map(_candidate, local):
        # The image may have what it does not speak of, so nothing here is certain.
        found = [*judge_build(one, offered), *judge_versions(one, offered)]
        settle([replace(misfit, fatal=False) for misfit in found], shop.emit)


def settle(misfits: Sequence[Misfit], emit: Emit) -> None:
    """Raise `Unplannable` for what is fatal, after warning of the rest."""
    for one in misfits:
        if not one.fatal:
            emit(Warned(message=f"{one.problem.where}: {one.problem.message}", hint=one.problem.hint))
    fatal = [one.problem for one in misfits if one.fatal]
    if fatal:
        more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
        raise Unplannable(f"{fatal[0].where}: {fatal[0].message}{more}", hint=fatal[0].hint)


def _of_release(donor: Donor, upstream: Upstream) -> Iterable[Misfit]:
    return judge_release(donor.name, donor.where, donor.source, donor.image.image, upstream.image)


def _host(recipe: Recipe, upstream: Upstream, tree: Tree, dropped: Iterable[Component]) -> Host:
    name = environment(upstream.image).get(RELEASE) or recipe.triton or ""
    facts = RELEASES.get(name)
    return host(
        upstream.image,
        tree,
        [f"{HOME}/{one.key}" for one in dropped],
        facts.ubuntu if facts else None,
        official=recipe.upstream is None,
    )


def _candidate(backend: LocalBackend) -> Candidate:
    prefix = f"{backend.folder}/"
    return Candidate(
        name=backend.name,
        where=backend.where,
        files={file.target.removeprefix(prefix) for file in backend.files if file.source},
        binaries=local_binaries(backend),
    )


def _grafted(donor: Donor, tree: Tree, plan: Plan, shop: Workshop) -> Candidate:
    """What is taken of a donor, from the layers that are made of its own."""
    folder = f"{BACKENDS}/{donor.name}"
    grafts = [step for step in plan.steps if isinstance(step, Graft) and step.takes == donor.key]
    parts = [part for step in grafts for part in graft(step, shop)]
    files = {entry.path.removeprefix(f"{folder}/") for entry in tree.walk(folder) if entry.kind != DIRECTORY}
    binaries = part_binaries(parts, donor.name, shop)
    there = {path: one for path, one in binaries.items() if path in files}
    return Candidate(name=donor.name, where=donor.where, files=files, binaries=there)


# -- what their files need ----------------------------------------------------------------------------------------


def local_binaries(backend: LocalBackend) -> Mapping[str, Binary]:
    """What the shared objects of a backend of this machine need, by path within its folder.

    Raises `Corrupt` for a library that the server would load and that is not sound.
    """
    return dict(_local_binaries(backend))


def _local_binaries(backend: LocalBackend) -> Iterator[tuple[str, Binary]]:
    for file in backend.files:
        if file.source is None:
            continue
        with file.source.open("rb") as stream:
            if found := _look(stream, str(file.source), strict=file.target == backend.library):
                yield file.target.removeprefix(f"{backend.folder}/"), found


def part_binaries(parts: Iterable[Part], name: str, shop: Workshop) -> Mapping[str, Binary]:
    """What the shared objects in the layers of a backend need, by path within its folder.

    A layer that nobody has looked into is read once, a file at a time; what was found stays in the cache.
    """
    found: dict[str, Binary] = {}
    for part in parts:
        known = shop.knowledge.binaries(part.blob.digest)
        if known is None:
            known = _part_binaries(part, name, shop)
            shop.knowledge.remember_binaries(part.blob.digest, known)
        found |= known
    folder = f"{BACKENDS}/{name}/"
    return {path.removeprefix(folder): one for path, one in found.items()}


def _part_binaries(part: Part, name: str, shop: Workshop) -> Mapping[str, Binary]:
    origin = f"layer {part.blob.digest}"
    chunks = Stack(shop.cache, *shop.elsewhere).read(part_descriptor(part, OCI_LAYER))
    library = f"{BACKENDS}/{name}/libtriton_{name}.so"
    found: dict[str, Binary] = {}
    links: list[tuple[str, str]] = []
    tar = inflate(chunks, origin=origin)
    for entry, stream in contents(tar, origin=origin, scratch=shop.cache.path, wanted=_may_be_elf):
        if stream and (one := _look(stream, f"{entry.path} of {origin}", strict=entry.path == library)):
            found[entry.path] = one
        elif entry.kind in (LINK, SYMLINK):
            links.append((entry.path, entry.link if entry.kind == LINK else join(entry.parent, entry.link)))
    # A chain of links, as libraries have them, may stand in any order.
    for _ in links:
        found |= {path: found[target] for path, target in links if target in found}
    return found


def _may_be_elf(entry: Entry, head: bytes) -> bool:
    return head.startswith(MAGIC)


def _look(stream: IO[bytes], origin: str, *, strict: bool) -> Binary | None:
    """A file that is no sound shared object matters only where the server would load it: others may be data."""
    if strict:
        return read_elf(stream, origin=origin)
    with suppress(Corrupt):
        return read_elf(stream, origin=origin)
    return None
