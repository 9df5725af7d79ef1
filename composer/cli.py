"""The command `tricompose`: reads the command line, calls the pipeline, exits. Decides nothing about images."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from composer.cli_bundle import bundle
from composer.cli_doctor import commands as doctors_commands
from composer.cli_mirror import commands as mirroring_commands
from composer.cli_models import models
from composer.command import Desk, Tool, Usage, command, drain, run
from composer.interruptions import settled

if TYPE_CHECKING:
    from composer.errors import Problem
    from composer.import_compose import Engine
    from composer.oci.names import Reference
    from composer.recipe import Recipe
    from composer.reports import Target
    from composer.runners import Running
    from composer.workplace import Workplace


@click.group(
    cls=Tool,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="tricompose", message="%(prog)s %(version)s")
def tricompose() -> None:
    """Slim NVIDIA Triton Inference Server images from a recipe. No Docker daemon, no root, no rebuild.

    A full Triton image is many gigabytes, most of it backends that your models never use. tricompose takes the
    layers apart, leaves out what the recipe does not ask for, proves that the rest serves, and puts it where you want.

    \b
      tricompose init                        write a recipe to start from
      tricompose plan recipe.yaml            see what would be kept and dropped
      tricompose build recipe.yaml           make it, prove it, deliver it

    Sizes are decimal, as Docker shows them: 1 MB is 1,000,000 bytes.
    """


_RECIPE: Final = click.Path(path_type=Path, dir_okay=False)
_RUNNER: Final = click.option(
    "--runner",
    type=click.Choice(["auto", "docker", "rootfs"]),
    default="auto",
    show_default=True,
    help="Where the server is started: in Docker, in namespaces without it, or the first that works here.",
)
_STRICT: Final = click.option("--strict", is_flag=True, help="A check that asserts nothing about values is a failure.")
_VERIFIED: Final = click.option(
    "--require-verified",
    "complete",
    is_flag=True,
    help="Exit with 14 if something could not be seen on this machine, such as a GPU.",
)
_REPORTS: Final = click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="[KIND=]FILE",
    help="Write the report here too: json, junit, markdown or html, or what the suffix says. Repeatable.",
)
_LOCKED: Final = click.option(
    "--locked", is_flag=True, help="Refuse what RECIPE.lock.json does not pin. Without it such things are looked up."
)
_KNOWLEDGE: Final = click.option(
    "--knowledge",
    metavar="REF",
    help="Where others have published what they know of layers: see tricompose knowledge publish.",
)
_CUT: Final = click.option(
    "--cut",
    type=click.Choice(["wanted", "all"]),
    default="wanted",
    show_default=True,
    help="What layers are made of a layer that is read: of the recipe's components, or of all, for recipes to come.",
)


# -- build --------------------------------------------------------------------------------------------------------


@command("init", tricompose, reach="none")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--from-models",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A Triton model repository: its models go in, and the backends that they need.",
)
@click.pass_obj
def _init(desk: Desk, /, folder: Path, from_models: Path | None) -> None:
    """Write a commented recipe to start from.

    Writes recipe.yaml into DIR, by default here. A recipe that is there already is left alone.

    \b
    Examples:
      tricompose init
      tricompose init serving --from-models ./model_repository
    """
    from composer.starter import write_starter

    path = write_starter(folder, models=from_models)
    first = f"Check the models, then see what it would make:\n  tricompose models lint {path}"
    then = first if from_models else "See what it would make:"
    desk.console.result("recipe", str(path), f"{path} is written. {then}\n  tricompose plan {path}")


@command("import-compose", tricompose, reach="none")
@click.argument("words", metavar="-- ARGS...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the recipe here, in place of stdout. A file that is there already is left alone.",
)
@click.option(
    "--release",
    metavar="RELEASE",
    help="The release of the checkout that compose.py is run in, for ARGS without --container-version.",
)
@click.option(
    "--engine",
    type=click.Choice(["direct", "dockerfile"]),
    help="The recipe's engine.  [default: direct, and dockerfile for a CPU image]",
)
@click.pass_obj
def _import_compose(
    desk: Desk, /, words: Sequence[str], output: Path | None, release: str | None, engine: Engine | None
) -> None:
    """Turn a command line of NVIDIA's compose.py into a recipe.

    ARGS are those of compose.py, of any release since 21.08, after two dashes that stand alone. A "python3 compose.py"
    before them may stay. What has no place in a recipe is told on stderr, with what to do instead.

    \b
    Examples:
      tricompose import-compose -- --backend onnxruntime --backend python --container-version 24.10
      tricompose import-compose -o recipe.yaml --release 24.10 -- python3 compose.py --backend=python
    """
    from composer.import_compose import import_compose
    from composer.starter import write_new

    imported = import_compose(words, checkout=release, engine=engine, path=str(output or "recipe.yaml"))
    if imported.problems:
        first = imported.problems[0]
        raise Usage(first.message, hint=first.hint or "", problems=imported.problems)
    if output:
        write_new(output, imported.text, instead="tricompose import-compose -o another.yaml -- ...")
    for event in imported.said:
        desk.console.emit(event)
    written = [f"{output} is written. See what it would make:\n  tricompose plan {output}"] if output else []
    desk.console.result("imported", {"path": output and str(output), **imported.to_json()}, *written)
    if not output:
        desk.console.text(imported.text)


# Whoever forgets the two dashes is understood all the same.
tricompose.commands["import-compose"].context_settings = {"ignore_unknown_options": True}


@command("plan", tricompose)
@click.argument("recipe", type=_RECIPE)
@click.option(
    "--scan",
    type=click.Choice(["new", "all", "none"]),
    default="none",
    show_default=True,
    help="Which layers to read first: none, those above the -min image that nobody has read, or all.",
)
@click.option(
    "--dockerfile",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write what engine: dockerfile would build: a Dockerfile and all that it copies, for plain docker build.",
)
@click.option(
    "--pin",
    is_flag=True,
    help="With a Dockerfile: ask the registry, and name images by digest. Without it nothing is asked of anybody.",
)
@_LOCKED
@_CUT
@_KNOWLEDGE
@click.pass_obj
def _plan(
    desk: Desk,
    /,
    recipe: Path,
    scan: str,
    folder: Path | None,
    pin: bool,
    locked: bool,
    cut: str,
    knowledge: str | None,
) -> None:
    """Show what building would reuse, split, add and drop, and why.

    No layer is read unless --scan says so: what cannot be known without is said. Nothing is built or delivered.
    Of a recipe with engine: dockerfile it shows the Dockerfile.

    \b
    Examples:
      tricompose plan recipe.yaml
      tricompose plan recipe.yaml --scan new
      tricompose plan recipe.yaml --dockerfile compose && sh compose/tricompose/build.sh tritonserver:slim
      tricompose plan recipe.yaml --json | jq '.plans[0].dropped[].name'
    """
    from composer import pipeline
    from composer.console import results

    loaded = _load(recipe)
    if folder or loaded.engine == "dockerfile":
        texts = pipeline.write_dockerfile(loaded, folder, desk.place(loaded, locked=locked), look_up=pin)
        for text in texts:
            desk.console.add_result("dockerfiles", {"folder": str(folder) if folder else None, "text": text})
            if not folder:
                desk.console.text(text)
        if folder:
            then = f"To build it, here or elsewhere:\n  sh {folder}/tricompose/build.sh NAME:TAG"
            desk.console.result("folder", str(folder), f"{folder} is written. {then}")
        return
    place = desk.place(loaded, locked=locked, knowledge=knowledge, cut=cut)
    for plan in pipeline.plan(loaded, place, scan=scan):
        desk.console.add_result("plans", results.plan_json(plan), *results.plan_text(plan, str(recipe)))


@command("lock", tricompose)
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=_RECIPE)
@click.option("--check", is_flag=True, help="Write nothing; exit with 15 where a lock is not what it would be now.")
@click.pass_obj
def _lock(desk: Desk, /, recipes: Sequence[Path], check: bool) -> None:
    """Pin everything outside by digest: images, fetched models, Python packages.

    Looks up what the recipe's names mean now, and writes it into RECIPE.lock.json beside it. From then on plan and
    build go by that, until it is written again; what is in the cache by digest is not asked for at all. Keep it in git.

    \b
    Examples:
      tricompose lock recipe.yaml
      tricompose lock recipe.yaml --check
      tricompose build recipe.yaml --locked
    """
    from composer import pipeline
    from composer.console import locks
    from composer.errors import LockStale
    from composer.lockfile import Ledger, differences, lock_path, read_lock, write_lock

    stale = []
    for path, recipe in zip(recipes, _load_all(recipes), strict=True):
        place = replace(desk.place(recipe), ledger=Ledger())
        file = lock_path(path)
        before, now = read_lock(file), pipeline.lock(recipe, place)
        changes = differences(before, now)
        if not check:
            write_lock(file, now)
        elif changes:
            stale.append(path)
        desk.console.add_result("locks", locks.lock_json(file, now, changes), *locks.lock_text(file, now, changes))
    if stale:
        raise LockStale(f"the lock of {stale[0]} is not what its names mean today", hint=f"tricompose lock {stale[0]}")


@command("build", tricompose, reach="push")
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=_RECIPE)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="TRANSPORT",
    help="Where the image goes, in place of the recipe's outputs. Repeatable.",
)
@click.option("--no-validate", is_flag=True, help="Do not prove that it serves; the image's label will say so.")
@_RUNNER
@_STRICT
@_VERIFIED
@_REPORTS
@_LOCKED
@_CUT
@_KNOWLEDGE
@click.option("--no-cache", is_flag=True, help="In a Docker build: run every step anew.")
@click.option("--pull", is_flag=True, help="In a Docker build: ask again for images that the engine has.")
@click.option(
    "--build-network", metavar="MODE", help="In a Docker build: the network of its steps, as docker build has it."
)
@click.option("--no-buildkit", is_flag=True, help="In a Docker build: the classic builder, even if there is BuildKit.")
@click.pass_obj
def _build(
    desk: Desk,
    /,
    recipes: Sequence[Path],
    outputs: Sequence[str],
    no_validate: bool,
    runner: str,
    strict: bool,
    complete: bool,
    reports: Sequence[str],
    locked: bool,
    cut: str,
    knowledge: str | None,
    no_cache: bool,
    pull: bool,
    build_network: str | None,
    no_buildkit: bool,
) -> None:
    """Make images: plan, compose, prove, deliver.

    Several recipes are built one after another. An image is delivered only after it has passed what its recipe has
    under validate:. Without outputs it stays in the cache. With -q only the digest is shown. A Docker Engine is
    needed for recipes with engine: dockerfile, packages.apt or steps:, and for none else.

    \b
    Transports:
      docker://host/repository:tag    oci:dir:tag    oci-archive:file.tar:tag
      docker-archive:file.tar:name:tag    docker-daemon:name:tag
    \b
    Examples:
      tricompose build recipe.yaml
      tricompose build recipe.yaml -o docker-daemon:tritonserver:slim
      tricompose build recipes/*.yaml --no-validate
    """
    from composer import pipeline
    from composer.console import results
    from composer.console.proofs import report_text
    from composer.oci.names import parse_reference
    from composer.reports import write_all as write_reports
    from composer.with_server import Proving, Unproved, Unseen
    from composer.workplace import DockerWay

    if outputs and len(recipes) > 1:
        raise Usage(
            f"-o with {len(recipes)} recipes would give all their images one name",
            hint=f"tricompose build {recipes[0]} -o {outputs[0]}   (one recipe, or outputs: in each of them)",
        )
    instead = [parse_reference(output) for output in outputs]
    files = _report_files(reports, recipes)
    way = DockerWay(use_cache=not no_cache, pull=pull, network=build_network, classic=no_buildkit)
    for path, recipe in zip(recipes, _load_all(recipes), strict=True):
        targets = instead or [recipe.place(output) for output in recipe.outputs]
        place = desk.place(recipe, locked=locked, knowledge=knowledge, cut=cut, docker=way)
        try:
            how = None if no_validate else Proving(runner=runner, strict=strict, complete=complete)
            outcome = pipeline.build(recipe, place, outputs=targets, how=how)
        except (Unproved, Unseen) as error:
            for platform, report in error.reports.items():
                document = {"platform": platform, **report.to_json()}
                desk.console.add_result("reports", document, *report_text(report))
            write_reports(error.reports.values(), files)
            raise
        text = [outcome.root.digest] if desk.console.quiet else results.outcome_text(outcome, recipe.name)
        desk.console.add_result("builds", results.outcome_json(outcome, str(path), recipe.name), *text)
        # Told first: where a report cannot be written, the image is delivered all the same.
        write_reports(outcome.reports.values(), files)


@command("validate", tricompose)
@click.argument("what", metavar="RECIPE|IMAGE")
@click.option("--image", metavar="REF", help="The image to prove, in place of the recipe's first output.")
@click.option(
    "--runner",
    metavar="WHERE",
    default="auto",
    show_default=True,
    help="Where the server is started: docker, rootfs (namespaces, without Docker), auto (the first that works here); "
    "or remote:HOST[:HTTP[:GRPC[:METRICS]]], where one runs already.",
)
@click.option("--static", is_flag=True, help="Only look at the image: nothing is started.")
@click.option("--record", is_flag=True, help="Write the recipe's goldens, if everything else passed.")
@click.option("--allow-stale", is_flag=True, help="Take goldens that were recorded of another model or request.")
@_STRICT
@_VERIFIED
@_REPORTS
@click.pass_obj
def _validate(
    desk: Desk,
    /,
    what: str,
    image: str | None,
    reports: Sequence[str],
    runner: str,
    static: bool,
    record: bool,
    allow_stale: bool,
    strict: bool,
    complete: bool,
) -> None:
    """Start an image and prove that it serves as the recipe says.

    Looks at the image, waits until the server is ready, compares its models, asks what validate: lists, puts it under
    load. Without a recipe only what every image must be is checked. Exits with 12 if something failed.
    What cannot be seen on this machine, such as a GPU, is unverified: never passed, and no failure.

    \b
    Examples:
      tricompose validate recipe.yaml
      tricompose validate recipe.yaml --image docker://harbor.example.com/tools/tritonserver:slim
      tricompose validate docker-daemon:tritonserver:slim --static
      tricompose validate recipe.yaml --report junit=proof.xml --report html=proof.html
      tricompose validate recipe.yaml --runner remote:triton.example.com
    """
    from composer import pipeline
    from composer.console.proofs import report_text
    from composer.oci.names import parse_reference
    from composer.reports import write_all as write_reports
    from composer.with_server import Proving, remedy, require

    _provable(runner, {"--static": static, "--image": bool(image)}, {"--static": static, "--record": record})
    files = _report_files(reports, [Path(what)])
    recipe, named = _subject(what)
    reference = parse_reference(image) if image else named
    how = Proving(
        runner=runner, strict=strict, record=record, allow_stale=allow_stale, static=static, complete=complete
    )
    with _unless_unbuilt(what):
        report = pipeline.validate(recipe, desk.place(recipe), image=reference, how=how)
    desk.console.result("report", report.to_json(), *report_text(report))
    write_reports([report], files)
    hint = remedy(report) or f"tricompose run {image or what}   starts it, to look"
    require({report.about.platform: report}, complete=complete, hint=hint)


@command("run", tricompose)
@click.argument("what", metavar="RECIPE|IMAGE")
@click.option("--http-port", type=click.IntRange(1, 65535), metavar="PORT", help="In place of the recipe's, or 8000.")
@click.option("--grpc-port", type=click.IntRange(1, 65535), metavar="PORT", help="In place of the recipe's, or 8001.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), metavar="PORT", help="In place of the recipe's, or 8002."
)
@click.option(
    "--print",
    "kind",
    type=click.Choice(["docker", "compose", "kubernetes"]),
    help="Start nothing: write out the command, or the file, that starts it there.",
)
@_RUNNER
@click.pass_obj
def _run(desk: Desk, /, what: str, kind: str | None, runner: str, **ports: int | None) -> None:
    """Start a server from an image, until Ctrl-C.

    A recipe means its first output, which must be built. The server answers on 127.0.0.1; its log goes to stderr.
    Exits with 0 after Ctrl-C once the server was ready, with 130 before, with 12 if the server ended by itself.

    \b
    Examples:
      tricompose run recipe.yaml
      tricompose run oci:build/slim:24.10 --http-port 9000
      tricompose run recipe.yaml --print kubernetes | kubectl apply -f -
    """
    from composer import pipeline

    image, recipe, place = _to_run(desk, what, {name.removesuffix("_port"): port for name, port in ports.items()})
    if kind:
        with _unless_unbuilt(what):
            text = pipeline.written_out(kind, image, recipe, place)
        desk.console.result(kind, text)
        desk.console.text(text)
        return
    served: list[Running] = []

    def ready(running: Running) -> None:
        served.append(running)
        found = {"http": running.http, "grpc": running.grpc, "metrics": running.metrics}
        desk.console.result("server", found, f"ready: {running.http}   (Ctrl-C stops it)")
        desk.console.flush()

    try:
        with _unless_unbuilt(what):
            pipeline.run(image, recipe, place, runner=runner, ready=ready)
    except KeyboardInterrupt:
        if not served:
            raise
        settled()


@contextmanager
def _unless_unbuilt(recipe: Path | str) -> Iterator[None]:
    """Say of an image that is not there that it may have to be built, where a recipe names it."""
    from composer.errors import NotFound
    from composer.oci.names import TRANSPORTS

    try:
        yield
    except NotFound as error:
        if str(recipe).partition(":")[0] in TRANSPORTS:
            raise
        raise NotFound(error.message, hint=f"if it is not built yet: tricompose build {recipe}") from error


def _provable(runner: str, of_images: Mapping[str, bool], excluding: Mapping[str, bool]) -> None:
    """Raise `NotFound` for no runner, `Usage` for options that exclude each other or make no sense with it."""
    from composer.errors import NotFound
    from composer.runners import RUNNERS
    from composer.runners.remote import PREFIX, parse_remote

    if not runner.startswith(PREFIX):
        if runner not in ("auto", *RUNNERS):
            raise NotFound(f"there is no runner {runner!r}", hint=f"one of: auto, {', '.join(RUNNERS)}, {PREFIX}HOST")
    elif parse_remote(runner) and (option := next((name for name, given in of_images.items() if given), None)):
        raise Usage(f"{option} is about an image, and {runner} is a server that runs already", hint="leave one out")
    if all(excluding.values()):
        raise Usage(f"{' and '.join(excluding)} exclude each other", hint="leave one out")


def _report_files(asked: Sequence[str], recipes: Sequence[Path]) -> list[Target]:
    from composer.reports import target

    if asked and len(recipes) > 1:
        raise Usage(
            f"--report with {len(recipes)} recipes would write all their reports into one file",
            hint=f"tricompose build {recipes[0]} --report {asked[0]}   (one recipe at a time)",
        )
    files = [target(one) for one in asked]
    taken = {path.resolve(): "the recipe" for path in recipes}
    for file in files:
        if what := taken.get(file.path.resolve()):
            raise Usage(f"--report would write over {what}, {file.path}", hint=f"--report {file.kind}=FILE")
        taken[file.path.resolve()] = "another report"
    return files


def _subject(what: str) -> tuple[Recipe, Reference | None]:
    """A recipe; or an image, with a recipe that says nothing."""
    from composer.oci.names import TRANSPORTS, parse_reference
    from composer.recipe import Recipe

    if what.partition(":")[0] in TRANSPORTS:
        return Recipe.model_validate({}), parse_reference(what)
    return _load(Path(what)), None


def _to_run(desk: Desk, what: str, ports: Mapping[str, int | None]) -> tuple[Reference | None, Recipe, Workplace]:
    """The image, where it is named, how to start it, and where: as a recipe says, or as it comes."""
    from composer.recipe import Ports

    recipe, named = _subject(what)
    chosen = recipe.run.ports.model_dump() | {name: port for name, port in ports.items() if port}
    if len(set(chosen.values())) < len(chosen):
        raise Usage(f"two of the ports are the same: {chosen}", hint="tricompose run --http-port 9000 ...")
    moved = recipe.model_copy(update={"run": recipe.run.model_copy(update={"ports": Ports(**chosen)})})
    return named, moved, desk.place(recipe)


def _load(path: Path) -> Recipe:
    from composer.recipe import load_recipe

    recipe = load_recipe(path, environ=os.environ)
    desk = click.get_current_context().find_object(Desk)
    return desk.overlaid(recipe) if desk else recipe


def _load_all(paths: Sequence[Path]) -> list[Recipe]:
    """All recipes, before the first is built. Raises `RecipeError` with the problems of all of them."""
    from composer.errors import RecipeError

    recipes: list[Recipe] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            recipes.append(_load(path))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return recipes


# -- images -------------------------------------------------------------------------------------------------------


@command("inspect", tricompose)
@click.argument("image")
@click.pass_obj
def _inspect(desk: Desk, /, image: str) -> None:
    """Show what is in an image: platforms, layers with sizes, what it starts.

    No layer is read.

    \b
    Examples:
      tricompose inspect docker://nvcr.io/nvidia/tritonserver:24.10-py3
      tricompose inspect oci:build/slim --json
    """
    from composer import moving
    from composer.console import results
    from composer.oci.names import parse_reference

    root, images = moving.inspect(parse_reference(image), desk.place())
    desk.console.result("image", results.images_json(image, root, images), *results.images_text(image, root, images))


def _moving(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments of `copy` and `push`."""
    for decorate in (
        click.pass_obj,
        click.option(
            "--platform",
            "platforms",
            multiple=True,
            metavar="OS/ARCH",
            help="Only this platform of several. Repeatable. All by default.",
        ),
        click.argument("target", metavar="DST"),
        click.argument("source", metavar="SRC"),
    ):
        function = decorate(function)
    return function


def _move(desk: Desk, source: str, target: str, platforms: Sequence[str]) -> None:
    from composer import moving
    from composer.oci.image import Platform
    from composer.oci.names import parse_reference

    chosen = [Platform.parse(platform) for platform in platforms] or None
    root = moving.copy(parse_reference(source), parse_reference(target), desk.place(), platforms=chosen)
    document = {"source": source, "target": target, "digest": root.digest, "media_type": root.media_type}
    desk.console.result("copied", document, root.digest)


@command("copy", tricompose, reach="push")
@_moving
def _copy(desk: Desk, /, source: str, target: str, platforms: Sequence[str]) -> None:
    """Move an image between any two places.

    Digests never change on the way, and bytes that are there already are not moved again. Prints the digest.

    \b
    Examples:
      tricompose copy docker://nvcr.io/nvidia/tritonserver:24.10-py3 oci:mirror:24.10-py3
      tricompose copy oci:build/slim:24.10 docker-daemon:tritonserver:slim
      tricompose copy docker://host/app:1 oci-archive:app.tar:1 --platform linux/arm64
    """
    _move(desk, source, target, platforms)


@command("push", tricompose, reach="push")
@_moving
def _push(desk: Desk, /, source: str, target: str, platforms: Sequence[str]) -> None:
    """Move an image to a registry: another name for copy.

    \b
    Examples:
      tricompose push oci:build/slim:24.10 docker://harbor.example.com/tools/tritonserver:24.10-slim
      tricompose push oci-archive:image.tar docker://localhost:5000/app:1 --insecure localhost:5000
    """
    _move(desk, source, target, platforms)


# -- setup --------------------------------------------------------------------------------------------------------


@command("schema", tricompose, reach="none")
@click.argument("what", metavar="[recipe|report]", default="recipe", type=click.Choice(["recipe", "report"]))
@click.pass_obj
def _schema(desk: Desk, /, what: str) -> None:
    """Print the JSON Schema of recipes, for editors; or of the reports that checks make.

    \b
    Examples:
      tricompose schema > recipe.schema.json
      tricompose schema report > report.schema.json
    """
    import json

    from composer.recipe import json_schema
    from composer.reports import report_schema

    schema = json_schema() if what == "recipe" else report_schema()
    desk.console.result("json_schema", schema)
    desk.console.text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


@tricompose.group("cache")
def _cache() -> None:
    """Look at the cache of layers, or remove it.

    \b
    Examples:
      tricompose cache info
      tricompose cache clear --yes
    """


@command("info", _cache, reach="cache")
@click.pass_obj
def _cache_info(desk: Desk, /) -> None:
    """Show where the cache is and what is in it.

    \b
    Examples:
      tricompose cache info
    """
    from dataclasses import asdict

    from composer import cache
    from composer.console import results

    contents = cache.look(desk.cache_folder())
    desk.console.result("cache", asdict(contents) | {"path": str(contents.path)}, results.cache_text(contents))


@command("clear", _cache, reach="cache")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def _cache_clear(desk: Desk, /, yes: bool) -> None:
    """Remove the cache: layers that were cut are cut again when they are needed.

    Images that were built without outputs are in it too. No build may be at work meanwhile.

    \b
    Examples:
      tricompose cache clear
      tricompose cache clear --yes --cache /var/cache/tricompose
    """
    from composer import cache, words

    path = desk.cache_folder()
    size = cache.look(path).size
    if not yes and not sys.stdin.isatty():
        raise Usage("the cache is removed only if someone says so", hint="tricompose cache clear --yes")
    if not yes and not click.confirm(f"Remove {words.size(size)} in {path}?", err=True):
        size = 0
    else:
        cache.clear(path)
    desk.console.result("cleared", {"path": str(path), "size": size}, f"{words.size(size)} removed from {path}")


@tricompose.group("knowledge")
def _knowledge() -> None:
    """Share what is known of layers, so that others need not read them.

    \b
    Examples:
      tricompose knowledge publish recipe.yaml docker://harbor.example.com/tools/triton-knowledge
    """


@command("publish", _knowledge)
@click.argument("recipe", type=_RECIPE)
@click.argument("target", metavar="REF")
@click.pass_obj
def _publish(desk: Desk, /, recipe: Path, target: str) -> None:
    """Push what the cache knows of the upstream of a recipe.

    Machines without a cache then build from it: tricompose build --knowledge REF.

    \b
    Examples:
      tricompose knowledge publish recipe.yaml docker://harbor.example.com/tools/triton-knowledge
    """
    from composer import pipeline, words
    from composer.errors import NotFound
    from composer.oci.names import parse_reference

    loaded = _load(recipe)
    count = pipeline.publish_knowledge(loaded, parse_reference(target), desk.place(loaded))
    if not count:
        raise NotFound(
            "nothing is known of this upstream yet: its layers were never read here",
            hint=f"tricompose plan --scan new {recipe}",
        )
    document = {"target": target, "artifacts": count}
    desk.console.result("published", document, f"{words.count(count, 'artifact')} published to {target}")


@command("releases", tricompose, reach="none")
@click.argument("release", metavar="[RELEASE]", required=False)
@click.pass_obj
def _releases(desk: Desk, /, release: str | None) -> None:
    """Show what is known of Triton's releases, or of one.

    What is in the py3 image of each: versions, and the names that backends, repository agents and caches have there.
    Of one release also what is different from the one before it, with what its Dockerfile needs.

    \b
    Examples:
      tricompose releases
      tricompose releases 24.10
      tricompose releases --json | jq -r '.releases[] | select(.ubuntu == "24.04") | .name'
    """
    from composer import releases
    from composer.console import results

    if release is None:
        known = tuple(releases.RELEASES.values())
        desk.console.result("releases", results.releases_json(known), *results.releases_text(known))
        return
    one, changed = releases.release(release), releases.changes(release)
    desk.console.result("release", results.release_json(one, changed), *results.release_text(one, changed))


@command("completion", tricompose, reach="none")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def _completion(desk: Desk, /, shell: str) -> None:
    """Print a script that completes tricompose in a shell.

    \b
    Examples:
      source <(tricompose completion bash)
      tricompose completion zsh > ~/.zfunc/_tricompose
      tricompose completion fish > ~/.config/fish/completions/tricompose.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made
    script = made(tricompose, {}, "tricompose", "_TRICOMPOSE_COMPLETE").source()
    desk.console.result("script", script)
    desk.console.text(script + "\n")


tricompose.add_command(models)
tricompose.add_command(bundle)
tricompose.add_command(mirroring_commands.commands["mirror"])
tricompose.add_command(doctors_commands.commands["doctor"])
tricompose.add_command(doctors_commands.commands["hosts"])


# -- the process --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: see `composer.errors`, 2 for usage, 70 for a bug, 130 for Ctrl-C.

    Ctrl-C and SIGTERM are what `composer.__main__` has made of them.
    """
    for name in ("stdout", "stderr"):
        _make_writable(name)
    try:
        return run(tricompose, sys.argv[1:] if arguments is None else arguments)
    finally:
        drain()


def _make_writable(name: str) -> None:
    """A stream that was closed, or whose encoding lacks a character, must not be what a build dies of."""
    stream = getattr(sys, name)
    if stream is None:
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open as long as the process lives
    elif isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
