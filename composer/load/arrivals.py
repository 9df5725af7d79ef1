"""Which request is due when, in a closed and in an open loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from composer.load.pool import Pool
from composer.load.records import Recorder
from composer.load.shapes import Closed, Shape

IDLE: Final = 0.05
"""Seconds to wait for the server where nothing is due: limits are looked after so often."""

Clock = Callable[[], float]


class Arrivals(Protocol):
    """Starts requests when they are due. `again` are those that a server has handed back: they go first."""

    again: deque[float]

    def launch(self, pool: Pool) -> None:
        """Start what is due, as far as there is room."""
        ...

    def pause(self) -> float:
        """Seconds until the next is due by the clock, `IDLE` at most."""
        ...

    def give_up(self, seconds: float) -> None:
        """Count those as failed that were due so long ago and still found no room."""
        ...

    def exhausted(self) -> bool:
        """Whether no more are to be started."""
        ...


def arrivals(
    shape: Shape, recorder: Recorder, *, requests: int | None, seconds: float | None, clock: Clock
) -> Arrivals:
    """Requests of that shape: so many, or those of so many seconds."""
    if isinstance(shape, Closed):
        return _Closed(shape.concurrency, recorder, requests, seconds, clock)
    return _Open(shape.rate, recorder, requests if requests is not None else round((seconds or 0) * shape.rate), clock)


class _Closed:
    """Always as many under way as there are clients."""

    def __init__(
        self, concurrency: int, recorder: Recorder, requests: int | None, seconds: float | None, clock: Clock
    ) -> None:
        self.again: deque[float] = deque()
        self._concurrency = concurrency
        self._recorder = recorder
        self._requests = requests
        self._until = None if seconds is None else recorder.begun + seconds
        self._clock = clock

    def launch(self, pool: Pool) -> None:
        _send_again(self.again, pool)
        missing = self._concurrency - pool.in_flight - len(self.again)
        while missing > 0 and not self._spent():
            if not pool.send(self._clock()):
                pool.grow(missing)
                break
            missing -= 1
            self._recorder.sent += 1
        pool.flush()

    def pause(self) -> float:
        return IDLE

    def give_up(self, seconds: float) -> None:
        _forget(self.again, self._recorder, seconds, self._clock())

    def exhausted(self) -> bool:
        return not self.again and self._spent()

    def _spent(self) -> bool:
        if self._requests is not None and self._recorder.sent >= self._requests:
            return True
        return self._until is not None and self._clock() >= self._until


class _Open:
    """One after the other by the clock: number i is due i / rate seconds after the begin."""

    def __init__(self, rate: float, recorder: Recorder, requests: int, clock: Clock) -> None:
        self.again: deque[float] = deque()
        self._rate = rate
        self._recorder = recorder
        self._requests = requests
        self._clock = clock
        self._stuck = False

    def launch(self, pool: Pool) -> None:
        _send_again(self.again, pool)
        recorder, now = self._recorder, self._clock()
        self._stuck = False
        due = min(self._requests, int((now - recorder.begun) * self._rate) + 1)
        while recorder.sent < due:
            intended = recorder.begun + recorder.sent / self._rate
            if not pool.send(intended):
                pool.grow(due - recorder.sent)
                self._stuck = True
                break
            recorder.late.append(now - intended)
            recorder.sent += 1
        pool.flush()

    def pause(self) -> float:
        if self._stuck or self._recorder.sent >= self._requests:
            return IDLE
        next_due = self._recorder.begun + self._recorder.sent / self._rate
        return min(IDLE, max(0.0, next_due - self._clock()))

    def give_up(self, seconds: float) -> None:
        recorder, now = self._recorder, self._clock()
        _forget(self.again, recorder, seconds, now)
        while recorder.sent < self._requests and recorder.begun + recorder.sent / self._rate < now - seconds:
            recorder.sent += 1
            recorder.failed(f"could not be sent within {seconds:g} s: no connection was free", now)

    def exhausted(self) -> bool:
        return not self.again and self._recorder.sent >= self._requests


def _send_again(again: deque[float], pool: Pool) -> None:
    while again and pool.send(again[0]):
        again.popleft()


def _forget(again: deque[float], recorder: Recorder, seconds: float, now: float) -> None:
    while again and again[0] < now - seconds:
        again.popleft()
        recorder.failed(f"the server did not take it within {seconds:g} s", now)
