"""Ctrl-C and SIGTERM: told once, never lost, and kept from coming between what is made and what takes it away again.

A signal handler raises wherever the program happens to be: between a container that was made and the line that
remembers it, or in the middle of its removal. Within `shielded()` that happens nowhere but where it is allowed.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)

_SEEN_TO: Final = 0.1
"""Seconds between looks at whether a signal that was told is still being acted upon."""

_Handler = Callable[[int, FrameType | None], Any]


class _Listener:
    """Takes SIGINT and SIGTERM as a `KeyboardInterrupt`, once, and sees to it that this comes to something."""

    def __init__(self) -> None:
        self._told: KeyboardInterrupt | None = None
        self._settled = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        if self._told is None and not self._settled:
            self._told = KeyboardInterrupt()
            signal.setitimer(signal.ITIMER_REAL, _SEEN_TO, _SEEN_TO)
            raise self._told

    def look(self, number: int, frame: FrameType | None) -> None:
        """The handler of the timer. Where nobody is being interrupted any more, the exception was lost: tell again."""
        current = sys.exception()
        while current is not None and current is not self._told:
            current = current.__context__
        if current is None and not self._settled:
            self._told = None
            signal.raise_signal(signal.SIGINT)

    def settle(self) -> bool:
        """It has come to something: the program ends. Returns whether there was one."""
        self._settled = True
        if self._told is None:
            return False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True


_listener = _Listener()


def listen() -> None:
    """Take SIGINT and SIGTERM as a `KeyboardInterrupt`, for a program that ends by it. Called by its main thread.

    There is one only: what is cleared away after it is not interrupted in its turn. But Python loses exceptions:
    those that are raised while it clears away an object, and those that C code takes for something else. One that
    nobody handles any more is told again, until `settled` is called.
    """
    global _listener
    _listener = _Listener()
    for number in _STOPPING:
        signal.signal(number, _listener.hear)
    signal.signal(signal.SIGALRM, _listener.look)
    sys.unraisablehook = _unraisable


def settled() -> bool:
    """Say that the program ends, for a `KeyboardInterrupt` or for another reason. Returns whether there was one."""
    return _listener.settle()


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    if not issubclass(lost.exc_type, KeyboardInterrupt):  # that one comes again
        sys.__unraisablehook__(lost)


class Shield:
    """What keeps signals back. Made by `shielded`."""

    def __init__(self) -> None:
        self._open = False
        self._came: int | None = None
        self._before: dict[int, _Handler] = {}

    @contextmanager
    def lowered(self) -> Iterator[None]:
        """Within this, signals act at once; one that came before acts first."""
        try:
            self._open = True
            self._deliver(None)
            yield
        finally:
            self._open = False

    def raise_up(self) -> None:
        """Take the place of the handlers there are. Where a signal just ends the process there is none to replace."""
        for number in _STOPPING:
            before = signal.getsignal(number)
            if callable(before):
                self._before[number] = before
                signal.signal(number, self._handle)

    def put_away(self) -> None:
        """Give the handlers back, but to whoever has replaced us meanwhile, and act on what was kept back."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)
        self._deliver(None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._came is None:
            self._came = number
        if self._open:
            self._deliver(frame)

    def _deliver(self, frame: FrameType | None) -> None:
        number, self._came = self._came, None
        if number is not None:
            self._before[number](number, frame)


@contextmanager
def shielded() -> Iterator[Shield]:
    """Keep SIGINT and SIGTERM back until the end, but for where the shield is lowered.

    Only the main thread is ever interrupted by a signal: in any other this does nothing. Shields may be nested; a
    signal acts where all of them are lowered.
    """
    shield = Shield()
    if threading.current_thread() is not threading.main_thread():
        yield shield
        return
    try:
        shield.raise_up()
        yield shield
    finally:
        shield.put_away()
