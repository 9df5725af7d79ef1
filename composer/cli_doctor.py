"""The commands `tricompose doctor`, which says what is wrong here, and `tricompose hosts`, which names a few hosts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from composer.command import Desk, Usage, command

if TYPE_CHECKING:
    from composer.doctor.hosts_file import Change
    from composer.network.routes import Routes
    from composer.recipe import Recipe
    from composer.workplace import Workplace

commands = click.Group()
"""Holds the commands until the tool takes them."""


@click.group("hosts")
def hosts() -> None:
    """Keep a block of hosts and addresses in /etc/hosts, and nothing else in it.

    \b
    Examples:
      sudo tricompose hosts apply registry.example.com=10.0.0.7
      tricompose hosts show
      sudo tricompose hosts revert
    """


_FILE: Final = click.option(
    "--file",
    "file",
    default="/etc/hosts",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Another hosts file.",
)


@command("doctor", commands)
@click.argument("recipes", metavar="[RECIPE]...", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--dns", "servers", multiple=True, metavar="ADDRESS", help="A name server to ask besides. Repeatable.")
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="HOST[/PATH]",
    help="A registry that may have the same images: it is asked for them. Repeatable.",
)
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(2, 600),
    metavar="SECONDS",
    help="For all of it. What is not finished then is told as unknown.",
)
@click.option(
    "--write",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the lines that would mend it here, for --network FILE. A file that is there already is left alone.",
)
@click.pass_obj
def _doctor(
    desk: Desk,
    /,
    recipes: Sequence[Path],
    servers: Sequence[str],
    mirrors: Sequence[str],
    timeout: float,
    target: Path | None,
) -> None:
    """Say what is wrong here, and the command that mends it.

    Looks at every host that the recipes need: its name by all name servers, the connection, the proxy, TLS and the
    clock, the login, the very images to pull and places to push to, how fast it is; then at Docker, the GPU with its
    driver, and this machine. Uploads that are begun for it are dropped again. Exits with 16 where it found a problem.

    \b
    Examples:
      tricompose doctor
      tricompose doctor recipe.yaml
      tricompose doctor recipe.yaml --dns 1.1.1.1 --mirror harbor.example.com/nvcr --write network.yaml
      tricompose doctor recipe.yaml --json | jq '.doctor.groups[].findings[] | select(.level == "problem")'
    """
    from composer.console import checkup
    from composer.doctor import Questions, examine
    from composer.errors import Unwell

    questions = Questions(timeout=timeout, dns=_servers(servers), mirrors=mirrors)
    found = examine(list(_places(desk, recipes)), questions, home=Path.home(), emit=desk.console.emit)
    written = str(target) if target and found.network else None
    if target and found.network:
        from composer.starter import write_new

        write_new(target, checkup.network_text(found.network), instead="tricompose doctor --write another.yaml ...")
    desk.console.result("doctor", checkup.checkup_json(found, written), *checkup.checkup_text(found, written))
    if first := next((one for one in found.findings if one.level == "problem"), None):
        more = f" (and {found.count('problem') - 1} more)" if found.count("problem") > 1 else ""
        raise Unwell(f"{first.saw}{more}", hint=first.fix or None)


def _servers(servers: Sequence[str]) -> Sequence[str]:
    from composer.network.addresses import parse_address
    from composer.network.nameservers import PORT

    for one in servers:
        try:
            parse_address(one, PORT)
        except ValueError as error:
            raise Usage(
                f"--dns {one}: {error}", hint="--dns 1.1.1.1   (a name would have to be resolved first)"
            ) from error
    return servers


def _places(desk: Desk, recipes: Sequence[Path]) -> Iterator[tuple[Recipe | None, Workplace]]:
    if not recipes:
        yield None, desk.place()
    for path in recipes:
        loaded = desk.recipe(path)
        yield loaded, desk.place(loaded)


# -- hosts --------------------------------------------------------------------------------------------------------


@command("apply", hosts)
@click.argument("words", metavar="[RECIPE|HOST=ADDRESS[,ADDRESS]]...", nargs=-1)
@_FILE
@click.pass_obj
def _apply(desk: Desk, /, words: Sequence[str], file: Path) -> None:
    """Write hosts and their addresses into the block, in place of what is in it.

    They come from `network.hosts` of recipes, from --network and --resolve, or stand here. Docker, curl and all other
    programs of this machine go by them too. Nothing outside of the block is touched; a copy of the file as it was is
    kept beside it.

    \b
    Examples:
      sudo tricompose hosts apply recipe.yaml
      sudo tricompose hosts apply --network network.yaml
      sudo tricompose hosts apply nvcr.io=10.0.0.7 registry-1.docker.io=10.0.0.7,10.0.0.8
    """
    from composer.doctor import hosts_file

    entries = dict(_entries(desk, words))
    if not entries:
        hint = "tricompose hosts apply HOST=ADDRESS, or a recipe with network: {hosts: {HOST: ADDRESS}}"
        raise Usage("nothing is named that could go into the block", hint=hint)
    with _as_root():
        _tell(desk, hosts_file.apply(file, entries))


def _entries(desk: Desk, words: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    from composer.doctor.hosts_file import of_routes

    def told(routes: Routes) -> Iterator[tuple[str, tuple[str, ...]]]:
        entries, warnings = of_routes(routes)
        for warning in warnings:
            desk.console.emit(warning)
        yield from entries.items()

    paths = [word for word in words if "=" not in word]
    for path in paths:
        yield from told(desk.place(desk.recipe(Path(path))).routes)
    if not paths:
        yield from told(desk.place().routes)
    for word in words:
        name, equals, addresses = word.partition("=")
        if equals:
            yield name, tuple(addresses.split(","))


@command("revert", hosts, reach="none")
@_FILE
@click.pass_obj
def _revert(desk: Desk, /, file: Path) -> None:
    """Take the block out again. Where nobody else wrote to the file, it is what it was, to the byte.

    \b
    Examples:
      sudo tricompose hosts revert
    """
    from composer.doctor import hosts_file

    with _as_root():
        _tell(desk, hosts_file.revert(file))


@command("show", hosts, reach="none")
@_FILE
@click.pass_obj
def _show(desk: Desk, /, file: Path) -> None:
    """Show what is in the block.

    \b
    Examples:
      tricompose hosts show
      tricompose hosts show --json | jq .hosts.hosts
    """
    from composer.doctor import hosts_file

    _tell(desk, hosts_file.show(file))


def _tell(desk: Desk, change: Change) -> None:
    from composer.console.checkup import hosts_json, hosts_text

    desk.console.result("hosts", hosts_json(change), *hosts_text(change))


@contextmanager
def _as_root() -> Iterator[None]:
    """Where the file is not ours to write, say the same command with the rights for it."""
    from composer.errors import Denied

    try:
        yield
    except PermissionError as error:
        tool = "tricompose" if sys.prefix == sys.base_prefix else sys.argv[0]
        again = shlex.join(["sudo", tool, *sys.argv[1:]])
        raise Denied(f"{error.filename or 'the hosts file'} may not be written by this account", hint=again) from error


commands.add_command(hosts)
