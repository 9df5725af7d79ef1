"""Whether what an image says of its start can be: platform, programs, folder, user, ports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from composer.checks.image.libraries import SERVER
from composer.checks.image.problem import Problem, result
from composer.checks.image.subject import Still, shown
from composer.checks.report import Result
from composer.oci.tar import DIRECTORY, Entry

_PASSES_ON: Final = ("nvidia_entrypoint.sh", "docker-entrypoint.sh", "entrypoint.sh", "tini", "dumb-init", "env")
"""Entrypoints that run the command that is given to them."""

_PORT: Final = re.compile(r"(\d+)(?:-(\d+))?(?:/(?:tcp|udp|sctp))?")
_IDS: Final = re.compile(r"\d+")
_LAST_PORT: Final = 65535


def start(still: Still) -> Result:
    """The config of the image, against its files."""
    settings = still.settings
    words = [*_words(settings, "Entrypoint"), *_words(settings, "Cmd")]
    problems = [
        *_platform(still),
        *_command(still),
        *_folder(still),
        *_user(still),
        *_ports(still),
    ]
    good = f"{' '.join(words[:3])}{' ...' if len(words) > 3 else ''} can start, as {settings.get('User') or 'root'}"
    said = {key.lower(): settings[key] for key in ("Entrypoint", "Cmd", "WorkingDir", "User") if settings.get(key)}
    return result("start", good, problems, platform=str(still.image.platform), **said)


def _words(settings: Any, key: str) -> Sequence[str]:  # noqa: ANN401
    return [str(word) for word in settings.get(key) or ()]


# -- platform -----------------------------------------------------------------------------------------------------


def _platform(still: Still) -> Iterator[Problem]:
    platform = still.image.platform
    if platform.os != "linux":
        yield Problem(message=f"the image says that it is for {platform.os}, and Triton's containers are for linux")
    server = still.binary(SERVER)
    if server and server.machine != platform.architecture:
        message = f"the image says that it is for {platform}, and its server is for {server.machine}"
        yield Problem(message=message, hint=f"platforms: [linux/{server.machine}]")


# -- programs -----------------------------------------------------------------------------------------------------


def _command(still: Still) -> Iterator[Problem]:
    entrypoint, command = _words(still.settings, "Entrypoint"), _words(still.settings, "Cmd")
    if not entrypoint and not command:
        yield Problem(message="the image starts nothing: it has neither entrypoint nor command", hint="server: {}")
        return
    yield from _program(still, (entrypoint or command)[0], "entrypoint" if entrypoint else "command")
    passes_on = entrypoint and entrypoint[0].rpartition("/")[2] in _PASSES_ON
    if passes_on and command and not command[0].startswith("-"):
        yield from _program(still, command[0], "command")


def _program(still: Still, word: str, what: str) -> Iterator[Problem]:
    path = still.program(word)
    if path is None:
        yield _nowhere(still, word, what)
        return
    entry = still.file(path)
    if entry is None:
        yield Problem(message=f"the {what} {shown(path)} is no file")
    elif not may(still, entry, 1):
        message = f"the {what} {shown(path)} may not be executed by {user_of(still)} (mode {entry.mode:04o})"
        yield Problem(message=message, hint=f'files: [{{source: ..., target: {shown(path)}, mode: "0755"}}]')
    else:
        yield from _form(still, path, what)


def _nowhere(still: Still, word: str, what: str) -> Problem:
    if "/" in word:
        return Problem(message=f"the {what} {word} is not in the image")
    if entry := still.file(f"opt/tritonserver/bin/{word}"):
        folder = shown(entry.parent)
        hint = f'env: {{PATH: "{folder}:{still.env.get("PATH", "")}"}}' if entry.mode & 0o111 else ""
        fault = f"PATH does not lead to {folder}" if entry.mode & 0o111 else "it is not executable"
        return Problem(message=f"the {what} {word} cannot be found: {fault}", hint=hint)
    return Problem(message=f"the {what} {word} is in no folder of PATH")


def _form(still: Still, path: str, what: str) -> Iterator[Problem]:
    """What the kernel goes by: a program for this machine with its loader, or a script with its interpreter."""
    binary, line = still.binary(path), still.program_line(path)
    if binary:
        if binary.machine != still.image.platform.architecture:
            yield Problem(
                message=f"the {what} {shown(path)} is for {binary.machine}", hint=f"platforms: [linux/{binary.machine}]"
            )
        if binary.interpreter and still.file(binary.interpreter) is None:
            yield Problem(message=f"the {what} {shown(path)} needs {binary.interpreter}, which is not in the image")
    elif line:
        yield from _script(still, path, line, what)
    elif not still.static(path) and not still.broken(path):
        message = f"the {what} {shown(path)} is neither a program nor a script: it does not begin with #!"
        yield Problem(message=message)


def _script(still: Still, path: str, line: str, what: str) -> Iterator[Problem]:
    words = line[2:].split()
    if line.endswith("\r"):
        yield Problem(
            message=f"the {what} {shown(path)} has lines that end as in Windows: the kernel looks for {words[:1]}"
        )
        return
    asked = words[:1]
    if asked and asked[0].endswith("/env") and len(words) > 1:
        asked += [word for word in words[1:] if not word.startswith("-") and "=" not in word][:1]
    for word in asked:
        if still.program(word) is None:
            yield Problem(message=f"the {what} {shown(path)} is run by {word}, which is not in the image")


# -- folder, user, ports ------------------------------------------------------------------------------------------


def _folder(still: Still) -> Iterator[Problem]:
    folder = str(still.settings.get("WorkingDir") or "/")
    entry = still.real(folder)
    if entry and entry.kind != DIRECTORY:
        yield Problem(message=f"the working folder {folder} is a file")


def _user(still: Still) -> Iterator[Problem]:
    name, _, group = str(still.settings.get("User") or "").partition(":")
    if name and not _IDS.fullmatch(name) and name not in still.accounts:
        known = ", ".join(sorted(one for one, line in still.accounts.items() if _is_person(line)))
        hint = f"user: one of {known}, or numbers: 1000:1000" if known else "user: 1000:1000"
        yield Problem(message=f"the user {name} is not in the image's /etc/passwd", hint=hint)
    if group and not _IDS.fullmatch(group) and group not in still.groups:
        yield Problem(message=f"the group {group} is not in the image's /etc/group", hint="user: 1000:1000")


def _is_person(line: Sequence[str]) -> bool:
    return line[2] == "0" or (line[2].isdigit() and 1000 <= int(line[2]) < 65534)


def _ports(still: Still) -> Iterator[Problem]:
    for port in still.settings.get("ExposedPorts") or ():
        found = _PORT.fullmatch(str(port))
        if not found or not all(0 < int(number) <= _LAST_PORT for number in found.groups() if number):
            yield Problem(message=f"{port!r} is exposed, and is no port")


# -- who may what -------------------------------------------------------------------------------------------------


def user_of(still: Still) -> str:
    """The user of the image, for messages."""
    return str(still.settings.get("User") or "root")


def ids_of(still: Still, user: str) -> tuple[int | None, set[int]]:
    """The numbers of a user and of its groups; None for a user that the image does not know."""
    name, _, group = user.partition(":")
    line = still.accounts.get(name or "root")
    number = int(name) if _IDS.fullmatch(name) else int(line[2]) if line and line[2].isdigit() else None
    if line is None and number is not None:
        line = next((one for one in still.accounts.values() if one[2] == str(number)), None)
    if not name:
        number = 0
    groups = {int(record[2]) for record in still.groups.values() if line and line[0] in record[3].split(",")}
    if group:
        record = still.groups.get(group)
        groups = {int(group)} if _IDS.fullmatch(group) else {int(record[2])} if record else set()
    elif line and line[3].isdigit():
        groups.add(int(line[3]))
    return number, groups


def may(still: Still, entry: Entry, bit: int) -> bool:
    """Whether the image's user may read (4), write (2) or execute (1) a file. Its folders are not looked at."""
    number, groups = ids_of(still, str(still.settings.get("User") or ""))
    if number is None:
        return True
    if number == 0:
        return bit != 1 or bool(entry.mode & 0o111)
    shift = 6 if entry.uid == number else 3 if entry.gid in groups else 0
    return bool(entry.mode >> shift & bit)
