"""Mirrored images as people and machines read them: what became of each, and by which rules they are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from composer import words
from composer.console.failures import explain
from composer.console.tables import table
from composer.mirroring import Mirrored, summary


def mirrored_json(found: Sequence[Mirrored], rules: Mapping[str, Any]) -> dict[str, Any]:
    """Every image with what became of it, how many of each kind, and the rules."""
    counts = Counter(one.action for one in found)
    return {
        "images": [_image_json(one) for one in found],
        "changed": counts["copied"],
        "unchanged": counts["unchanged"],
        "pending": counts["pending"],
        "absent": counts["absent"],
        "failed": counts["failed"],
        "rules": dict(rules),
    }


def _image_json(one: Mirrored) -> dict[str, Any]:
    return {
        "source": str(one.source),
        "target": str(one.target),
        "action": one.action,
        "digest": one.digest,
        "previous": one.previous,
        "attached": one.attached,
        **asdict(one.size),
        "error": explain(one.error).to_json() if one.error else None,
    }


def mirrored_text(found: Sequence[Mirrored], rules: str) -> Iterator[RenderableType]:
    """A row for each image, a line of all, and the rules to paste, or where they are."""
    made = table("IMAGE", "", "MOVED", "MOUNTED", "THERE", "DIGEST", numbers=("MOVED", "MOUNTED", "THERE"))
    for one in found:
        sizes = (one.size.moved, one.size.mounted, one.size.skipped)
        cells = (str(one.target), _became(one), *(words.size(size) if size else "" for size in sizes))
        made.add_row(*map(Text, (*cells, words.short(one.digest or ""))))
    yield made
    yield Text()
    yield Text(summary(found))
    if rules:
        yield from (Text(), Text(rules.rstrip()))


def _became(one: Mirrored) -> str:
    more = f", {one.attached} attached" if one.attached else ""
    moved = ", tag moved" if one.action == "copied" and one.previous not in (None, one.digest) else ""
    return f"{one.action}{moved}{more}"
