"""`packages.pip`: wheels for the Python and platform of an image, and the files that they install.

Nothing runs in the image for it, so that it works with both engines, for arm64 on an amd64 machine, and without root.
Only wheels are taken. Each is verified by its digest and kept in the cache, beside the files that it installs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.disk import room
from composer.events import Emit, StageFinished, StageStarted, Warned
from composer.files import LocalFile
from composer.inventory import Inventory
from composer.lockfile import Ledger
from composer.network.routes import Routes
from composer.oci.image import Platform
from composer.oci.layout import LayoutStore
from composer.recipe import Recipe
from composer.wheels.requirements import Requirements, Wanted, read_requirements
from composer.wheels.sources import Sources, find_sources
from composer.wheels.target import Target, find_target

if TYPE_CHECKING:
    import requests

    from composer.wheels.resolver import Pick

__all__ = [
    "SHELF", "Requirements", "Shelf", "Sources", "Target", "Wanted", "Wheel", "Wheels", "fetch_wheels", "find_sources",
    "find_target", "read_requirements", "survey_wheels",
]  # fmt: skip

SHELF: Final = "wheels"
"""The folder of the cache that wheels are kept in."""

_AT_ONCE: Final = 4
_UNSEEN: Final = Warned(
    message="it is not known which Python packages the image has: what is brought may hide them in another version",
    hint="pin those that it has, as it has them: packages: {pip: [numpy==1.26.4, ...]}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel that an image gets: its file on this machine, and what that is. `size` is in bytes."""

    name: str
    version: str
    file: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """What `packages.pip` comes to for one platform: the wheels by name, and all files that they install, by path."""

    wheels: tuple[Wheel, ...] = ()
    files: tuple[LocalFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where wheels are kept and how they get there.

    `environ` tells how this machine's pip is set up, `routes` how other hosts are reached.
    """

    cache: LayoutStore
    environ: Mapping[str, str]
    routes: Routes
    emit: Emit
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def path(self) -> Path:
        """The folder, made if it is not there."""
        found = self.cache.path / SHELF
        with room(found):
            found.mkdir(parents=True, exist_ok=True)
        return found


def survey_wheels(
    recipe: Recipe,
    platform: Platform,
    inventory: Inventory | None,
    shelf: Shelf,
    *,
    python: str | None,
    ubuntu: str | None,
) -> Wheels:
    """Resolve, fetch and unpack what `packages.pip` asks for.

    `python` ("3.10") and `ubuntu` ("22.04") are what is known of the release, for what the inventory does not tell;
    without an inventory nothing is known of the packages that the image has, and that is told.

    Raises `RecipeError` for what cannot be met, `NeedsLower` where a layer of the image has to be read first,
    `Unplannable` for an image without a Python, and for the network `Unreachable`, `Denied`, `NotFound`, `Corrupt`.
    """
    if not recipe.packages.pip:
        return Wheels()
    from composer import network
    from composer.wheels.asking import Question
    from composer.wheels.resolver import resolve

    wanted = read_requirements(recipe)
    sources = find_sources(recipe, shelf.environ, shelf.routes)
    target = find_target(
        platform, inventory, python=python, ubuntu=ubuntu, where=recipe.where("packages", "pip", key=True)
    )
    if inventory is None:
        shelf.emit(_UNSEEN)
    shelf.emit(StageStarted(stage="packages", detail=str(target)))
    question = Question(requirements=wanted, target=target, sources=sources)
    picks = resolve(recipe, question, shelf.path, shelf.ledger)
    session = network.session(sources.routes)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda pick: _one(pick, target, sources, session, shelf), picks))
    shelf.emit(StageFinished(stage="packages", detail=_told(picks)))
    return Wheels(wheels=tuple(wheel for wheel, _ in found), files=_merged(found, shelf.emit))


def fetch_wheels(recipe: Recipe, target: Target, shelf: Shelf) -> tuple[Path, ...]:
    """The wheels that `packages.pip` comes to for a target that has no packages yet, as files on the shelf, by name.

    Raises as `survey_wheels`.
    """
    from composer import network
    from composer.wheels.asking import Question
    from composer.wheels.download import fetch
    from composer.wheels.resolver import resolve

    sources = find_sources(recipe, shelf.environ, shelf.routes)
    question = Question(requirements=read_requirements(recipe), target=target, sources=sources)
    picks = resolve(recipe, question, shelf.path, shelf.ledger)
    session = network.session(sources.routes)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(lambda pick: fetch(pick, sources, session, shelf.path, shelf.emit), picks))


def _one(
    pick: Pick, target: Target, sources: Sources, session: requests.Session, shelf: Shelf
) -> tuple[Wheel, tuple[LocalFile, ...]]:
    from composer.wheels.download import fetch
    from composer.wheels.unpacking import unpack

    file = fetch(pick, sources, session, shelf.path, shelf.emit)
    wheel = Wheel(name=pick.name, version=pick.version, file=file, sha256=pick.sha256, size=file.stat().st_size)
    return wheel, unpack(file, target)


def _told(picks: Sequence[Pick]) -> str:
    return ", ".join(f"{pick.name} {pick.version}" for pick in picks) or "the image has them all"


def _merged(found: Sequence[tuple[Wheel, tuple[LocalFile, ...]]], emit: Emit) -> tuple[LocalFile, ...]:
    """The files of all wheels. Where several bring the same path, the last by name wins, and it is told."""
    files: dict[str, LocalFile] = {}
    owners: dict[str, Wheel] = {}
    for wheel, some in found:
        for file in some:
            before = files.get(file.target)
            if before and not _alike(before, file):
                both = f"{owners[file.target].name} and {wheel.name}"
                emit(Warned(message=f"{both} both bring /{file.target}: the latter's is taken"))
            files[file.target], owners[file.target] = file, wheel
    return tuple(files[target] for target in sorted(files, key=lambda target: target.split("/")))


def _alike(one: LocalFile, other: LocalFile) -> bool:
    if one.source is None or other.source is None or one.size != other.size:
        return one.source is other.source
    return one.source.read_bytes() == other.source.read_bytes()
