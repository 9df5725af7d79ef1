"""What happened, as a few frozen values. Everything that takes long is given an `emit` and calls it.

`emit` may be called from any thread. Nothing here knows how events are shown: `console` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A step of the story begins: `stage` is a short verb phrase, `detail` what it works on."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    """The step ended well; `detail` says what came of it."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """`done` of `total` bytes of the blob `digest` have moved. `action` says how the blob got where it is:

    `copied`, `mounted` and `skipped` when it went to a target (`mounted` and `skipped` move no bytes and come
    once, with done == total), `read` when it was read to be rewritten, `fetched` when it is a file of a model,
    `written` when we made it (total 0: unknown). A file whose digest is not known yet goes by its address. Of `done`,
    `resumed` bytes were here already, from an earlier run that was cut off. `done` never falls in the events of a copy.
    """

    digest: str
    title: str
    action: str
    done: int
    total: int
    resumed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """An instruction of a Dockerfile: told when it begins and once more when it is over. Several may run at once.

    `number` of `total` counts within `stage`, or in the whole file where `stage` is empty; together they name the
    step. `text` is the instruction in one line, shortened. `state` is `begun`, then `done`, `cached`, `failed` or
    `stopped` (because another failed); `took` is seconds, 0 when it begins.
    """

    number: int
    total: int
    stage: str
    text: str
    state: str
    took: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A line worth showing that is neither a result nor a warning (`source` says whose: a server, a daemon)."""

    text: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something the user should act on, though the work goes on."""

    message: str
    hint: str | None = None


Event = StageStarted | StageFinished | Transferred | BuildStep | Logged | Warned
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `emit` for callers who do not want to know."""
