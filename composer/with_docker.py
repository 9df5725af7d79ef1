"""The part of the story that a Docker Engine plays: building from a Dockerfile, and running what only RUN can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from composer.config import BACKENDS_LABEL, UPSTREAM_LABEL, VALIDATION_LABEL
from composer.custom import LocalBackend, survey_custom
from composer.dockerfile import Dockerfile, Originals, asks_network, blueprint, named_from, on_top, runs_something
from composer.engines import dockerfile as engine
from composer.engines.direct import Built
from composer.engines.dockerfile import Kitchen
from composer.errors import Unplannable
from composer.events import Emit, StageFinished, StageStarted, Warned, ignore
from composer.files import LocalFile, survey_files
from composer.folder import Member, addresses, build_options, contents
from composer.inventory import Component
from composer.lock import Pinned, Upstream, pin
from composer.models.repository import Model, ModelRepository
from composer.network_files import network_files
from composer.oci.credentials import Credentials
from composer.oci.daemon import Engine
from composer.oci.image import Platform
from composer.oci.layout import LayoutStore
from composer.oci.names import Reference
from composer.oci.store import Store
from composer.plan import public_name, wished
from composer.recipe import Recipe
from composer.workplace import DockerWay


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerPlan:
    """What Docker will build for one platform: the folder, by its members, with the Dockerfile in it."""

    upstream: Upstream
    members: Mapping[str, Member]
    kept: tuple[str, ...]
    models: tuple[Model, ...]

    @property
    def upstream_size(self) -> int:
        """Compressed bytes of the upstream's layers."""
        return sum(layer.size for layer in self.upstream.image.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pantry:
    """What a recipe brings from this machine, besides what is fetched: found and measured."""

    repositories: Sequence[ModelRepository] = ()
    placed: Sequence[LocalFile] = ()
    backends: Sequence[LocalBackend] = ()

    @classmethod
    def of(cls, recipe: Recipe, repositories: Sequence[ModelRepository], wheels: Sequence[LocalFile]) -> Pantry:
        """Everything that lies on this machine, with the files of Python packages. Raises `RecipeError`."""
        placed = (*wheels, *survey_files(recipe))
        return cls(repositories=repositories, placed=placed, backends=survey_custom(recipe))

    @property
    def components(self) -> tuple[Component, ...]:
        """The backends, as parts of a server."""
        return tuple(backend.component for backend in self.backends)


def write(
    recipe: Recipe, platform: Platform, pantry: Pantry, originals: Originals | None, emit: Emit
) -> Mapping[str, Member]:
    """The folder of a recipe, as its members. Without `originals` nothing is looked up anywhere."""
    made = blueprint(
        recipe,
        originals,
        platform=platform,
        repositories=pantry.repositories,
        own=_brought(recipe, pantry),
        placed=bool(pantry.placed),
    )
    for line in made.assumed:
        emit(Warned(message=line, hint="tricompose releases"))
    return members(recipe, made, pantry)


def _brought(recipe: Recipe, pantry: Pantry) -> tuple[Component, ...]:
    """The backends of other origin. Of images no layer is read here, so any backend of theirs may be in Python."""
    names = [one.name for one in recipe.custom_backends if one.image]
    foreign = [Component(kind="backends", name=name, size=0, files=0, needs=("python",)) for name in names]
    return (*pantry.components, *foreign)


def members(recipe: Recipe, made: Dockerfile, pantry: Pantry) -> Mapping[str, Member]:
    """The folder for a Dockerfile. Raises `RecipeError` for a key or certificate that is not there."""
    return contents(
        made,
        network=network_files(recipe),
        options=build_options(recipe.network, classic=bool(recipe.network.dns)),
        placed=pantry.placed,
        backends=[file for backend in pantry.backends for file in backend.files],
        repositories=pantry.repositories,
    )


def open_kitchen(
    recipe: Recipe, way: DockerWay, cache: LayoutStore, scratch: Path, credentials: Credentials, emit: Emit
) -> Kitchen:
    """Where Docker builds. Raises `Unreachable` or `Denied` where there is no engine, before anything is moved."""
    made = Engine()
    made.platform()
    return Kitchen(
        engine=made,
        cache=cache,
        scratch=scratch,
        credentials=credentials,
        hosts=addresses(recipe.network),
        # A build that has nothing to ask is not let out.
        network=way.network or (None if asks_network(recipe) else "none"),
        # BuildKit mounts /etc/resolv.conf read-only, so that a build cannot be told its name servers.
        classic=way.classic or bool(recipe.network.dns),
        use_cache=way.use_cache,
        pull=way.pull,
        emit=emit,
    )


@contextmanager
def planned(
    recipe: Recipe,
    upstream: Upstream,
    pantry: Pantry,
    kitchen: Kitchen,
    open_source: Callable[[Reference], Store],
    *,
    jobs: int,
) -> Iterator[DockerPlan]:
    """The plan for one platform; the engine has the images that it names for as long as this lasts."""
    base, donors = _base(upstream), _donors(recipe, upstream, open_source)
    # What cannot be written is refused before an image moves.
    stand_in = _originals(upstream, base, ["full", "base", *("donor" for _ in donors)])
    write(recipe, upstream.platform, pantry, stand_in, ignore)
    with engine.named([upstream.pinned, base, *donors], kitchen, upstream.platform, jobs=jobs) as names:
        found = _originals(upstream, base, names)
        yield DockerPlan(
            upstream=upstream,
            members=write(recipe, upstream.platform, pantry, found, kitchen.emit),
            kept=_kept(recipe, pantry),
            models=tuple(model for repository in pantry.repositories for model in repository.models),
        )


def _kept(recipe: Recipe, pantry: Pantry) -> tuple[str, ...]:
    """The components of the image, those that the recipe brings too."""
    chosen = wished(recipe, pantry.repositories, _brought(recipe, pantry))
    names = [f"{kind}/{name}" for kind, some in chosen.items() for name in some]
    return tuple(sorted({*names, *(f"backends/{one.name}" for one in recipe.custom_backends)}))


def originals(recipe: Recipe, upstream: Upstream, open_source: Callable[[Reference], Store]) -> Originals:
    """The images that a Dockerfile starts from, as registries name them. Raises `Unplannable` for other places."""
    found = [upstream.pinned, _base(upstream), *_donors(recipe, upstream, open_source)]
    return _originals(upstream, found[1], [named_from(one.reference) for one in found])


def _originals(upstream: Upstream, base: Pinned, names: Sequence[str]) -> Originals:
    full_name, base_name, *donors = names
    return Originals(
        full_name=full_name, full=upstream.image, base_name=base_name, base=base.image, donors=tuple(donors)
    )


def _base(upstream: Upstream) -> Pinned:
    if upstream.least is None:
        raise Unplannable(
            "the dockerfile engine builds on the -min image, and there is none",
            hint="upstream: {full: ..., min: ...}   (or: engine: direct)",
        )
    return upstream.least


def _donors(recipe: Recipe, upstream: Upstream, open_source: Callable[[Reference], Store]) -> list[Pinned]:
    """The images that custom backends come from, in the recipe's order."""
    images = [one.image for one in recipe.custom_backends if one.image]
    return [pin(recipe, recipe.place(image), upstream.platform, open_source) for image in images]


def build(plan: DockerPlan, kitchen: Kitchen, *, validated: str, epoch: int | None) -> Built:
    """Let Docker build what a plan says."""
    base = _base(plan.upstream)
    backends = [key.partition("/")[2] for key in sorted(plan.kept) if key.startswith("backends/")]
    labels = {
        UPSTREAM_LABEL: public_name(plan.upstream),
        BACKENDS_LABEL: ",".join(backends),
        VALIDATION_LABEL: validated,
    }
    return engine.build(plan.members, base, kitchen, plan.upstream.platform, labels, epoch=epoch)


def rehearse(recipe: Recipe) -> None:
    """Refuse what cannot be run on top of a composed image, before one is composed. Raises what `members` raises."""
    if recipe.engine == "direct" and runs_something(recipe):
        members(recipe, on_top(recipe, "base"), Pantry())


def run_on_top(recipe: Recipe, built: Built, kitchen: Kitchen, *, jobs: int, epoch: int | None) -> Built:
    """Run what only RUN can do on top of a composed image: its layers stay, and two come on top of them: one with what
    was written, and one that takes away what was removed.
    """
    digest = built.image.manifest.descriptor.digest
    kitchen.emit(StageStarted(stage="run", detail="packages.apt and steps, on top of the composed image"))
    name = Reference(transport="oci", place="composed", digest=digest)
    base = Pinned(reference=name, origin=name, store=built.store, image=built.image)
    with engine.named([base], kitchen, built.image.platform, jobs=jobs) as names:
        made = on_top(recipe, names[0], built.image)
        folder = members(recipe, made, Pantry())
        done = engine.build(folder, base, kitchen, built.image.platform, {}, epoch=epoch)
    kitchen.emit(StageFinished(stage="run", detail=done.image.manifest.descriptor.digest))
    return done
