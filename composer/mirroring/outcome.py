"""What came of images that were to be mirrored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from composer.errors import TricomposeError
from composer.mirroring.wanted import Wanted
from composer.oci.names import Reference
from composer.words import count

Action = Literal["copied", "unchanged", "pending", "absent", "failed"]
"""What became of an image. `pending`: it would be copied, in a dry run. `absent`: it need not exist, and does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """What moved, what was taken over within the target, and what was there. In a dry run `moved` is what would."""

    moved: int = 0
    mounted: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What became of one image: `digest` is what its tag means in the mirror now, `previous` what it meant before.

    `attached` counts signatures and the like that came in this run.
    """

    source: Reference
    target: Reference
    action: Action
    digest: str | None = None
    previous: str | None = None
    attached: int = 0
    size: Bytes = Bytes()
    error: TricomposeError | None = None


class Unmirrored(TricomposeError):
    """Some images were not mirrored. It counts as what went wrong with the first of them."""

    def __init__(self, failed: Sequence[Mirrored], total: int) -> None:
        first = failed[0].error
        assert first
        names = ", ".join(str(one.source) for one in failed)
        super().__init__(f"{len(failed)} of {count(total, 'image')} could not be mirrored: {names}", hint=first.hint)
        self.code, self.status = first.code, first.status  # type: ignore[misc]  # of the first, not of a class


def summary(found: Sequence[Mirrored]) -> str:
    """How many images became what: `3 copied, 1 failed`."""
    return ", ".join(f"{number} {action}" for action, number in Counter(one.action for one in found).items())


def brought(wanted: Sequence[Wanted], found: Sequence[Mirrored]) -> list[Wanted]:
    """Those of the images that are in the mirror by now, or would be but for a dry run."""
    there = {one.source for one in found if one.action in ("copied", "unchanged", "pending")}
    return [one for one in wanted if one.reference in there]


def failure(found: Sequence[Mirrored]) -> TricomposeError | None:
    """What to end with: nothing, the one error, or a word of all that failed."""
    failed = [one for one in found if one.error]
    if len(found) == 1 and failed:
        return failed[0].error
    return Unmirrored(failed, len(found)) if failed else None
