"""What all checks are given, and how one of them is timed and kept from raising."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from composer.checks.client import Client, NoAnswer
from composer.checks.report import Result
from composer.errors import TricomposeError
from composer.events import Emit
from composer.runners import Running

if TYPE_CHECKING:
    from composer.recipe import Validate


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A server that is to be proved, and what is expected of it. Paths of the recipe start from `base`."""

    running: Running
    validation: Validate
    models: Sequence[str]
    base: Path
    client: Client
    emit: Emit
    clock: Callable[[], float] = time.monotonic


def timed(subject: Subject, name: str, check: Callable[[], Result]) -> Result:
    """The result of `check` with the time that it took; an `error` where it could not be done."""
    begun = subject.clock()
    try:
        result = check()
    except NoAnswer as error:
        result = Result(id=name, outcome="failed", message=f"{error}{fate(subject)}")
    except TricomposeError as error:
        result = Result(id=name, outcome="error", message=error.message)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        result = Result(id=name, outcome="error", message=f"the server's answer makes no sense: {error!r}")
    return replace(result, seconds=subject.clock() - begun)


def fate(subject: Subject) -> str:
    """What became of the server, to be added to a message; nothing while it lives."""
    code = subject.running.exit_code()
    return "" if code is None else f": the server ended {ending(code)}"


def ending(code: int) -> str:
    """An exit status in words."""
    import signal

    names = {128 + number.value: number.name for number in signal.Signals}
    return f"by {names[code]}" if code in names else f"with status {code}"
