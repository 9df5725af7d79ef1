"""What is worth trying again, and for how long: a budget of time, not of tries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from composer.errors import Unreachable

_FIRST_CONTACT: Final = 10.0
"""Seconds for a host that has never answered: a misspelt name should be told soon."""

_LONGEST_PAUSE: Final = 15.0
_VAIN_TRIES: Final = 5


class Interrupted(Exception):
    """An exchange broke off that may end well another time: `error` is what it comes to if we give up.

    `after` is how many seconds the other side asked us to wait. `unmet`: that host has never answered yet.
    """

    def __init__(self, error: Unreachable, *, after: float | None = None, unmet: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        self.unmet = unmet


class Patience:
    """How long one piece of work is tried again: some seconds since it last gained something.

    Moving the same bytes over and over is no gain: it stops the clock, but is allowed a few times only.
    """

    def __init__(self, seconds: float, pause: Callable[[float], None], report: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._pause = pause
        self._report = report
        self._since = time.monotonic()
        self._tries = 0
        self._vain = 0
        self._moving = False

    def gained(self) -> None:
        """Something new is there, and safe."""
        self._since = time.monotonic()
        self._tries = self._vain = 0
        self._moving = False

    def moved(self) -> None:
        """Bytes are moving; whether it was worth it will be seen."""
        self._since = time.monotonic()
        self._moving = True

    def wait(self, cut: Interrupted) -> None:
        """Sleep before the next try. Raises the error of `cut` if there is to be none."""
        self._tries += 1
        self._vain += self._moving
        self._moving = False
        delay = cut.after if cut.after is not None else min(0.05 * 2**self._tries, _LONGEST_PAUSE)
        delay *= random.uniform(1.0, 1.1) if cut.after is not None else random.uniform(0.5, 1.0)
        limit = min(self._seconds, _FIRST_CONTACT) if cut.unmet else self._seconds
        if self._vain > _VAIN_TRIES or time.monotonic() + delay - self._since > limit:
            raise cut.error from cut
        if delay >= 1:
            self._report(f"{cut.error.message}: trying again in {delay:.0f} s")
        self._pause(delay)
