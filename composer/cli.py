"""The command `tricompose`: its parts, and what stands alone: `init`, `schema`, `releases`, `completion`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer import cli_build, cli_bundle, cli_doctor, cli_images, cli_mirror, cli_models, cli_serve
from composer.command import Desk, Tool, Usage, command, drain, run

if TYPE_CHECKING:
    from composer.import_compose import Engine


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


# -- recipes ------------------------------------------------------------------------------------------------------


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


for module in (cli_build, cli_serve, cli_images, cli_mirror, cli_doctor):
    for one in module.commands.commands.values():
        tricompose.add_command(one)
tricompose.add_command(cli_models.models)
tricompose.add_command(cli_bundle.bundle)


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
