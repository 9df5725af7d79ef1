"""What is wrong with an image, as each look at it says, and the result that comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from composer.checks.report import Result

_MOST: Final = 5
"""So many problems are told of; all are in the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, in the user's words. `certain` if it cannot work so; else it may matter, or not."""

    message: str
    hint: str = ""
    certain: bool = True


def result(name: str, good: str, problems: Iterable[Problem], **evidence: Any) -> Result:  # noqa: ANN401
    """The result of a look: failed for what is certain, unverified for what may be, and else `good`."""
    found = sorted(dict.fromkeys(problems), key=lambda problem: not problem.certain)
    shown: Mapping[str, Any] = {**evidence, "problems": [asdict(problem) for problem in found]} if found else evidence
    if not found:
        return Result(id=f"image:{name}", kind="image", outcome="passed", message=good, evidence=shown)
    counted = [one for one in found if one.certain] or found
    more = f" (and {len(counted) - _MOST} more)" if len(counted) > _MOST else ""
    return Result(
        id=f"image:{name}",
        kind="image",
        outcome="failed" if counted[0].certain else "unverified",
        message="; ".join(one.message for one in counted[:_MOST]) + more,
        hint=counted[0].hint,
        evidence=shown,
    )


def skipped(name: str, why: str) -> Result:
    """A look for which there was no reason."""
    return Result(id=f"image:{name}", kind="image", outcome="skipped", message=why)
