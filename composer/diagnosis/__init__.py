"""What was seen of a server -> the failures that it fits: what happened, why, what to do. Pure.

    diagnose(Seen(log=..., exit_code=1, release="24.10"))  ->  the cause first, then what follows from it
    of_engine("could not select device driver ...")        ->  what an engine means

The classes are data, in classes.toml. A failure that fits none is `unclassified`: never the class that is nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from composer.diagnosis.book import classes
from composer.diagnosis.logs import Line, failures, loading, records
from composer.diagnosis.matching import Found, matches, of_words
from composer.diagnosis.seen import Diagnosis, Refusal, Seen
from composer.diagnosis.situations import fitting
from composer.diagnosis.wording import worded

__all__ = [
    "TAIL",
    "UNCLASSIFIED",
    "Diagnosis",
    "Line",
    "Refusal",
    "Seen",
    "classes",
    "diagnose",
    "failures",
    "harmless",
    "loading",
    "of_engine",
    "records",
]

TAIL: Final = 30
"""Lines of a log that go into a report, and are shown where nothing better is known."""

UNCLASSIFIED: Final = "unclassified"
"""The id of what fits no class."""


def diagnose(seen: Seen) -> tuple[Diagnosis, ...]:
    """The failures that what was seen fits, the one that explains most first; `unclassified` where it fits none."""
    told = list(matches(seen))
    every = [*told, *fitting(seen, told)]
    causes = _causes(every)
    found = sorted(causes, key=lambda one: (_through_another(one, causes), one.kind.rank))
    return tuple(dict.fromkeys(worded(one, seen) for one in found)) or (_unknown(seen),)


def of_engine(words: str) -> Diagnosis | None:
    """What a container engine's error means, None where no class is known."""
    return _first(of_words("engine", words), Seen(engine_error=words))


def harmless(line: Line, *, gpu_wanted: bool) -> bool:
    """Whether a line, though it is called an error, is what every server says that has no GPU and needs none."""
    return not gpu_wanted and any(of_words("benign", line.message))


def _first(found: Iterator[Found], seen: Seen) -> Diagnosis | None:
    best = min(found, key=lambda one: one.kind.rank, default=None)
    return worded(best, seen) if best else None


def _causes(found: Sequence[Found]) -> list[Found]:
    """Without those that follow from another of them, unless that one follows from a third."""
    sources = [one for one in found if not _follows(one, found)]
    return [one for one in found if not _follows(one, sources)]


def _follows(one: Found, others: Sequence[Found]) -> bool:
    """Whether it is a consequence of what is among the others about the same model, or about the server."""
    causes = [other for other in others if other.kind.id in one.kind.follows]
    return any(not one.model or not other.model or one.model == other.model for other in causes)


def _through_another(one: Found, others: Sequence[Found]) -> bool:
    """Whether it fails for want of a model that is told of as well: that one comes first."""
    member = one.names.get("member", "").rstrip(".,;")
    return bool(member) and any(other.model == member for other in others)


def _unknown(seen: Seen) -> Diagnosis:
    kind = classes()[UNCLASSIFIED]
    lines = [line.raw for line in records(seen.log)][-TAIL:] or [text for text in (seen.engine_error,) if text]
    return worded(Found(kind=kind, lines=tuple(lines)), seen)
