"""What is worth trying again, and for how long: a budget of time, not of tries."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from composer.errors import Unreachable
from composer.words import natural

PATIENCE: Final = 120.0
"""Seconds for which something is tried again without any gain."""

LEAST_RATE: Final = 1024
"""Bytes a second below which a transfer counts as dead, though something comes of it now and then."""

_FIRST_CONTACT: Final = 10.0
"""Seconds for a host that has never answered: a misspelt name should be told soon."""

_LONGEST_PAUSE: Final = 15.0
_VAIN_TRIES: Final = 5


class Interrupted(Exception):
    """An exchange broke off that may end well another time: `error` is what it comes to if we give up.

    `after` is how many seconds the other side asked us to wait. `unmet`: that host has never answered yet. `told`: the
    user knows of the wait already.
    """

    def __init__(
        self, error: Unreachable, *, after: float | None = None, unmet: bool = False, told: bool = False
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        self.unmet = unmet
        self.told = told


class Patience:
    """How long one piece of work is tried again: some seconds since it last gained something.

    Moving the same bytes over and over is no gain: it stops the clock, but is allowed a few times only.
    """

    def __init__(self, seconds: float, pause: Callable[[float], None], report: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._pause = pause
        self._report = report
        self._since = time.monotonic()
        self._size = 0
        self._tries = 0
        self._vain = 0
        self._moving = False

    def gained(self, size: int | None = None) -> None:
        """Something new is there, and safe: some bytes, which must not be too few for the time, or a step as such."""
        now = time.monotonic()
        if size is not None:
            self._size += size
            if self._size < LEAST_RATE * (now - self._since):
                return
        self._since = now
        self._size = self._tries = self._vain = 0
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
        # Of those who wait for one host, its gate lets one go first: they need not be told apart by chance.
        delay += random.uniform(0.0, 0.05) if cut.after is not None else -delay * random.uniform(0.0, 0.5)
        limit = min(self._seconds, _FIRST_CONTACT) if cut.unmet else self._seconds
        if self._vain > _VAIN_TRIES or time.monotonic() + delay - self._since > limit:
            raise self._given_up(cut, limit) from cut
        if delay >= 1 and not cut.told:
            self._report(f"{cut.error.message}: trying again in {delay:.0f} s")
        self._pause(delay)

    def _given_up(self, cut: Interrupted, limit: float) -> Unreachable:
        """The error, and for how long nothing came: where waiting longer may help, what allows it."""
        waited = time.monotonic() - self._since
        if cut.unmet or (waited < 1 and cut.after is None) or self._vain > _VAIN_TRIES:
            return cut.error
        longer = max(2 * limit, 2 * (cut.after or 0))
        return Unreachable(
            f"{cut.error.message}; given up after {waited:.0f} s without progress (--max-wait {limit:.0f})",
            hint=cut.error.hint or f"--max-wait {longer:.0f}   (or try again later: what is here stays)",
        )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks to wait, by a number or a date in `Retry-After`.

    A date counts from the server's own clock, as ours may differ.
    """
    text = headers.get("Retry-After", "").strip()
    if (seconds := natural(text)) is not None:
        return float(seconds) or None
    until = _date(text)
    if until is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max((until - now).total_seconds(), 0.0) or None


def _date(text: str) -> datetime | None:
    try:
        found = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
