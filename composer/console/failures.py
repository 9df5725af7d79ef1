"""What went wrong, whatever it was, as one value: what to say, what to do, and how to exit."""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from composer import words
from composer.errors import BuildFailed, NoRoom, Problem, RecipeError, TricomposeError

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
BUG: Final = 70

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a command failed: the exit status, a code for programs, and words for people."""

    status: int
    code: str
    message: str
    hint: str | None = None
    problems: Sequence[Problem] = ()
    detail: Sequence[str] = ()
    """The last lines of what failed."""

    def to_json(self) -> dict[str, Any]:
        """The failure as a JSON object."""
        found: dict[str, Any] = {"code": self.code, "message": self.message, "hint": self.hint}
        if self.detail:
            found["detail"] = list(self.detail)
        if not self.problems:
            return found
        return found | {
            "problems": [{"where": one.where, "message": one.message, "hint": one.hint} for one in self.problems]
        }


def explain(error: BaseException) -> Failure:
    """What an exception means to the user. One that nobody foresaw is a bug, and its traceback goes to a file."""
    known = _no_room(error) or error
    if isinstance(known, TricomposeError):
        return _foreseen(known)
    if isinstance(error, KeyboardInterrupt):
        return Failure(status=INTERRUPTED, code="interrupted", message="interrupted")
    if isinstance(error, BrokenPipeError):
        return Failure(status=BROKEN_PIPE, code="broken-pipe", message="nobody reads the output any more")
    return _bug(error)


def _foreseen(error: TricomposeError) -> Failure:
    problems = error.problems if isinstance(error, RecipeError) else ()
    detail = error.detail if isinstance(error, BuildFailed) else ()
    return Failure(
        status=error.status,
        code=error.code,
        message=words.masked(error.message),
        hint=_masked(error.hint),
        problems=[
            Problem(where=one.where, message=words.masked(one.message), hint=_masked(one.hint)) for one in problems
        ],
        detail=[words.masked(line) for line in detail],
    )


def _masked(hint: str | None) -> str | None:
    return words.masked(hint) if hint else None


def _no_room(error: BaseException) -> NoRoom | None:
    if isinstance(error, MemoryError):
        return NoRoom("this machine has no memory left", hint="free -h; fewer things at once need less: --jobs 1")
    if isinstance(error, OSError) and error.errno in _FULL:
        place = f"for {error.filename}" if error.filename else "on a disk that is written to"
        return NoRoom(f"no space is left {place}", hint="df -h; --cache and TMPDIR name other places")
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
        return NoRoom(f"{error.filename}: {error.strerror}", hint=f"ls -ld {error.filename}")
    return None


def _bug(error: BaseException) -> Failure:
    said = words.masked(f"{type(error).__name__}: {error}".splitlines()[0])
    return Failure(
        status=BUG,
        code="bug",
        message=f"this is a bug in tricompose, not a fault of yours ({said})",
        hint=_written(error),
    )


def _written(error: BaseException) -> str:
    """Put the traceback where it can be attached to a report. It shows source lines, and no values of variables."""
    text = words.masked("".join(traceback.format_exception(error)))
    about = f"python {platform.python_version()} on {platform.platform()}\ncommand: {_command()}\n\n"
    try:
        handle, path = tempfile.mkstemp(prefix="tricompose-bug-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write(about + text)
    except OSError:
        return f"please report it with this: {text.splitlines()[-1]}"
    return f"please report it, with the traceback in {path}"


def _command() -> str:
    """The subcommand alone: arguments may name what is nobody's business."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")
