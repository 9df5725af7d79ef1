"""What trtexec can be told, by TensorRT's version: trtexec.toml, which says where it is known from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from composer.releases.book import read

Version = tuple[int, ...]

OLDEST: Final = (7, 2)
"""The first version of which it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag. It is there from `since` on, and from `until` on no more (the first two numbers of TensorRT's version).

    `takes` says what its value is, or holds all that it may be. `key` is the key of the recipe that it is written from.
    """

    name: str
    takes: Literal["switch", "count", "number", "text"] | tuple[str, ...]
    since: Version
    until: Version | None
    key: str | None
    instead: str | None

    def known_to(self, version: Version) -> bool:
        """Whether that version has it."""
        return self.since <= version[:2] and (self.until is None or version[:2] < self.until)


@cache
def flags() -> Mapping[str, Flag]:
    """All flags about building a plan, by their names without dashes."""
    return {name: _flag(name, entry) for name, entry in tomllib.loads(read("trtexec.toml"))["flags"].items()}


def _flag(name: str, entry: Mapping[str, Any]) -> Flag:
    takes = entry["takes"]
    return Flag(
        name=name,
        takes=tuple(takes) if isinstance(takes, list) else takes,
        since=parsed(entry.get("since", "0.0")),
        until=parsed(entry["until"]) if "until" in entry else None,
        key=entry.get("key"),
        instead=entry.get("instead"),
    )


def parsed(version: str) -> Version:
    """The numbers of a version: `10.4.0.26`."""
    return tuple(int(part) for part in version.split("."))
