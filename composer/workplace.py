"""How to run, as opposed to what to build: one value that every command makes of its options and the environment.

It knows recipes only by name, so that commands that need none do not load what reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.cache import default_cache
from composer.errors import NotFound
from composer.events import Emit, ignore
from composer.lockfile import Ledger, Lock, lock_path, read_lock
from composer.network import Routes, session
from composer.oci.credentials import Credentials
from composer.oci.journal import FOLDER as JOURNAL
from composer.oci.names import Reference, parse_reference
from composer.oci.patience import PATIENCE
from composer.oci.transports import Access
from composer.routing import Wanted, find_logins, find_routes

if TYPE_CHECKING:
    from composer.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerWay:
    """How Docker builds, as opposed to what: options of the command line.

    `network` is the network mode of RUN, `classic` the builder without BuildKit. Without `use_cache` every step is
    run anew; with `pull` images that the engine has are asked for again.
    """

    use_cache: bool = True
    pull: bool = False
    network: str | None = None
    classic: bool = False


USUAL: Final = DockerWay()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """How to run, as opposed to what to build: where the cache is, how places are opened, how much at once.

    `epoch` is SOURCE_DATE_EPOCH in seconds; `knowledge` is where others published what they know of layers. With
    `cut_all` a layer that is read is cut into all its components, so that no later recipe has to read it. `docker`
    is how a Docker Engine builds, where a recipe needs one. `routes` is how other hosts are reached; `environ` is for
    what looks for Python packages and models.
    """

    cache: Path
    access: Access
    jobs: int
    epoch: int | None
    knowledge: Reference | None
    emit: Emit
    cut_all: bool = False
    docker: DockerWay = USUAL
    environ: Mapping[str, str] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        *,
        home: Path,
        recipe: Recipe | None = None,
        locked: bool = False,
        cache: Path | None = None,
        jobs: int = 4,
        max_wait: float = PATIENCE,
        insecure: Iterable[str] = (),
        ca_bundle: Path | None = None,
        network: Path | None = None,
        resolve: Sequence[str] = (),
        mount_from: Iterable[str] = (),
        epoch: int | None = None,
        knowledge: Reference | None = None,
        cut_all: bool = False,
        docker: DockerWay = USUAL,
        emit: Emit = ignore,
    ) -> Workplace:
        """The usual workplace: credentials and cache where the environment says; what `recipe` says of the network.

        What the file `network` says of it beats the recipe, and what is said here beats both: `resolve`, as curl has
        it, `insecure`, `ca_bundle`. The lock beside the recipe holds; with `locked` it must be there, and know
        everything. `mount_from` are repositories, as `host/repository`.
        """
        wanted = Wanted(network=network, resolve=tuple(resolve), insecure=tuple(insecure), ca_bundle=ca_bundle)
        routes = find_routes(environ, home, recipe, wanted, emit)
        given = find_logins(recipe, network, environ)
        credentials = Credentials.from_environment(environ, home=home, given=given, emit=emit)
        where = (cache or default_cache(environ, home)).expanduser().absolute()
        access = _access(routes, credentials, where, max_wait, emit)
        return cls(
            cache=where,
            access=replace(access, mount_from=tuple(_repository(text) for text in mount_from)),
            jobs=jobs,
            epoch=epoch,
            knowledge=knowledge,
            emit=emit,
            cut_all=cut_all,
            docker=docker,
            environ=environ,
            routes=routes,
            ledger=_ledger(recipe, strict=locked),
        )


def _access(routes: Routes, credentials: Credentials, cache: Path, patience: float, emit: Emit) -> Access:
    return Access(
        session=lru_cache(lambda: session(routes)),
        credentials=credentials,
        insecure=routes.insecure,
        scratch=cache / "ingest",
        emit=emit,
        patience=patience,
        mirrors=routes.places,
        journal=cache / JOURNAL,
    )


def _repository(text: str) -> str:
    """A repository of a registry, as `host/repository`. Raises `NotFound` where it is none."""
    return parse_reference(f"docker://{text.removeprefix('docker://')}").place


def _ledger(recipe: Recipe | None, *, strict: bool) -> Ledger:
    """What the lock beside a recipe says. Raises `NotFound` where there must be one and is none."""
    file = lock_path(recipe.path) if recipe and recipe.path else None
    found = read_lock(file) if file else None
    if strict and not found:
        raise NotFound(f"there is no lock {file}", hint=f"tricompose lock {recipe.path if recipe else 'RECIPE'}")
    return Ledger(known=found or Lock(), strict=strict)
