"""The command `tricompose mirror`: images into one's own registry, and the rules by which they are found there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.command import Desk, Usage, command

if TYPE_CHECKING:
    from composer.mirroring import Mirrored, Wanted
    from composer.network.routes import Routes
    from composer.workplace import Workplace

commands = click.Group()
"""Holds the command until the tool takes it."""


@command("mirror", commands, reach="push")
@click.argument("what", metavar="RECIPE|IMAGE|LIST...", nargs=-1)
@click.option(
    "--to", "target", metavar="REGISTRY", required=True, help="Below which all images go: docker://host[/path]."
)
@click.option(
    "--list",
    "lists",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Images by name, one in each line, or as YAML, images: [...]. Repeatable; - is stdin.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Only this platform of several. Repeatable. By default all, with the index as it is.",
)
@click.option(
    "--watch-tags",
    "watch",
    is_flag=True,
    help="Take what tags mean now, whatever a lock says, and look for new signatures of what did not change.",
)
@click.option(
    "--rules",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the rules by which images are found there: network.yaml, registries.conf, certs.d, daemon.json.",
)
@click.option("--dry-run", "dry", is_flag=True, help="Show what would be copied, and copy nothing.")
@click.pass_obj
def _mirror(
    desk: Desk,
    /,
    what: Sequence[str],
    target: str,
    lists: Sequence[Path],
    platforms: Sequence[str],
    watch: bool,
    folder: Path | None,
    dry: bool,
) -> None:
    """Copy all images that recipes need into a registry of your own.

    They go by digest, several at once, with their signatures, to REGISTRY/<host>/<repository>:<tag>. What is there is
    not moved again, and a run that broke off is gone on with by running it once more. An image comes whole or not at
    all; one that fails does not keep the others. Without --rules the rules are shown only.

    \b
    Examples:
      tricompose mirror recipe.yaml --to docker://harbor.example.com/mirror --rules mirror-rules
      tricompose mirror docker://nvcr.io/nvidia/tritonserver:24.10-py3 --to docker://localhost:5000
      tricompose mirror --list images.txt --to docker://harbor.example.com/mirror --watch-tags --json
      tricompose build recipe.yaml --network mirror-rules/network.yaml
    """
    from composer import mirroring
    from composer.network import writing
    from composer.oci.image import Platform

    to = mirroring.Destination.parse(target)
    wanted = list(_wanted(desk, what, lists, watch=watch))
    if not wanted:
        raise Usage("nothing is named that could be mirrored", hint="tricompose mirror recipe.yaml --to docker://...")
    authorities = to.authorities(wanted)
    if folder:
        writing.require_ours(folder, writing.written(to.rules(wanted), authorities))
    manner = mirroring.Manner(platforms=[Platform.parse(one) for one in platforms] or None, watch=watch, dry=dry)
    found = mirroring.mirror(wanted, to, manner, jobs=desk.jobs, emit=desk.console.emit)
    _tell(desk, found, to.rules(mirroring.brought(wanted, found)), authorities, None if dry else folder)
    if failed := mirroring.failure(found):
        raise failed


def _tell(
    desk: Desk, found: Sequence[Mirrored], found_by: Routes, authorities: Mapping[str, str], folder: Path | None
) -> None:
    """What came of it, and the rules, which are written where a folder is named for them."""
    from composer.console import mirrors
    from composer.network import writing

    made = writing.written(found_by, authorities)
    files = writing.write(folder, made) if folder and found_by.mirrors else ()
    document = {
        "network": writing.network_json(found_by),
        "files": [str(file) for file in files],
        "lacking": list(made.lacking),
    }
    told = [*(f"{file} is written" for file in files), *made.lacking] if files else [writing.network_text(found_by)]
    text = mirrors.mirrored_text(found, "\n".join(told) if found_by.mirrors else "")
    desk.console.result("mirrored", mirrors.mirrored_json(found, document), *text)


def _wanted(desk: Desk, what: Sequence[str], lists: Sequence[Path], *, watch: bool) -> Iterator[Wanted]:
    """All images that are named, in the order of the command line, the lists last."""
    from composer import mirroring
    from composer.oci.names import TRANSPORTS, parse_reference

    plain = desk.place()
    for one in what:
        if one.partition(":")[0] in TRANSPORTS:
            yield mirroring.Wanted(reference=parse_reference(one), place=plain)
        elif mirroring.is_list(Path(one)):
            yield from _listed(plain, Path(one))
        else:
            _require_file(one)
            recipe = desk.recipe(Path(one))
            yield from mirroring.of_recipe(recipe, desk.place(recipe), pins=not watch)
    for file in lists:
        yield from _listed(plain, file)


def _require_file(name: str) -> None:
    """Say of the name of an image that lacks its transport what it lacks; of a recipe that is not there, others do."""
    from composer.errors import NotFound
    from composer.oci.names import parse_reference

    with suppress(NotFound):
        if not Path(name).exists() and parse_reference(f"docker://{name}"):
            raise Usage(f"{name} is no file; is it an image?", hint=f"docker://{name}")


def _listed(place: Workplace, file: Path) -> Iterator[Wanted]:
    from composer import mirroring

    name = "stdin" if file == Path("-") else str(file)
    for reference in mirroring.read_list(sys.stdin.read() if name == "stdin" else _text(file), name):
        yield mirroring.Wanted(reference=reference, place=place)


def _text(file: Path) -> str:
    from composer.errors import NotFound

    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise NotFound(f"the list {file} cannot be read: {error.strerror}", hint=f"ls -l {file}") from error
    except UnicodeDecodeError as error:
        raise NotFound(f"the list {file} is not UTF-8", hint=f"file {file}") from error
