"""The command `tricompose`: reads the command line, calls the pipeline, exits. Decides nothing about images.

Only click is imported here; everything else when a command needs it, so that help and completion come at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from composer.console import Console
    from composer.errors import Problem
    from composer.oci.names import Reference
    from composer.pipeline import Workplace
    from composer.recipe import Recipe, Run
    from composer.runners import Running

SECTIONS: Final = {
    "Build": ("init", "plan", "build", "validate", "run"),
    "Images": ("inspect", "copy", "push"),
    "Setup": ("schema", "cache", "knowledge", "completion"),
}
"""How the commands are grouped in the help."""

_USAGE: Final = 2
_LATEST_EPOCH: Final = 253402300799
_SHARED: Final = ("json_output", "progress", "verbose", "quiet", "cache", "jobs", "insecure", "ca_bundle")


# -- what all commands have in common -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a command works with: a console, and the options that say how to run."""

    console: Console
    cache: Path | None = None
    jobs: int = 4
    insecure: Sequence[str] = ()
    ca_bundle: Path | None = None

    def place(self, recipe: Recipe | None = None, *, knowledge: str | None = None) -> Workplace:
        """The workplace that the options, the environment and the recipe's network say."""
        from composer.oci.names import parse_reference
        from composer.pipeline import Workplace

        return Workplace.from_environment(
            os.environ,
            home=Path.home(),
            recipe=recipe,
            cache=self.cache,
            jobs=self.jobs,
            insecure=self.insecure,
            ca_bundle=self.ca_bundle,
            epoch=_epoch(),
            knowledge=parse_reference(knowledge) if knowledge else None,
            emit=self.console.emit,
        )


def _epoch() -> int | None:
    """`SOURCE_DATE_EPOCH`. Source: reproducible-builds.org, the specification of that variable."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal() or not text.isascii() or int(text) > _LATEST_EPOCH:
        raise _Usage(
            f"SOURCE_DATE_EPOCH is {text!r}, and must be a whole number of seconds since 1970",
            hint="export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)   (or: unset SOURCE_DATE_EPOCH)",
        )
    return int(text)


class _Usage(click.UsageError):
    """A command line that cannot be meant, and what to write in its place."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class _Shared(click.Option):
    """An option that many commands have: in the help it stands below those of the command itself."""


def _speech() -> list[click.Parameter]:
    return [
        _Shared(["--json", "json_output"], is_flag=True, help="Write one JSON object to stdout, nothing else."),
        _Shared(
            ["--progress"],
            type=click.Choice(["auto", "rich", "plain", "json", "none"]),
            default="auto",
            show_default=True,
            help="How progress is shown on stderr: auto is rich on a terminal, else plain.",
        ),
        _Shared(["-v", "--verbose"], is_flag=True, help="Show what servers, registries and Docker say."),
        _Shared(["-q", "--quiet"], is_flag=True, help="Show only results, warnings and errors."),
    ]


def _cache_option() -> click.Parameter:
    return _Shared(
        ["--cache"],
        type=click.Path(path_type=Path, file_okay=False),
        envvar="TRICOMPOSE_CACHE",
        show_envvar=True,
        metavar="DIR",
        help="Where layers are kept.  [default: $XDG_CACHE_HOME/tricompose]",
    )


def _reach() -> list[click.Parameter]:
    return [
        _Shared(
            ["-j", "--jobs"], type=click.IntRange(1, 64), default=4, metavar="N", show_default=True, help="Blobs moved at once."
        ),
        _Shared(
            ["--insecure"],
            multiple=True,
            metavar="HOST[:PORT]",
            help="A registry without TLS, or with a certificate nobody knows. Repeatable.",
        ),
        _Shared(
            ["--ca-bundle"],
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE",
            help="Certificates to trust besides the system's (PEM). Stands in for the recipe's.",
        ),
    ]


class _Command(click.Command):
    """A command with the shared options. It is given a `Desk`, and every way to fail has its exit status."""

    def invoke(self, context: click.Context) -> Any:  # noqa: ANN401
        given = {name: context.params.pop(name) for name in _SHARED if name in context.params}
        speech = {name: given.pop(name) for name in ("json_output", "progress", "verbose", "quiet")}
        from composer.console import Console

        console = Console(**speech)
        context.obj = Desk(console=console, **given)
        try:
            with console:
                return super().invoke(context)
        except BaseException as error:
            if isinstance(error, click.exceptions.Exit | SystemExit):
                raise
            context.exit(_fail(console, error))

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, shared in (("Options", False), ("Shared options", True)):
            options = [one for one in self.get_params(context) if isinstance(one, click.Option)]
            found = [one for one in options if isinstance(one, _Shared) == shared]
            rows = [row for one in found if (row := one.get_help_record(context))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class _Tool(click.Group):
    """The commands in their sections."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections = SECTIONS if context.parent is None else {"Commands": tuple(self.commands)}
        for section, names in sections.items():
            with formatter.section(section):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(90)) for name in names])


def _fail(console: Console, error: BaseException) -> int:
    """Tell what went wrong. Returns the exit status."""
    from composer.console.failures import BROKEN_PIPE, Failure, explain

    if isinstance(error, click.ClickException):
        failure = Failure(status=_USAGE, code="usage", message=error.format_message(), hint=_usage_hint(error))
    elif isinstance(error, click.Abort):
        failure = explain(KeyboardInterrupt())
    else:
        failure = explain(error)
    console.fail(failure)
    if failure.status == BROKEN_PIPE:
        from composer.console import silence_stdout

        silence_stdout()
    return failure.status


def _usage_hint(error: click.ClickException) -> str | None:
    if isinstance(error, _Usage):
        return error.hint
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "tricompose --help"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: see `composer.errors`, 2 for usage, 70 for a bug, 130 for Ctrl-C.

    SIGTERM is taken as Ctrl-C, so that containers and half-written files are cleaned away.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = tricompose.main(words, prog_name="tricompose", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            click.echo(error.format_message())
            return 0
        from composer.console import Console

        return _fail(Console(json_output="--json" in words, progress="none", verbose=False, quiet=False), error)
    return status if isinstance(status, int) else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@click.group(
    cls=_Tool,
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


_REACH: Final[Mapping[str, Callable[[], list[click.Parameter]]]] = {
    "far": lambda: [_cache_option(), *_reach()],
    "cache": lambda: [_cache_option()],
    "none": list,
}


def _command(
    name: str, *, reach: str = "far", group: click.Group = tricompose
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a command, with the shared options of those that reach so far."""

    def decorate(function: Callable[..., None]) -> click.Command:
        command = click.command(name, cls=_Command)(function)
        command.params += [*_REACH[reach](), *_speech()]
        group.add_command(command)
        return command

    return decorate


_RECIPE: Final = click.Path(path_type=Path, dir_okay=False)
_RUNNER: Final = click.option(
    "--runner",
    type=click.Choice(["auto", "docker", "rootfs"]),
    default="auto",
    show_default=True,
    help="Where the server is started: in Docker, in namespaces without it, or the first that works here.",
)
_KNOWLEDGE: Final = click.option(
    "--knowledge",
    metavar="REF",
    help="Where others have published what they know of layers: see tricompose knowledge publish.",
)


# -- build --------------------------------------------------------------------------------------------------------


@_command("init", reach="none")
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
    desk.console.result("recipe", str(path), f"{path} is written. See what it would make:\n  tricompose plan {path}")


@_command("plan")
@click.argument("recipe", type=_RECIPE)
@click.option(
    "--scan",
    type=click.Choice(["new", "all", "none"]),
    default="none",
    show_default=True,
    help="Which layers to read first: none, those above the -min image that nobody has read, or all.",
)
@_KNOWLEDGE
@click.pass_obj
def _plan(desk: Desk, /, recipe: Path, scan: str, knowledge: str | None) -> None:
    """Show what building would reuse, split, add and drop, and why.

    No layer is read unless --scan says so: what cannot be known without is said. Nothing is built or delivered.

    \b
    Examples:
      tricompose plan recipe.yaml
      tricompose plan recipe.yaml --scan new
      tricompose plan recipe.yaml --json | jq '.plans[0].dropped[].name'
    """
    from composer import pipeline
    from composer.console import results

    loaded = _load(recipe)
    for plan in pipeline.plan(loaded, desk.place(loaded, knowledge=knowledge), scan=scan):
        desk.console.add_result("plans", results.plan_json(plan), *results.plan_text(plan, str(recipe)))


@_command("build")
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
@_KNOWLEDGE
@click.pass_obj
def _build(
    desk: Desk,
    /,
    recipes: Sequence[Path],
    outputs: Sequence[str],
    no_validate: bool,
    runner: str,
    knowledge: str | None,
) -> None:
    """Make images: plan, compose, prove, deliver.

    Several recipes are built one after another. An image is delivered only after it has passed what its recipe has
    under validate:. Without outputs it stays in the cache. With -q only the digest is shown.

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
    from composer.oci.names import parse_reference

    if outputs and len(recipes) > 1:
        raise _Usage(
            f"-o with {len(recipes)} recipes would give all their images one name",
            hint=f"tricompose build {recipes[0]} -o {outputs[0]}   (one recipe, or outputs: in each of them)",
        )
    instead = [parse_reference(output) for output in outputs]
    for path, recipe in zip(recipes, _load_all(recipes), strict=True):
        targets = instead or [recipe.place(output) for output in recipe.outputs]
        place = desk.place(recipe, knowledge=knowledge)
        outcome = pipeline.build(recipe, place, outputs=targets, runner=None if no_validate else runner)
        text = [outcome.root.digest] if desk.console.quiet else results.outcome_text(outcome, recipe.name)
        desk.console.add_result("builds", results.outcome_json(outcome, str(path), recipe.name), *text)


@_command("validate")
@click.argument("recipe", type=_RECIPE)
@click.option("--image", metavar="REF", help="The image to prove, in place of the recipe's first output.")
@_RUNNER
@click.pass_obj
def _validate(desk: Desk, /, recipe: Path, image: str | None, runner: str) -> None:
    """Start an image and prove that it serves as the recipe says.

    Waits until it is ready, compares its models, asks what validate: lists. Exits with 12 if something failed.
    What cannot be seen on this machine, such as a GPU, is unverified: never passed, and no failure.

    \b
    Examples:
      tricompose validate recipe.yaml
      tricompose validate recipe.yaml --image docker://harbor.example.com/tools/tritonserver:slim
    """
    from composer import pipeline
    from composer.console import results
    from composer.errors import CheckFailed
    from composer.oci.names import parse_reference

    loaded = _load(recipe)
    reference = parse_reference(image) if image else None
    report = pipeline.validate(loaded, desk.place(loaded), image=reference, runner=runner)
    desk.console.result("report", report.to_json(), *results.report_text(report))
    if not report.ok:
        raise CheckFailed(f"not proved: {results.tally(report)}", hint=f"tricompose run {image or recipe}")


@_command("run")
@click.argument("what", metavar="RECIPE|IMAGE")
@click.option("--http-port", type=click.IntRange(1, 65535), metavar="PORT", help="In place of the recipe's, or 8000.")
@click.option("--grpc-port", type=click.IntRange(1, 65535), metavar="PORT", help="In place of the recipe's, or 8001.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), metavar="PORT", help="In place of the recipe's, or 8002.")
@_RUNNER
@click.pass_obj
def _run(desk: Desk, /, what: str, runner: str, **ports: int | None) -> None:
    """Start a server from an image, until Ctrl-C.

    A recipe means its first output, which must be built. The server answers on 127.0.0.1; its log goes to stderr.
    Exits with 0 after Ctrl-C once the server was ready, with 130 before, with 12 if the server ended by itself.

    \b
    Examples:
      tricompose run recipe.yaml
      tricompose run oci:build/slim:24.10 --http-port 9000
    """
    from composer import pipeline

    image, options, place = _to_run(desk, what, {name.removesuffix("_port"): port for name, port in ports.items()})
    served: list[Running] = []

    def ready(running: Running) -> None:
        served.append(running)
        found = {"http": running.http, "grpc": running.grpc, "metrics": running.metrics}
        desk.console.result("server", found, f"ready: {running.http}   (Ctrl-C stops it)")
        desk.console.flush()

    try:
        pipeline.run(image, options, place, runner=runner, ready=ready)
    except KeyboardInterrupt:
        if not served:
            raise


def _to_run(desk: Desk, what: str, ports: Mapping[str, int | None]) -> tuple[Reference, Run, Workplace]:
    """The image, how to start it, and where: as a recipe says, or as it comes."""
    from composer.oci.names import TRANSPORTS, parse_reference
    from composer.pipeline import first_output
    from composer.recipe import Ports, Run

    recipe = None if what.partition(":")[0] in TRANSPORTS else _load(Path(what))
    options = recipe.run if recipe else Run()
    chosen = options.ports.model_dump() | {name: port for name, port in ports.items() if port}
    if len(set(chosen.values())) < len(chosen):
        raise _Usage(f"two of the ports are the same: {chosen}", hint="tricompose run --http-port 9000 ...")
    image = first_output(recipe) if recipe else parse_reference(what)
    return image, options.model_copy(update={"ports": Ports(**chosen)}), desk.place(recipe)


def _load(path: Path) -> Recipe:
    from composer.recipe import load_recipe

    return load_recipe(path, environ=os.environ)


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


@_command("inspect")
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
    from composer import pipeline
    from composer.console import results
    from composer.oci.names import parse_reference

    root, images = pipeline.inspect(parse_reference(image), desk.place())
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
    from composer import pipeline
    from composer.oci.image import Platform
    from composer.oci.names import parse_reference

    chosen = [Platform.parse(platform) for platform in platforms] or None
    root = pipeline.copy(parse_reference(source), parse_reference(target), desk.place(), platforms=chosen)
    document = {"source": source, "target": target, "digest": root.digest, "media_type": root.media_type}
    desk.console.result("copied", document, root.digest)


@_command("copy")
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


@_command("push")
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


@_command("schema", reach="none")
@click.pass_obj
def _schema(desk: Desk, /) -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    Examples:
      tricompose schema > recipe.schema.json
    """
    import json

    from composer.recipe import json_schema

    schema = json_schema()
    desk.console.result("json_schema", schema)
    desk.console.text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


@tricompose.group("cache", cls=_Tool)
def _cache() -> None:
    """Look at the cache of layers, or remove it.

    \b
    Examples:
      tricompose cache info
      tricompose cache clear --yes
    """


@_command("info", reach="cache", group=_cache)
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

    contents = cache.look(desk.place().cache)
    desk.console.result("cache", asdict(contents) | {"path": str(contents.path)}, results.cache_text(contents))


@_command("clear", reach="cache", group=_cache)
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
    from composer import cache
    from composer.console import words

    path = desk.place().cache
    size = cache.look(path).size
    if not yes and not sys.stdin.isatty():
        raise _Usage("the cache is removed only if someone says so", hint="tricompose cache clear --yes")
    if not yes and not click.confirm(f"Remove {words.size(size)} in {path}?", err=True):
        size = 0
    else:
        cache.clear(path)
    desk.console.result("cleared", {"path": str(path), "size": size}, f"{words.size(size)} removed from {path}")


@tricompose.group("knowledge", cls=_Tool)
def _knowledge() -> None:
    """Share what is known of layers, so that others need not read them.

    \b
    Examples:
      tricompose knowledge publish recipe.yaml docker://harbor.example.com/tools/triton-knowledge
    """


@_command("publish", group=_knowledge)
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
    from composer import pipeline
    from composer.console import words
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


@_command("completion", reach="none")
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


if __name__ == "__main__":
    sys.exit(main())
