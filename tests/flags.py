"""Compare composer/releases/flags.toml with a checkout of the server: `python -m tests.flags <path of its .git>`.

Prints every difference between the flags in a release's sources and those that the table has for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise

from composer.releases import RELEASES
from composer.releases.flags import NEWEST, OLDEST, changed_flags, flags, flags_of

SOURCES = ("src/command_line_parser.cc", "src/main.cc", "src/servers/main.cc")
"""Where flags were, the newest place first."""

FLAG = re.compile(r'\{\s*OPTION_\w+,\s*"([a-z0-9-]+)",\s*(?:Option::Arg(\w+)|"(<[^"]*>)"|)')

SAID: Mapping[str, tuple[str, ...]] = {
    "None": ("switch",),
    "Bool": ("boolean",),
    "Int": ("integer", "port", "bytes", "seconds", "milliseconds"),
    "Float": ("number", "milliseconds"),
    "Str": ("text", "path", "address", "pattern", "choice"),
    "<integer>:<integer>": ("devices",),
    "<device_id>:<fraction>": ("devices",),
    "<integer>-<integer>": ("range",),
    "<string>=<string>": ("settings",),
    "<string>,<string>=<string>": ("settings",),
    "<string>:<string>=<string>": ("restricted",),
    "<string>:<integer>:<integer>": ("resource",),
}
"""The kinds of our table by what the sources, or `--help`, say that a value is."""


def printed(repository: str, branch: str) -> Mapping[str, str]:
    """The flags in a branch's sources, with what they say of the value; "" where they do not, as before 20.08."""
    for path in SOURCES:
        shown = subprocess.run(
            ["git", f"--git-dir={repository}", "show", f"{branch}:{path}"], capture_output=True, text=True, check=False
        )
        found = {name: given or form for name, given, form in FLAG.findall(shown.stdout) if name != "help"}
        if found:
            return found
    raise SystemExit(f"{branch} has no flags in {', '.join(SOURCES)}")


def branches(repository: str) -> list[str]:
    listed = subprocess.check_output(
        ["git", f"--git-dir={repository}", "for-each-ref", "--format=%(refname:lstrip=-1)"], text=True
    )
    return sorted({name for name in listed.split() if re.fullmatch(r"r\d\d\.\d\d", name) and name[1:] >= OLDEST})


def differences(release: str, found: Mapping[str, str]) -> Iterator[str]:
    known = {flag.name for flag in flags_of(release)}
    yield from (f"{release}: the table lacks {name}" for name in sorted(found.keys() - known))
    yield from (f"{release}: the sources lack {name}" for name in sorted(known - found.keys()))
    for name in sorted(known & found.keys()):
        if found[name] and flags()[name].kind not in SAID[found[name]]:
            yield f"{release}: {name} is {flags()[name].kind} in the table and {found[name]} in the sources"


def flag_table() -> str:
    """Which flags came and went with each release, the newest first, as docs/server.md has it."""
    names = sorted((name for name in RELEASES if OLDEST <= name <= NEWEST), reverse=True)
    lines = ["| release | new | gone | deprecated |", "| --- | --- | --- | --- |"]
    for newer, older in pairwise(names):
        changed = changed_flags(older, newer)
        came, went = [now for _, now in changed if now], [was for was, _ in changed if was]
        aged = [flag.name for flag in flags().values() if flag.deprecated == newer]
        if came or went or aged:
            cells = [" ".join(f"`{name}`" for name in some) for some in (came, went, aged)]
            lines.append(f"| {' | '.join([newer, *cells])} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "".join(f"{line}\n" for line in lines)


def main(repository: str) -> None:
    wrong, compared = 0, branches(repository)
    for branch in compared:
        for line in differences(branch[1:], printed(repository, branch)):
            wrong += 1
            print(line)
    if compared and compared[-1][1:] > NEWEST:
        print(f"{compared[-1][1:]} is newer than {NEWEST}: set NEWEST in composer/releases/flags.py")
    raise SystemExit(f"{wrong} differences" if wrong else print(f"{len(compared)} releases compared, no difference"))


if __name__ == "__main__":
    main(sys.argv[1])
