"""How tricompose fails: one class per exit status, each with a message and a hint apart.

    TricomposeError
    ├── ModelsRefused  1   checking models found what was asked for
    ├── RecipeError    3   editing the recipe fixes it
    ├── UnknownRelease 4   no facts and no upstream for the release asked for
    ├── NotFound       5   a named thing does not exist
    ├── Unplannable    7   consistent, but it cannot be done this way
    ├── Denied         8   the other side refused us: 401, 403
    ├── Unreachable    9   the other side could not be reached, or never finished an answer
    ├── Corrupt       10   bytes are not what their digest or format says
    ├── BuildFailed   11   the engine ran and failed
    ├── CheckFailed   12   built, but it does not serve as the recipe says
    ├── NoRoom        13   no space, or no permission, where files are written
    ├── Unverified    14   nothing failed, but something could not be seen here
    ├── LockStale     15   the lock is not what the recipe's names mean today
    └── Unwell        16   `doctor` found something that will not do

Exit status 2 is a wrong command line (click's), 70 a bug in tricompose, 130 Ctrl-C.
The library raises and never prints; only `cli` exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class TricomposeError(Exception):
    """What went wrong in the user's words; `hint` says what to do, a command to paste where there is one."""

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a file. `where` is `file:line:column`, as editors and terminals make links of."""

    where: str
    message: str
    hint: str | None = None


class RecipeError(TricomposeError):
    """The recipe cannot be used as it stands. Carries every problem found, in file order."""

    code = "recipe-invalid"
    status = 3

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{first.where}: {first.message}{more}", hint=first.hint)
        self.problems = tuple(problems)


class ModelsRefused(TricomposeError):
    """`models lint` or `models config --check` found something that counts."""

    code = "models-refused"
    status = 1


class UnknownRelease(TricomposeError):
    """Nothing is known of this release, and the recipe names no upstream."""

    code = "release-unknown"
    status = 4


class NotFound(TricomposeError):
    """A named image, tag, file or backend does not exist. The hint names the nearest one that does."""

    code = "not-found"
    status = 5


class Unplannable(TricomposeError):
    """What is asked for is clear, but cannot be built this way."""

    code = "unplannable"
    status = 7


class Denied(TricomposeError):
    """A registry or daemon refused: the message says which credentials were used, never their values."""

    code = "denied"
    status = 8


class Unreachable(TricomposeError):
    """A host could not be reached, or did not finish its answer within the retry budget."""

    code = "unreachable"
    status = 9


class Corrupt(TricomposeError):
    """Bytes that are not what their digest, size or format says. Never retried into success from the same bytes."""

    code = "corrupt"
    status = 10

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or "it is broken where it comes from: copy or push that image again")


class BuildFailed(TricomposeError):
    """An engine or a container runtime ran and failed; the message ends with its last lines.

    `detail` are those lines, the last that it wrote before it failed; the message itself is one line.
    """

    code = "build-failed"
    status = 11

    def __init__(self, message: str, *, hint: str | None = None, detail: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.detail = tuple(detail)


class CheckFailed(TricomposeError):
    """The image was built, but a check says that it does not serve as the recipe says."""

    code = "check-failed"
    status = 12


class NoRoom(TricomposeError):
    """A file could not be written: the disk is full, or the place may not be written to."""

    code = "no-room"
    status = 13


class Unverified(TricomposeError):
    """With `--require-verified`: nothing failed, but something could not be seen on this machine."""

    code = "unverified"
    status = 14


class LockStale(TricomposeError):
    """With `lock --check`: the lock does not say what the recipe's names mean today."""

    code = "lock-stale"
    status = 15


class Unwell(TricomposeError):
    """`doctor` found a problem. The first is told here, all of them in its result."""

    code = "unwell"
    status = 16
