"""The commands that start a server: `tricompose validate`, which proves that it serves, and `tricompose run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from composer.command import Desk, Usage, command
from composer.interruptions import settled

if TYPE_CHECKING:
    from composer.oci.names import Reference
    from composer.recipe import Recipe
    from composer.reports import Target
    from composer.runners import Running
    from composer.workplace import Workplace

commands = click.Group()
"""Holds the commands until the tool takes them."""

RUNNER: Final = click.option(
    "--runner",
    type=click.Choice(["auto", "docker", "rootfs"]),
    default="auto",
    show_default=True,
    help="Where the server is started: in Docker, in namespaces without it, or the first that works here.",
)
STRICT: Final = click.option("--strict", is_flag=True, help="A check that asserts nothing about values is a failure.")
VERIFIED: Final = click.option(
    "--require-verified",
    "complete",
    is_flag=True,
    help="Exit with 14 if something could not be seen on this machine, such as a GPU.",
)
REPORTS: Final = click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="[KIND=]FILE",
    help="Write the report here too: json, junit, markdown or html, or what the suffix says. Repeatable.",
)


@command("validate", commands)
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
@STRICT
@VERIFIED
@REPORTS
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
    files = report_files(reports, [Path(what)])
    recipe, named = _subject(desk, what)
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


@command("run", commands)
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
@RUNNER
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


def _subject(desk: Desk, what: str) -> tuple[Recipe, Reference | None]:
    """A recipe; or an image, with a recipe that says nothing."""
    from composer.oci.names import TRANSPORTS, parse_reference
    from composer.recipe import Recipe

    if what.partition(":")[0] in TRANSPORTS:
        return Recipe.model_validate({}), parse_reference(what)
    return desk.recipe(Path(what)), None


def _to_run(desk: Desk, what: str, ports: Mapping[str, int | None]) -> tuple[Reference | None, Recipe, Workplace]:
    """The image, where it is named, how to start it, and where: as a recipe says, or as it comes."""
    from composer.recipe import Ports

    recipe, named = _subject(desk, what)
    chosen = recipe.run.ports.model_dump() | {name: port for name, port in ports.items() if port}
    if len(set(chosen.values())) < len(chosen):
        raise Usage(f"two of the ports are the same: {chosen}", hint="tricompose run --http-port 9000 ...")
    moved = recipe.model_copy(update={"run": recipe.run.model_copy(update={"ports": Ports(**chosen)})})
    return named, moved, desk.place(recipe)


def report_files(asked: Sequence[str], recipes: Sequence[Path]) -> list[Target]:
    """Where reports are to be written. Raises `Usage` where one would take the place of another, or of a recipe."""
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
