"""docs/cli.md is what the commands say of themselves. `pytest tests/golden --update-golden` writes it anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click

from composer import errors
from composer.cli import tricompose
from composer.command import SECTIONS

PAGE = Path(__file__).parents[2] / "docs/cli.md"
HEAD = """\
# The command line

<!-- Written by tests/golden/test_reference.py from the commands themselves. Do not edit: --update-golden. -->

Results go to stdout; progress, warnings and errors to stderr. With `--json` stdout gets one JSON object that begins
with `"schema": 1`, and nothing else goes there; if the command fails, the object has an `"error"` with `code`,
`message`, `hint`, and for recipes all `problems`, each `where` as `file:line:column`. With `--progress json` stderr
gets one JSON object a line. Sizes in tables are decimal (1 MB is 1,000,000 bytes); in JSON they are bytes.

`NO_COLOR` turns colours off. `TRICOMPOSE_CACHE` names the cache. `SOURCE_DATE_EPOCH`, in seconds, is the one time that
images are given; without it they have the upstream's. Proxies come from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`,
credentials from Docker's and Podman's files and credential helpers.
"""


def test_the_reference_is_what_the_commands_say(golden: Callable[[Path, str], None]) -> None:
    golden(PAGE, "\n".join([HEAD, *statuses(), *pages()]))


def statuses() -> Iterator[str]:
    yield "## Exit status\n"
    yield "| status | `code` | means |"
    yield "|---|---|---|"
    yield "| 0 | | it went well |"
    yield "| 2 | `usage` | the command line, or `SOURCE_DATE_EPOCH`, cannot be meant |"
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "status")]
    for kind in sorted(kinds, key=lambda kind: kind.status):
        meaning = " ".join((kind.__doc__ or "").split()).partition(". ")[0].rstrip(".").replace("|", "\\|")
        yield f"| {kind.status} | `{kind.code}` | {meaning[0].lower()}{meaning[1:]} |"
    yield "| 70 | `bug` | a bug in tricompose; the traceback is in the file that is named |"
    yield "| 130 | `interrupted` | Ctrl-C, or SIGTERM; nothing is left half-written |"
    yield "| 141 | `broken-pipe` | nobody read the output to its end |\n"


def pages() -> Iterator[str]:
    for section, names in SECTIONS.items():
        yield f"## {section}\n"
        for name in names:
            yield from page(tricompose.commands[name], f"tricompose {name}")


def page(command: click.Command, path: str) -> Iterator[str]:
    yield f"### {path}\n"
    yield "```text"
    context = click.Context(command, info_name=path, terminal_width=100, max_content_width=100)
    context.help_option_names = ["-h", "--help"]
    yield "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield "```\n"
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from page(inner, f"{path} {name}")
