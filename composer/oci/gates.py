"""Hosts that asked for a pause, and get it from all of us: a gate for each, shared by all stores of a session.

While a gate is shut nobody goes in. After the pause one request goes first; the others follow when it was answered.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Final

from composer.errors import Unreachable
from composer.oci.patience import Interrupted

_TURN: Final = 0.1
"""Seconds between looks at whether the request that went first has been answered."""

_LONGEST_GUESS: Final = 16.0
"""Seconds of pause at most, where a host says that it is asked too often but not how long to wait."""


class Gate:
    """The gate of one host. `enter` before each request, `leave` or `shut` after it, whatever came of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._why: Unreachable | None = None
        self._first: int | None = None
        self._guesses = 0

    def enter(self) -> None:
        """Go in. Raises `Interrupted` with the seconds to wait before coming again."""
        with self._lock:
            if self._why is None:
                return
            left = self._until - time.monotonic()
            if left > 0:
                raise Interrupted(self._why, after=left, told=True)
            if self._first not in (None, threading.get_ident()):
                raise Interrupted(self._why, after=_TURN, told=True)
            self._first = threading.get_ident()

    def leave(self, *, answered: bool) -> None:
        """The request is over. Once one was answered, all may go."""
        with self._lock:
            if self._why is None or self._first != threading.get_ident():
                return
            self._first = None
            if answered:
                self._why, self._guesses = None, 0

    def shut(self, why: Unreachable, seconds: float | None) -> float:
        """The host asked for a pause, of some seconds or it did not say how long. Gives the seconds."""
        with self._lock:
            if seconds is None:
                self._guesses += 1
                seconds = min(2.0**self._guesses / 2, _LONGEST_GUESS)
            self._until = max(self._until, time.monotonic() + seconds)
            self._why, self._first = why, None
            return seconds


class Gates:
    """The gates of all hosts. One value for all stores of a session."""

    def __init__(self) -> None:
        self._gates: defaultdict[str, Gate] = defaultdict(Gate)
        self._lock = threading.Lock()

    def of(self, host: str) -> Gate:
        """The gate of a `host[:port]`."""
        with self._lock:
            return self._gates[host]
