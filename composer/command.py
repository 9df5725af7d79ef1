"""What all commands have in common: the shared options, the help, and the exit status of every way to fail.

Only click is imported here; everything else when a command needs it, so that help and completion come at once.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from composer.interruptions import settled

if TYPE_CHECKING:
    from composer.console import Console
    from composer.errors import Problem
    from composer.recipe import Recipe
    from composer.workplace import DockerWay, Workplace

SECTIONS: Final = {
    "Build": ("init", "import-compose", "plan", "lock", "build", "validate", "run"),
    "Models": ("models",),
    "Images": ("inspect", "copy", "push", "mirror", "bundle"),
    "Setup": ("doctor", "hosts", "schema", "releases", "cache", "knowledge", "completion"),
}
"""How the commands are grouped in the help."""

RECIPE: Final = click.Path(path_type=Path, dir_okay=False)
"""A recipe as an argument."""

USAGE: Final = 2
"""The exit status of a command line that cannot be meant."""

_LATEST_EPOCH: Final = 253402300799
"""The last second of the year 9999, after which no time has a spelling. Source: RFC 3339."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a command works with: a console, and the options that say how to run."""

    console: Console
    cache: Path | None = None
    jobs: int = 4
    max_wait: float = 120.0
    network: Path | None = None
    resolve: Sequence[str] = ()
    insecure: Sequence[str] = ()
    ca_bundle: Path | None = None
    mount_from: Sequence[str] = ()

    def recipe(self, path: Path) -> Recipe:
        """A recipe, with what `--network` says of the network. Raises `RecipeError`, `NotFound`."""
        from composer.recipe import load_recipe
        from composer.routing import overlaid

        return overlaid(load_recipe(path, environ=os.environ), self.network, os.environ)

    def recipes(self, paths: Sequence[Path]) -> list[Recipe]:
        """All of them, before anything is done with the first. Raises `RecipeError` with the problems of all."""
        from composer.errors import RecipeError

        found: list[Recipe] = []
        problems: list[Problem] = []
        for path in paths:
            try:
                found.append(self.recipe(path))
            except RecipeError as error:
                problems += error.problems
        if problems:
            raise RecipeError(problems)
        return found

    def place(
        self,
        recipe: Recipe | None = None,
        *,
        locked: bool = False,
        knowledge: str | None = None,
        cut: str = "wanted",
        docker: DockerWay | None = None,
    ) -> Workplace:
        """The workplace that the options, the environment and the recipe's network say."""
        from composer.oci.names import parse_reference
        from composer.workplace import USUAL, Workplace

        return Workplace.from_environment(
            os.environ,
            home=Path.home(),
            recipe=recipe,
            locked=locked,
            cache=self.cache,
            jobs=self.jobs,
            max_wait=self.max_wait,
            network=self.network,
            resolve=self.resolve,
            insecure=self.insecure,
            ca_bundle=self.ca_bundle,
            mount_from=self.mount_from,
            epoch=_epoch(),
            knowledge=parse_reference(knowledge) if knowledge else None,
            cut_all=cut == "all",
            docker=docker or USUAL,
            emit=self.console.emit,
        )

    def cache_folder(self) -> Path:
        """Where the cache is, or would be."""
        from composer.cache import default_cache

        return (self.cache or default_cache(os.environ, Path.home())).expanduser().absolute()


class Usage(click.UsageError):
    """A command line that cannot be meant, and what to write in its place; `problems`, where there may be several."""

    def __init__(self, message: str, *, hint: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.problems = problems


def _epoch() -> int | None:
    """`SOURCE_DATE_EPOCH`. Source: reproducible-builds.org, the specification of that variable."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) > _LATEST_EPOCH:
        raise Usage(
            f"SOURCE_DATE_EPOCH is {text!r}, and must be a whole number of seconds since 1970",
            hint="export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)   (or: unset SOURCE_DATE_EPOCH)",
        )
    return int(text)


# -- shared options -----------------------------------------------------------------------------------------------


class _Seconds(click.FloatRange):
    """Seconds within a range, of which `nan` is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        found = float(super().convert(value, param, ctx))
        return self.fail(f"{value!r} is no number of seconds.", param, ctx) if math.isnan(found) else found


class Shared(click.Option):
    """An option that many commands have: in the help it stands below those of the command itself."""


def _speech() -> list[click.Parameter]:
    return [
        Shared(["--json", "json_output"], is_flag=True, help="Write one JSON object to stdout, nothing else."),
        Shared(
            ["--progress"],
            type=click.Choice(["auto", "rich", "plain", "json", "none"]),
            default="auto",
            show_default=True,
            metavar="HOW",
            help="Progress on stderr: rich, plain, json (a line each), none; auto: rich on a terminal, else plain.",
        ),
        Shared(["-v", "--verbose"], is_flag=True, help="Keep what servers, registries and Docker say in sight."),
        Shared(["-q", "--quiet"], is_flag=True, help="Show only results, warnings and errors."),
    ]


def _resolved(context: click.Context, option: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    """The values of `--resolve`, each of which must make sense."""
    if given:
        from composer.errors import NotFound
        from composer.routing import Wanted

        try:
            Wanted(resolve=tuple(given)).routes()
        except NotFound as error:
            raise Usage(error.message, hint=error.hint or "") from error
    return given


def _cache_option() -> click.Parameter:
    return Shared(
        ["--cache"],
        type=click.Path(path_type=Path, file_okay=False),
        envvar="TRICOMPOSE_CACHE",
        show_envvar=True,
        metavar="DIR",
        help="Where layers are kept.  [default: $XDG_CACHE_HOME/tricompose]",
    )


def _far() -> list[click.Parameter]:
    return [
        _cache_option(),
        Shared(
            ["-j", "--jobs"],
            type=click.IntRange(1, 64),
            default=4,
            metavar="N",
            show_default=True,
            help="Blobs moved at once.",
        ),
        Shared(
            ["--max-wait"],
            type=_Seconds(1, 86400),
            default=120.0,
            metavar="SECONDS",
            show_default="120",
            help="How long something is tried again without any gain before it is given up.",
        ),
        Shared(
            ["--network"],
            type=click.Path(path_type=Path, exists=True),
            envvar="TRICOMPOSE_NETWORK",
            show_envvar=True,
            metavar="FILE",
            help="More of the network than the recipe says, and before it: YAML with `network:`, a registries.conf, a "
            "certs.d folder of hosts.toml, a daemon.json.",
        ),
        Shared(
            ["--resolve"],
            multiple=True,
            callback=_resolved,
            metavar="HOST:PORT:ADDR[:PORT]",
            help="Where a host is found, whatever DNS says; TLS still has its name. Repeatable.",
        ),
        Shared(
            ["--insecure"],
            multiple=True,
            metavar="HOST[:PORT]",
            help="A registry without TLS, or with a certificate nobody knows. Repeatable.",
        ),
        Shared(
            ["--ca-bundle"],
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE",
            help="Certificates to trust besides the system's (PEM). Stands in for the recipe's.",
        ),
    ]


def _pushing() -> list[click.Parameter]:
    return [
        *_far(),
        Shared(
            ["--mount-from"],
            multiple=True,
            metavar="HOST/REPOSITORY",
            help="A repository of the target's registry that layers may be taken over from, without being sent. Those "
            "that were seen to hold a layer are asked anyway. Repeatable.",
        ),
    ]


_REACH: Final[Mapping[str, Callable[[], list[click.Parameter]]]] = {
    "far": _far,
    "push": _pushing,
    "cache": lambda: [_cache_option()],
    "none": list,
}
"""The options of a command besides those of speech, by how far it reaches."""

_SPEECH: Final = ("json_output", "progress", "verbose", "quiet")
_PLACES: Final = ("cache", "jobs", "max_wait", "network", "resolve", "insecure", "ca_bundle", "mount_from")


# -- commands and their help --------------------------------------------------------------------------------------


class Command(click.Command):
    """A command with shared options. It is given a `Desk`, and every way to fail has its exit status."""

    def invoke(self, context: click.Context) -> Any:  # noqa: ANN401
        """Run it. Only `Exit` and `SystemExit` come out of it."""
        from composer.console import Console

        console = Console(**{name: context.params.pop(name) for name in _SPEECH})
        given = {name: context.params.pop(name) for name in _PLACES if name in context.params}
        context.obj = Desk(console=console, **given)
        try:
            with console:
                return super().invoke(context)
        except (click.exceptions.Exit, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - each is told, and has its exit status
            context.exit(fail(console, error))

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options, then the shared ones."""
        options = [one for one in self.get_params(context) if isinstance(one, click.Option)]
        for title, shared in (("Options", False), ("Shared options", True)):
            rows = [one.get_help_record(context) for one in options if isinstance(one, Shared) == shared]
            with formatter.section(title):
                formatter.write_dl([row for row in rows if row])


class Tool(click.Group):
    """The tool itself: its commands in their sections."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, section by section."""
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(90)) for name in names])


def command(
    name: str, group: click.Group, *, reach: str = "far"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command, with the shared options of those that reach so far: push, far, cache or none."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        made = click.command(name, cls=Command)(function)
        made.params += [*_REACH[reach](), *_speech()]
        group.add_command(made)
        return function

    return decorate


# -- failing ------------------------------------------------------------------------------------------------------


def fail(console: Console, error: BaseException) -> int:
    """Tell what went wrong. Returns the exit status."""
    from composer.console.failures import Failure, explain
    from composer.errors import TricomposeError
    from composer.words import masked

    told = settled()
    # What was interrupted may say so in words of its own: a library takes the interruption for a fault of ours.
    if isinstance(error, click.Abort) or (told and not isinstance(error, (TricomposeError, click.ClickException))):
        error = KeyboardInterrupt()
    if isinstance(error, click.ClickException):
        message = masked(error.format_message())
        problems = error.problems if isinstance(error, Usage) else ()
        failure = Failure(
            status=USAGE, code="usage", message=message, hint=_usage_hint(error), problems=_masked(problems)
        )
    else:
        failure = explain(error)
    try:
        console.fail(failure)
    except OSError as trouble:
        # Stdout takes nothing more: that is told on stderr, which had the first error already.
        return failure.status if isinstance(trouble, BrokenPipeError) else explain(trouble).status
    return failure.status


def _masked(problems: Sequence[Problem]) -> list[Problem]:
    from composer.words import masked

    return [replace(one, message=masked(one.message), hint=one.hint and masked(one.hint)) for one in problems]


def _usage_hint(error: click.ClickException) -> str:
    if isinstance(error, Usage):
        return error.hint
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path if context else 'tricompose'} --help"


def run(tool: click.Group, arguments: Sequence[str]) -> int:
    """Run a command line. Returns the exit status."""
    from click.exceptions import NoArgsIsHelpError

    try:
        status = tool.main(list(arguments), prog_name="tricompose", standalone_mode=False)
    except NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the last place where it can be told
        from composer.console import Console

        console = Console(json_output="--json" in arguments, progress="none", verbose=False, quiet=False)
        return fail(console, error)
    return status if isinstance(status, int) else 0


def drain() -> None:
    """Write what stdout still holds. Where nobody takes it, give Python another one to flush, so that it is quiet."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
