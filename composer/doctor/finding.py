"""What a look found: how bad it is, what was seen, why it matters, and the command or the lines that mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Level = Literal["ok", "warning", "problem", "unknown"]

LEVELS: Final[tuple[Level, ...]] = ("problem", "warning", "unknown", "ok")
"""The worst first."""

Lines = Mapping[str, Any]
"""Keys of a recipe's `network:`, with lists and mappings that go together with those of other findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `id` is for programs, and tells it apart from all other things that can be wrong.

    `saw` is what was seen, `why` why it matters, `fix` a command to paste; `network` are the lines of a recipe that
    would mend it. `facts` are numbers and names for programs. No secret stands in any of them.
    """

    id: str
    level: Level
    saw: str
    why: str = ""
    fix: str = ""
    network: Lines = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What was found of one thing: a host, Docker, the GPU. `uses` says what the recipe needs it for."""

    name: str
    findings: Sequence[Finding]
    uses: Sequence[str] = ()

    @property
    def level(self) -> Level:
        """That of its worst finding."""
        return worst(self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """All that was found, in order. `network` are the lines to paste of all findings together."""

    groups: Sequence[Group]
    network: Lines
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of all groups."""
        return tuple(one for group in self.groups for one in group.findings)

    def count(self, level: Level) -> int:
        """How many findings are of that level."""
        return sum(one.level == level for one in self.findings)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among findings; `ok` where there are none."""
    return min((one.level for one in findings), key=LEVELS.index, default="ok")


def together(all_lines: Iterable[Lines]) -> dict[str, Any]:
    """The lines of several findings as one `network:` mapping. What is said first of a host or a key holds."""
    merged: dict[str, Any] = {}
    for lines in all_lines:
        for key, value in lines.items():
            there = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = {**value, **(there or {})}
            elif isinstance(value, list | tuple):
                merged[key] = [*(there or ()), *(one for one in value if one not in (there or ()))]
            else:
                merged.setdefault(key, value)
    return merged
