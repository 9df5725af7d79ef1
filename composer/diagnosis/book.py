"""Reads classes.toml: what each class of failure is told by, and what is said of it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

PLACES: Final = ("engine", "log", "info", "raw", "answer", "benign")
"""Where a class may be told from: see classes.toml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """A class of failure. `signs` are by place; `rank` is its place in the file: the less, the more it explains."""

    id: str
    number: int
    rank: int
    title: str
    why: str
    fix: str
    signs: Mapping[str, tuple[re.Pattern[str], ...]]
    follows: frozenset[str]
    gpu: bool


@cache
def classes() -> Mapping[str, Class]:
    """All classes by id, the more specific first. Raises `ValueError` for a file that contradicts itself."""
    book = tomllib.loads((files(__package__) / "classes.toml").read_text(encoding="utf-8"))
    found = {name: _class(name, rank, entry) for rank, (name, entry) in enumerate(book.items())}
    for one in found.values():
        if lost := one.follows - found.keys():
            raise ValueError(f"{one.id} follows what there is not: {', '.join(sorted(lost))}")
    return MappingProxyType(found)


def _class(name: str, rank: int, entry: Mapping[str, Any]) -> Class:
    if unknown := entry.keys() - {"number", "title", "why", "fix", "follows", "gpu", *PLACES}:
        raise ValueError(f"{name} says {', '.join(sorted(unknown))}, which means nothing")
    return Class(
        id=name,
        number=entry["number"],
        rank=rank,
        title=entry["title"],
        why=entry["why"],
        fix=entry["fix"],
        signs={place: tuple(re.compile(sign) for sign in entry.get(place, ())) for place in PLACES},
        follows=frozenset(entry.get("follows", ())),
        gpu=entry.get("gpu", False),
    )
