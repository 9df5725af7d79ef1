"""The story in order: what the commands do. Reads like the README; decides through `plan`, acts through the engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from composer import with_docker, with_tensorrt
from composer.cache import IMAGE_TAG
from composer.checks import Report
from composer.checks.image import dropped_libraries
from composer.custom import Brought, survey_custom
from composer.dockerfile import Originals, runs_something
from composer.engines import brought, direct, trtexec
from composer.engines.direct import Built, Workshop
from composer.engines.dockerfile import Kitchen
from composer.engines.trtexec import Made
from composer.errors import NotFound, Unplannable
from composer.events import Emit, StageFinished, StageStarted, Warned
from composer.files import survey_files
from composer.folder import write_folder
from composer.inventory import CORE, Inventory
from composer.knowledge import Knowledge
from composer.lock import LockedStore, Upstream, read_image, resolve
from composer.lockfile import Lock
from composer.models.lint.case import repositories_of
from composer.models.repository import ModelRepository
from composer.models.sources.way import Way
from composer.oci.copy import Held, Stack
from composer.oci.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    Descriptor,
    Image,
    Platform,
    make_index,
)
from composer.oci.layout import LayoutStore
from composer.oci.names import Reference
from composer.oci.store import Store
from composer.oci.transports import open_source, open_target
from composer.oci.tree import NeedsLower
from composer.plan import Add, Plan, make_plan, manner_of, wished
from composer.recipe import CPU, Recipe, Validate, flag_warnings, refuse_unbuilt
from composer.releases import RELEASES
from composer.runners import Running
from composer.runners.printed import Printable, printed
from composer.wheels import Shelf, Wheels, survey_wheels
from composer.with_docker import DockerPlan, Pantry
from composer.with_models import Checked, check_imports, check_models, fetch_models, read_models
from composer.with_server import (
    PROVED,
    UNPROVED,
    Candidate,
    Proving,
    architecture,
    is_remote,
    labelled,
    prove_all,
    prove_image,
    prove_remote,
    refuse_unprovable,
    runs_here,
    serve,
)
from composer.workplace import Workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a build made: the digest of the image or index, and for each platform its plan and its image.

    `reports` are of its proof, by platform. It went to `delivered`, or where there were no outputs, to `cached`.
    """

    root: Descriptor
    plans: Sequence[Plan | DockerPlan]
    images: Sequence[Image]
    reports: Mapping[str, Report]
    delivered: Sequence[str]
    cached: Reference | None


# -- plan ---------------------------------------------------------------------------------------------------------


def plan(recipe: Recipe, place: Workplace, *, scan: str) -> tuple[Plan, ...]:
    """What building would do, for each platform. No layer is read, unless `scan` says `new` or `all`."""
    _check(recipe, place.emit)
    own = read_models(recipe)
    with_docker.rehearse(recipe)
    with ExitStack() as stack:
        shop = _workshop((), place, stack)
        repositories = _models(recipe, place, shop, stack, own, make=False).repositories
        label = UNPROVED if recipe.validation is None else PROVED
        return tuple(
            _plan(recipe, each, repositories, place, shop, scan=scan, label=label) for each in recipe.platforms
        )


def _plan(
    recipe: Recipe,
    platform: Platform,
    repositories: Sequence[ModelRepository],
    place: Workplace,
    shop: Workshop,
    *,
    scan: str,
    label: str,
) -> Plan:
    local = survey_custom(recipe)
    place.emit(StageStarted(stage="resolve", detail=f"the upstream for {platform}"))
    upstream = resolve(recipe, platform, shop.open, place.emit)
    custom = brought.find(recipe, local, upstream, shop)
    place.emit(StageFinished(stage="resolve", detail=str(upstream.reference)))
    if scan != "none":
        custom = _learn(recipe, upstream, custom, repositories, shop, all_layers=scan == "all")

    def decide(custom: Brought) -> Plan:
        return _decided(recipe, platform, upstream, custom, repositories, place, shop, label)

    try:
        made = decide(custom)
    except NeedsLower as path:
        if scan == "none":
            raise Unplannable(
                f"/{path} lies in layers that were never read, and what is asked for depends on it",
                hint="tricompose plan --scan all ...   (reads them once; build does it by itself)",
            ) from path
        custom = _learn(recipe, upstream, custom, repositories, shop, all_layers=True)
        made = decide(custom)
    if recipe.custom_backends:
        brought.fit(recipe, made, custom, shop, deep=scan != "none")
    added = [file.entry.path for step in made.steps if isinstance(step, Add) for file in step.files]
    check_imports(recipe, repositories, shop.knowledge.inventory(upstream.image), added, place.emit)
    return made


def _decided(
    recipe: Recipe,
    platform: Platform,
    upstream: Upstream,
    custom: Brought,
    repositories: Sequence[ModelRepository],
    place: Workplace,
    shop: Workshop,
    label: str,
) -> Plan:
    """The plan, by what is known of the layers now. Raises `NeedsLower` where that is not enough."""
    inventory = shop.knowledge.inventory(upstream.image)
    return make_plan(
        recipe,
        upstream,
        inventory,
        repositories,
        survey_files(recipe),
        _wheels(recipe, platform, inventory, place, shop.cache).files,
        custom,
        shop.knowledge.parts,
        validated=label,
        epoch=place.epoch,
    )


def _wheels(
    recipe: Recipe, platform: Platform, inventory: Inventory | None, place: Workplace, cache: LayoutStore
) -> Wheels:
    """What `packages.pip` brings. Without an inventory nothing is known of the packages that the image has."""
    shelf = Shelf(
        cache=cache,
        environ=place.environ,
        routes=place.routes,
        emit=place.emit,
        ledger=place.ledger,
    )
    known = RELEASES.get(recipe.triton or "")
    python, ubuntu = (known.python, known.ubuntu) if known else (None, None)
    return survey_wheels(recipe, platform, inventory, shelf, python=python, ubuntu=ubuntu)


def _learn(
    recipe: Recipe,
    upstream: Upstream,
    custom: Brought,
    repositories: Sequence[ModelRepository],
    shop: Workshop,
    *,
    all_layers: bool,
) -> Brought:
    """Read every layer that nobody has read: those of the base only if all are asked for."""
    likely = _likely(recipe, custom, repositories)
    direct.learn_image(upstream, likely.__contains__, recipe.max_layer_size, shop, all_layers=all_layers)
    return brought.read(custom, recipe.max_layer_size, shop, all_layers=all_layers)


def _likely(recipe: Recipe, custom: Brought, repositories: Sequence[ModelRepository]) -> Set[str]:
    """The components that will be wanted of the upstream's layers, as far as that can be told before they are read."""
    named = wished(recipe, repositories, [one.component for one in custom.local])
    names = {f"{kind}/{name}" for kind, some in named.items() for name in some} | {CORE}
    # An image that a backend is taken from is often built on the upstream, and so has its layers too.
    donated = {one.key for one in custom.donors}
    return names | donated | ({"backends/python"} if donated and recipe.backends == "auto" else set())


# -- lock ---------------------------------------------------------------------------------------------------------


def lock(recipe: Recipe, place: Workplace) -> Lock:
    """Look up everything outside that a recipe names. Models are fetched for it, and for `packages.pip` layers read."""
    _check(recipe, place.emit)
    own = read_models(recipe)
    with ExitStack() as stack:
        shop = _workshop((), place, stack)
        repositories = _models(recipe, place, shop, stack, own, make=False).repositories
        for platform in recipe.platforms:
            place.emit(StageStarted(stage="resolve", detail=f"the upstream for {platform}"))
            upstream = resolve(recipe, platform, shop.open, place.emit)
            brought.find(recipe, survey_custom(recipe), upstream, shop)
            place.emit(StageFinished(stage="resolve", detail=str(upstream.reference)))
            _known_wheels(recipe, upstream, repositories, place, shop)
    return place.ledger.used


# -- build --------------------------------------------------------------------------------------------------------


def build(recipe: Recipe, place: Workplace, *, outputs: Sequence[Reference], how: Proving | None) -> Outcome:
    """Resolve, plan, compose, prove, deliver. Without `how` the proof is left out, and the image's label says so.

    Nothing reaches an output before all platforms are built and proved.
    """
    _check(recipe, place.emit)
    own = read_models(recipe)
    with_docker.rehearse(recipe)
    proving = how if recipe.validation is not None else None
    # What cannot end well fails before a layer moves.
    if proving and any(map(runs_here, recipe.platforms)):
        refuse_unprovable(recipe, proving)
    with ExitStack() as stack:
        shop = _workshop(outputs, place, stack)
        for output in outputs:
            _prepare(output, place)
        repositories = _models(recipe, place, shop, stack, own, make=True).repositories
        kitchen = _kitchen(recipe, shop, place, stack) if needs_docker(recipe) else None
        plans: list[Plan | DockerPlan] = []
        built: list[Built] = []
        for platform in recipe.platforms:
            label = PROVED if proving and runs_here(platform) else UNPROVED
            made, one = _build_one(recipe, platform, repositories, place, shop, kitchen, label)
            plans.append(made)
            built.append(one)
        reports = (
            prove_all(_candidates(recipe, plans, built, repositories, shop.knowledge), proving, place.emit)
            if proving
            else {}
        )
        built = [labelled(one, reports.get(str(one.image.platform))) for one in built]
        root, source = _root(built)
        for output in outputs:
            _deliver(source, root, output, place)
        cached = None if outputs else _keep(source, root, shop.cache, place)
    return Outcome(
        root=root,
        plans=plans,
        images=[one.image for one in built],
        reports=reports,
        delivered=[str(output) for output in outputs],
        cached=cached,
    )


def _candidates(
    recipe: Recipe,
    plans: Sequence[Plan | DockerPlan],
    built: Sequence[Built],
    repositories: Sequence[ModelRepository],
    knowledge: Knowledge,
) -> list[Candidate]:
    return [
        Candidate(
            name=recipe.name,
            image=one.image,
            store=one.store,
            recipe=recipe,
            models=[model.name for model in made.models],
            knowledge=knowledge,
            repositories=repositories,
            upstream_size=made.upstream_size,
            dropped=_dropped(made, knowledge) if isinstance(made, Plan) else {},
        )
        for made, one in zip(plans, built, strict=True)
    ]


def _dropped(made: Plan, knowledge: Knowledge) -> Mapping[str, str]:
    """The libraries that were left out, for what is said of one that is missed."""
    return dropped_libraries(knowledge.inventory(made.upstream.image), [one.key for one in made.dropped])


def needs_docker(recipe: Recipe) -> bool:
    """Whether building a recipe takes a Docker Engine."""
    return recipe.engine == "dockerfile" or runs_something(recipe)


def _kitchen(recipe: Recipe, shop: Workshop, place: Workplace, stack: ExitStack) -> Kitchen:
    access = place.access
    kitchen = with_docker.open_kitchen(recipe, place.docker, shop.cache, access.scratch, access.credentials, place.emit)
    stack.callback(kitchen.engine.close)
    return kitchen


def _build_one(
    recipe: Recipe,
    platform: Platform,
    repositories: Sequence[ModelRepository],
    place: Workplace,
    shop: Workshop,
    kitchen: Kitchen | None,
    label: str,
) -> tuple[Plan | DockerPlan, Built]:
    """Plan and make the image of one platform."""
    if kitchen and recipe.engine == "dockerfile":
        return _build_dockerfile(recipe, platform, repositories, place, shop, kitchen, label)
    made = _plan(recipe, platform, repositories, place, shop, scan="new", label=label)
    place.emit(StageStarted(stage="compose", detail=f"{len(made.kept)} components for {platform}"))
    built = direct.build(made, shop)
    place.emit(StageFinished(stage="compose", detail=built.image.manifest.descriptor.digest))
    if kitchen:
        built = with_docker.run_on_top(recipe, built, kitchen, jobs=place.jobs, epoch=place.epoch)
    return made, built


def _build_dockerfile(
    recipe: Recipe,
    platform: Platform,
    repositories: Sequence[ModelRepository],
    place: Workplace,
    shop: Workshop,
    kitchen: Kitchen,
    label: str,
) -> tuple[DockerPlan, Built]:
    place.emit(StageStarted(stage="resolve", detail=f"the upstream for {platform}"))
    upstream = resolve(recipe, platform, shop.open, place.emit)
    if recipe.custom_backends:
        brought.screen(recipe, upstream, shop)
    place.emit(StageFinished(stage="resolve", detail=str(upstream.reference)))
    pantry = Pantry.of(recipe, repositories, _known_wheels(recipe, upstream, repositories, place, shop).files)
    with with_docker.planned(recipe, upstream, pantry, kitchen, shop.open, jobs=place.jobs) as made:
        place.emit(StageStarted(stage="compose", detail=f"{len(made.kept)} components for {platform}, in Docker"))
        built = with_docker.build(made, kitchen, validated=label, epoch=place.epoch)
    place.emit(StageFinished(stage="compose", detail=built.image.manifest.descriptor.digest))
    return made, built


def _known_wheels(
    recipe: Recipe, upstream: Upstream, repositories: Sequence[ModelRepository], place: Workplace, shop: Workshop
) -> Wheels:
    """What `packages.pip` brings, beside the packages that the image has: its layers are read once for these."""
    if not recipe.packages.pip:
        return Wheels()
    likely = _likely(recipe, Brought(local=survey_custom(recipe)), repositories)
    for all_layers in (False, True):
        direct.learn_image(upstream, likely.__contains__, recipe.max_layer_size, shop, all_layers=all_layers)
        with suppress(NeedsLower):
            return _wheels(recipe, upstream.platform, shop.knowledge.inventory(upstream.image), place, shop.cache)
    return _wheels(recipe, upstream.platform, shop.knowledge.inventory(upstream.image), place, shop.cache)


def write_dockerfile(recipe: Recipe, folder: Path | None, place: Workplace, *, look_up: bool) -> Sequence[str]:
    """Write what Docker builds a recipe from into `folder`, one within it for each of several platforms.

    Nothing is asked of any network or engine, but for models that have a source, and unless `look_up` says that names
    are to be pinned by digest, and what the images say of themselves is to be taken over. Returns the Dockerfiles.
    """
    _check(recipe, place.emit)
    own = read_models(recipe)
    converted = with_tensorrt.converted(recipe, {}, place.cache, None)
    fetched = fetch_models(recipe, place.cache, _way(recipe, place))
    models = check_models(recipe, own, (*fetched, *([converted] if converted else [])), place.emit)
    texts = []
    with ExitStack() as stack:
        cache = LayoutStore.ensure(place.cache) if recipe.packages.pip or look_up else None
        if cache:
            stack.callback(cache.close)
        for platform in recipe.platforms:
            wheels = _wheels(recipe, platform, None, place, cache) if recipe.packages.pip and cache else Wheels()
            pantry = Pantry.of(recipe, models.repositories, wheels.files)
            originals = _look_up(recipe, platform, _opener(cache, place, stack), place) if look_up and cache else None
            members = with_docker.write(recipe, platform, pantry, originals, place.emit)
            texts.append((members["Dockerfile"].data or b"").decode())
            if folder:
                inner = folder / f"{platform.os}-{platform.architecture}" if len(recipe.platforms) > 1 else folder
                write_folder(inner, members)
    return texts


def _look_up(recipe: Recipe, platform: Platform, opened: Callable[[Reference], Store], place: Workplace) -> Originals:
    return with_docker.originals(recipe, resolve(recipe, platform, opened, place.emit), opened)


def _check(recipe: Recipe, emit: Emit) -> None:
    refuse_unbuilt(recipe)
    if recipe.variant == CPU and recipe.engine == "direct":
        raise Unplannable(
            f"{recipe.where('variant')}: there is no image {CPU} to subtract from: NVIDIA publishes none",
            hint="engine: dockerfile   (makes one out of py3, on Ubuntu's own image)",
        )
    for problem in flag_warnings(recipe):
        emit(Warned(message=f"{problem.where}: {problem.message}", hint=problem.hint))


def _models(recipe: Recipe, place: Workplace, shop: Workshop, stack: ExitStack, own: Checked, *, make: bool) -> Checked:
    """All models of a recipe: what lies here, is fetched, and is converted, with `make` even if that must be done."""
    fetched = fetch_models(recipe, shop.cache.path, _way(recipe, place))
    return check_models(recipe, own, (*fetched, *_converted(recipe, place, shop, stack, make=make)), place.emit)


def _way(recipe: Recipe, place: Workplace) -> Way:
    """How models are fetched."""
    return Way(
        access=place.access,
        base=recipe.base,
        environ=place.environ,
        routes=place.routes,
        platform=recipe.platforms[0],
        ledger=place.ledger,
        patience=place.access.patience,
    )


def _converted(
    recipe: Recipe, place: Workplace, shop: Workshop, stack: ExitStack, *, make: bool
) -> Sequence[ModelRepository]:
    """A repository of the models that are converted: of what was carried here, kept, or with `make` is made now."""
    if not any(model.convert for model in recipe.models):
        return ()
    server = resolve(recipe, recipe.platforms[0], shop.open, place.emit).image.config

    def made(index: int) -> Made:
        kitchen = _kitchen(recipe, shop, place, stack)
        return with_tensorrt.plan_here(recipe, index, server, kitchen, shop.open, jobs=place.jobs)

    found = with_tensorrt.converted(recipe, server, place.cache, made if make else None)
    return [found] if found else ()


def _workshop(outputs: Sequence[Reference], place: Workplace, stack: ExitStack) -> Workshop:
    cache = LayoutStore.ensure(place.cache)
    stack.callback(cache.close)
    opened = partial(_opened, place=place, stack=stack)
    published = opened(place.knowledge) if place.knowledge else None
    # What an output holds already need not be made again, only named.
    places = [opened(output) for output in outputs if output.transport in ("docker", "oci")]
    elsewhere = tuple(places + ([published] if published else []))
    knowledge = Knowledge(cache, published=published, emit=place.emit)
    return Workshop(
        cache=cache,
        knowledge=knowledge,
        elsewhere=elsewhere,
        open=_opener(cache, place, stack),
        cut_all=place.cut_all,
        emit=place.emit,
    )


def _opened(reference: Reference, place: Workplace, stack: ExitStack) -> Store:
    store = open_source(reference, place.access)
    stack.callback(store.close)
    return store


def _opener(cache: LayoutStore, place: Workplace, stack: ExitStack) -> Callable[[Reference], Store]:
    """How images are opened that a recipe names: what a lock knows is not looked up."""

    def locked(reference: Reference) -> Store:
        store = _opened(reference, place, stack)
        return LockedStore(reference, cache, store, place.ledger) if reference.transport == "docker" else store

    return locked


def _root(built: Sequence[Built]) -> tuple[Descriptor, Store]:
    """The one image, or an index of several."""
    if len(built) == 1:
        return built[0].image.manifest.descriptor, built[0].store
    manifests = [one.image.manifest for one in built]
    family = DOCKER_LIST if manifests[0].media_type == DOCKER_MANIFEST else OCI_INDEX
    entries = [replace(one.image.manifest.descriptor, platform=one.image.platform) for one in built]
    index = make_index(family, entries)
    return index.descriptor, Stack(Held({index.descriptor.digest: index.raw}), *(one.store for one in built))


def _prepare(output: Reference, place: Workplace) -> None:
    target = open_target(output, place.access)
    try:
        target.prepare()
    finally:
        target.close()


def _deliver(source: Store, root: Descriptor, output: Reference, place: Workplace) -> None:
    place.emit(StageStarted(stage="deliver", detail=str(output)))
    target = open_target(output, place.access)
    try:
        target.receive(source, root, output.tag or "", emit=place.emit, jobs=place.jobs)
    finally:
        target.close()
    place.emit(StageFinished(stage="deliver", detail=f"{output} is {root.digest}"))


def _keep(source: Store, root: Descriptor, cache: LayoutStore, place: Workplace) -> Reference:
    """Put the whole image into the cache, for want of another place."""
    place.emit(StageStarted(stage="keep", detail="the recipe has no outputs: the image goes into the cache"))
    tag = f"{IMAGE_TAG}{root.digest.removeprefix('sha256:')}"
    cache.receive(source, root, tag, emit=place.emit, jobs=place.jobs)
    found = Reference(transport="oci", place=str(place.cache), digest=root.digest)
    place.emit(StageFinished(stage="keep", detail=str(found)))
    return found


# -- prove --------------------------------------------------------------------------------------------------------


def validate(recipe: Recipe, place: Workplace, *, image: Reference | None, how: Proving) -> Report:
    """Prove an image as a recipe says: `image`, or else the first output of the recipe, which must be built.

    A server that runs already has no image that we know of.
    """
    _check(recipe, place.emit)
    repositories = repositories_of(recipe)
    models = [
        *(model.name for repository in repositories for model in repository.models),
        *(model.name for model in recipe.models if model.name),
    ]
    if is_remote(how):
        return prove_remote(recipe, models or None, how, place.emit)
    reference = image or first_output(recipe)
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_source(reference, place.access)))
        cache = stack.enter_context(closing(LayoutStore.ensure(place.cache)))
        chosen = next((each for each in recipe.platforms if runs_here(each)), recipe.platforms[0])
        found = read_image(store, store.resolve(reference.name), chosen)
        candidate = Candidate(
            name=str(reference),
            image=found,
            store=store,
            recipe=recipe,
            models=models or None,
            knowledge=Knowledge(cache, published=None, emit=place.emit),
            repositories=repositories,
        )
        return prove_image(candidate, how, place.emit)


def first_output(recipe: Recipe) -> Reference:
    """Where a recipe's image is, once it was built. Raises `NotFound` where it names no place."""
    if not recipe.outputs:
        raise NotFound("the recipe has no outputs, so there is no image to start", hint="--image TRANSPORT:NAME")
    return recipe.place(recipe.outputs[0])


# -- the rest -----------------------------------------------------------------------------------------------------


def run(
    image: Reference | None, recipe: Recipe, place: Workplace, *, runner: str, ready: Callable[[Running], None]
) -> None:
    """Start an image as a recipe has it until it ends, `image` or else the first output: see `with_server.serve`."""
    reference = image or first_output(recipe)
    with closing(open_source(reference, place.access)) as store:
        native = Platform(os="linux", architecture=architecture())
        found = read_image(store, store.resolve(reference.name), native)
        place.emit(StageStarted(stage="start", detail=str(reference)))
        serve(found, store, recipe, runner=runner, emit=place.emit, ready=ready)


def written_out(kind: str, image: Reference | None, recipe: Recipe, place: Workplace) -> str:
    """How an image is started, as a text of that kind: of `image`, or else of the output that its readers can pull.

    Raises what `runners.printed.printed` raises.
    """
    reference = image or _pullable(recipe)
    with closing(open_source(reference, place.access)) as store:
        root = store.resolve(reference.name)
        chosen = next((each for each in recipe.platforms if runs_here(each)), recipe.platforms[0])
        what = Printable(
            reference=reference,
            digest=root.digest,
            image=read_image(store, root, chosen),
            run=recipe.run,
            base=recipe.base,
            deadline=(recipe.validation or Validate()).startup.deadline,
            models=[model.name for repository in repositories_of(recipe) for model in repository.models],
        )
    return printed(kind, what)


def _pullable(recipe: Recipe) -> Reference:
    """The first output that is in a registry, else in an engine, else any."""
    first = first_output(recipe)
    order = [*(one for name in ("docker", "docker-daemon") for one in recipe.outputs if one.transport == name)]
    return recipe.place(order[0]) if order else first


def publish_knowledge(recipe: Recipe, target: Reference, place: Workplace) -> int:
    """Push what the cache knows of a recipe's upstream, so that others need not read it. How many artifacts went."""
    with ExitStack() as stack:
        shop = _workshop((), place, stack)
        count = 0
        for platform in recipe.platforms:
            upstream = resolve(recipe, platform, shop.open, place.emit)
            layers = [layer.digest for layer in upstream.image.layers]
            sink = open_target(target, place.access)
            stack.callback(sink.close)
            count += shop.knowledge.publish(
                layers, [manner_of(recipe.max_layer_size, None)], sink, Stack(shop.cache, *shop.elsewhere), place.jobs
            )
    return count


# -- convert ------------------------------------------------------------------------------------------------------


def convert(recipe: Recipe, place: Workplace, *, only: Collection[str] = ()) -> tuple[Made, ...]:
    """Make the TensorRT plans of a recipe on this machine's GPU: of all its models that are converted, or of `only`.

    Those with `plan:` are put there, with their records; all are kept in the cache. Raises `NotFound` where `only`
    names a model that is not converted, and what `with_tensorrt.plan_here` raises.
    """
    chosen = _conversions(recipe, only)
    made: list[Made] = []
    with ExitStack() as stack:
        shop = _workshop((), place, stack)
        kitchen = _kitchen(recipe, shop, place, stack)
        server = resolve(recipe, recipe.platforms[0], shop.open, place.emit).image.config
        for index in chosen:
            made.append(with_tensorrt.plan_here(recipe, index, server, kitchen, shop.open, jobs=place.jobs))
            if target := made[-1].job.plan:
                trtexec.carry_out(made[-1], target)
    return tuple(made)


def _conversions(recipe: Recipe, only: Collection[str]) -> list[int]:
    """Where the models stand that are to be converted."""
    found = {model.name: index for index, model in enumerate(recipe.models) if model.convert and model.name}
    if absent := [name for name in only if name not in found]:
        hint = f"those that are: {', '.join(found)}" if found else "models: [{name: ..., convert: {to: tensorrt, ...}}]"
        raise NotFound(f"the recipe converts no model {absent[0]}", hint=hint)
    if not found:
        raise NotFound("the recipe converts no model", hint="models: [{name: ..., convert: {to: tensorrt, from: ...}}]")
    return [index for name, index in found.items() if not only or name in only]
