"""What all checks are given, and how one of them is timed and kept from raising."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from composer.checks.report import Kind, Result
from composer.errors import TricomposeError
from composer.events import Emit
from composer.protocol.http import Client
from composer.protocol.messages import NoAnswer
from composer.runners import Running

if TYPE_CHECKING:
    from composer.checks.gpu.evidence import Moment
    from composer.checks.inference.goldens import Recorder
    from composer.models.repository import ModelRepository
    from composer.recipe import Validate

_LONGEST: Final = 4000
"""Letters of a message: what a server says in it may be of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a server is held to, and what is known of it.

    `models` are the names that it must serve, no more and no fewer; None where nobody said. Paths of the recipe start
    from `base`. `repositories` are the models as they lie here, where they do; `digests` say by name what goldens are
    tied to. `env` is the environment of what was started, `shm` its bytes of shared memory; `backends` and `numpy` are
    those in it. `off` are the protocols that it was told not to speak, `ignored` the rules of lint that the recipe
    passes over, with its reasons. With `strict` a check that asserts nothing fails; with `allow_stale` goldens of other
    models count; with a `recorder` goldens are not compared but kept.
    """

    validation: Validate
    models: Sequence[str] | None
    base: Path
    release: str | None = None
    repositories: Sequence[ModelRepository] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    shm: int = 0
    backends: Sequence[str] = ()
    numpy: str = ""
    off: Sequence[str] = ()
    strict: bool = False
    allow_stale: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict)
    recorder: Recorder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A server that is to be proved, and what it is held to. `before` is what was seen of GPUs before any check."""

    running: Running
    terms: Terms
    client: Client
    emit: Emit
    clock: Callable[[], float] = time.monotonic
    before: Moment | None = None

    @property
    def validation(self) -> Validate:
        """What the recipe says."""
        return self.terms.validation

    @property
    def base(self) -> Path:
        """Where the recipe's paths start."""
        return self.terms.base


def timed(subject: Subject, name: str, kind: Kind, check: Callable[[], Result]) -> Result:
    """The result of `check` with the time that it took; an `error` where it could not be done."""
    begun = subject.clock()
    try:
        result = check()
    except NoAnswer as error:
        result = Result(id=name, kind=kind, outcome="failed", message=f"{error}{fate(subject)}")
    except TricomposeError as error:
        result = Result(id=name, kind=kind, outcome="error", message=error.message, hint=error.hint or "")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        result = Result(id=name, kind=kind, outcome="error", message=f"the server's answer makes no sense: {error!r}")
    return replace(result, message=_cut(result.message), seconds=subject.clock() - begun)


def _cut(message: str) -> str:
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ... ({len(message)} letters)"


def fate(subject: Subject) -> str:
    """What became of the server, to be added to a message; nothing while it lives."""
    code = subject.running.exit_code()
    return "" if code is None else f": the server ended {ending(code)}"


def ending(code: int) -> str:
    """An exit status in words."""
    import signal

    names = {128 + number.value: number.name for number in signal.Signals}
    return f"by {names[code]}" if code in names else f"with status {code}"
