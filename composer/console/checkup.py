"""What a look at everything found, and what was done to a hosts file: for people and for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from composer.doctor.finding import LEVELS, Checkup, Finding, Group, Lines
from composer.doctor.hosts_file import Change, Entries
from composer.words import count, duration, masked, plain

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red", "unknown": "cyan"}
_WIDTH: Final = max(map(len, LEVELS))
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*[./][A-Za-z0-9._/-]*[A-Za-z0-9]|\d{1,3}(?:\.\d{1,3}){3}")
"""What YAML takes for a text without quotes."""


def checkup_text(checkup: Checkup, written: str | None) -> Iterator[RenderableType]:
    """Every finding below what it is about; then the lines to paste, and how it stands."""
    for group in checkup.groups:
        yield _heading(group)
        yield from (line for one in group.findings for line in _finding(one))
        yield Text()
    if checkup.network:
        where = f"{written} is written: --network {written} goes by it" if written else "--write FILE keeps them"
        yield Text(f"These lines of a recipe would mend what they can mend ({where}):", style="bold")
        yield Text(network_text(checkup.network).rstrip("\n"))
        yield Text()
    yield _verdict(checkup)


def _heading(group: Group) -> Text:
    uses = f"  {'; '.join(map(_shown, group.uses))}" if group.uses else ""
    return Text.assemble((_shown(group.name), "bold"), (uses, "dim"))


def _finding(one: Finding) -> Iterator[Text]:
    name = "" if one.level == "ok" else f"  [{one.id}]"
    yield Text.assemble("  ", (f"{one.level:{_WIDTH}}", _STYLES[one.level]), f"  {_shown(one.saw)}", (name, "dim"))
    if one.level == "ok":
        return
    for label, said in (("why", one.why), ("do this", one.fix)):
        if said:
            yield Text.assemble(" " * (_WIDTH + 4), (f"{label + ':':8} ", "bold"), _shown(said))


def _shown(text: str) -> str:
    return " ".join(plain(masked(text)).split("\n"))


def _verdict(checkup: Checkup) -> Text:
    told = [(level, checkup.count(level)) for level in LEVELS if level != "ok" and checkup.count(level)]
    parts = [Text(_counted(number, level), style=_STYLES[level]) for level, number in told]
    parts = parts or [Text("nothing is wrong", style="bold green")]
    return Text.assemble(Text(", ").join(parts), f", {checkup.count('ok')} well; it took ", duration(checkup.seconds))


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if word == "unknown" else count(number, word)


def network_text(lines: Lines) -> str:
    """Lines of `network:` as YAML, for a recipe or for `--network FILE`."""
    made = ["network:"]
    for key, value in lines.items():
        if isinstance(value, Mapping):
            made += [f"  {key}:", *(f"    {_yaml(name)}: {_list(some)}" for name, some in value.items())]
        else:
            made.append(f"  {key}: {_list(value)}")
    return "\n".join(made) + "\n"


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_yaml, values))}]"


def _yaml(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def checkup_json(checkup: Checkup, written: str | None) -> dict[str, Any]:
    """All of it as a JSON object."""
    return {
        "level": min((one.level for one in checkup.findings), key=LEVELS.index, default="ok"),
        "count": {level: checkup.count(level) for level in LEVELS},
        "seconds": round(checkup.seconds, 3),
        "groups": [
            {
                "name": group.name,
                "level": group.level,
                "uses": [*group.uses],
                "findings": [_finding_json(one) for one in group.findings],
            }
            for group in checkup.groups
        ],
        "network": checkup.network,
        "written": written,
    }


def _finding_json(one: Finding) -> dict[str, Any]:
    made: dict[str, Any] = {"id": one.id, "level": one.level, "saw": masked(one.saw)}
    made |= {"why": one.why or None, "fix": masked(one.fix) or None, "network": one.network or None}
    return made | {"facts": one.facts}


# -- hosts --------------------------------------------------------------------------------------------------------


def hosts_text(change: Change) -> Iterator[RenderableType]:
    """What the block of a hosts file says now, and what was taken out."""
    if not change.changed:
        yield f"{change.path} is as it was: " + (
            "its block says this" if change.after else "there is no block of ours in it"
        )
    elif change.after:
        kept = f"; what it was before is in {change.backup}" if change.backup else ""
        yield f"{change.path} is written{kept}"
    else:
        yield f"{change.path} is as it was before us"
    yield from _entries(change.after)
    if gone := [name for name in change.before if name not in change.after]:
        yield f"no longer in it: {', '.join(gone)}"
    for line in change.beside:
        yield f"the line of somebody else stays, and ours comes first: {change.path}:{line}"


def _entries(entries: Entries) -> Iterator[str]:
    for name, addresses in entries.items():
        yield from (f"  {address:15} {name}" for address in addresses)


def hosts_json(change: Change) -> dict[str, Any]:
    """The same as a JSON object."""
    return {
        "path": str(change.path),
        "changed": change.changed,
        "before": {name: [*some] for name, some in change.before.items()},
        "hosts": {name: [*some] for name, some in change.after.items()},
        "beside": [*change.beside],
        "backup": str(change.backup) if change.backup else None,
    }
