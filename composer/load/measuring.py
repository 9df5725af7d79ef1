"""The load itself: connect, warm up, measure, verify. Ends by itself, whatever the server does."""

from __future__ import annotations

import gc
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from composer.load.arrivals import IDLE, Arrivals, arrivals
from composer.load.connection import UNSENT, Address, Wire, why
from composer.load.pool import Pool
from composer.load.records import Measured, Recorder
from composer.load.samples import Samples, Verify
from composer.load.shapes import Closed, Shape

PATIENCE: Final = 5.0
"""Seconds without any connection after which a load is given up."""

SILENCES: Final = 3
"""Timeouts on end without any answer after which a load is given up."""

Clock = Callable[[], float]


def measure(
    wire: Wire,
    shape: Shape,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    warmup: int = 0,
    timeout: float = 10.0,
    deadline: float = math.inf,
    verify_every: int = 1,
    verify: Verify | None = None,
    warmed: Callable[[], object] = lambda: None,
    clock: Clock = time.perf_counter,
) -> Measured:
    """Send `requests` requests, or for so many `seconds`, after `warmup` others that do not count.

    A request fails after `timeout` seconds; the whole ends after `deadline` seconds, and before that where for
    `SILENCES` timeouts on end nothing is answered. Of the answers the first and then every `verify_every`th are given
    to `verify`. `warmed` is called when the warm-up is over. Never raises for what a server does.
    """
    end = clock() + deadline
    address = _resolve(wire.address, min(timeout, PATIENCE))
    if isinstance(address, str):
        return Measured(stopped=address)
    samples = Samples(verify) if verify else None
    with _no_collecting():
        load = _Load(wire, shape, address, timeout, end, clock)
        try:
            load.connect()
            if warmup:
                load.run(requests=warmup, seconds=None)
            warmed()
            measured = load.run(requests=requests, seconds=seconds, samples=samples, every=verify_every)
        finally:
            load.close()
    if samples is None:
        return measured
    verified, wrong = samples.verdict()
    return replace(measured, verified=verified, wrong=wrong)


class _Load:
    """One load on one server."""

    def __init__(self, wire: Wire, shape: Shape, address: Address, timeout: float, end: float, clock: Clock) -> None:
        self._shape = shape
        self._timeout = timeout
        self._end = end
        self._clock = clock
        self._stopped = ""
        self._sweep = 0.0
        self._starved_since: float | None = None
        self._samples: Samples | None = None
        self._every = 1
        self._recorder = Recorder(clock())
        self._arrivals: Arrivals | None = None
        wanted = shape.concurrency if isinstance(shape, Closed) else wire.places
        self._pool = Pool(wire, address, -(-wanted // wire.places), self._over, clock)

    def connect(self) -> None:
        """Make the first connections, so that making them does not count."""
        end = self._clock() + self._timeout + 4 * IDLE
        while not self._pool.ready and not self._hopeless() and self._clock() < end:
            self._pool.wait(IDLE)
        self._stopped = self._stopped or self._pool.shortage

    def run(
        self, *, requests: int | None, seconds: float | None, samples: Samples | None = None, every: int = 1
    ) -> Measured:
        """Send, and wait until all is over."""
        self._samples, self._every = samples, every
        cpu = time.thread_time()
        self._recorder = recorder = Recorder(self._clock())
        self._arrivals = due = arrivals(self._shape, recorder, requests=requests, seconds=seconds, clock=self._clock)
        pool = self._pool
        while not self._stopped:
            due.launch(pool)
            if not pool.in_flight and due.exhausted():
                break
            pool.wait(due.pause())
            if self._clock() >= self._sweep and self._hopeless():
                pool.close(self._stopped)
        return recorder.measured(cpu_seconds=time.thread_time() - cpu, stopped=self._stopped)

    def close(self) -> None:
        """Let go of all connections."""
        self._pool.close("the load is over")

    def _over(self, started: float, ended: float, failure: str, head: bytes, body: bytes) -> None:
        recorder = self._recorder
        if failure is UNSENT:
            assert self._arrivals
            self._arrivals.again.append(started)
        elif failure:
            recorder.failed(failure, ended)
        else:
            if self._samples is not None and recorder.answered % self._every == 0:
                self._samples.take(head, body)
            recorder.ok(started, ended)

    def _hopeless(self) -> bool:
        """See to the limits of time; whether one of the whole has been reached."""
        now = self._clock()
        self._sweep = now + min(IDLE, self._timeout / 10)
        self._pool.expire(self._timeout)
        if self._arrivals:
            self._arrivals.give_up(self._timeout)
        since = self._pool.trouble_since
        if now >= self._end:
            self._stopped = "the time for the whole load is over"
        elif self._recorder.fails_for(now) > SILENCES * self._timeout:
            self._stopped = f"nothing was answered for {SILENCES * self._timeout:g} s"
        elif since is not None and now - since > min(PATIENCE, self._timeout):
            self._stopped = self._pool.trouble
        elif self._starves(now) > self._timeout:
            self._stopped = self._pool.trouble or "no connection takes a request"
        return bool(self._stopped)

    def _starves(self, now: float) -> float:
        """Seconds for which clients have wanted to send, and none could. At a rate, requests see to that themselves."""
        if self._arrivals is None or self._pool.in_flight or not isinstance(self._shape, Closed):
            self._starved_since = None
        elif self._starved_since is None:
            self._starved_since = now
        return 0.0 if self._starved_since is None else now - self._starved_since


def _resolve(place: tuple[str, int], seconds: float) -> Address | str:
    """The first address of a host that accepts a connection, or why none does."""
    try:
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"the host {place[0]} is not known: {error}"
    reason = "the host has no address"
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.settimeout(seconds)
                probe.connect(address)
                return Address(family, address)
        except TimeoutError:
            reason = f"the server accepts no connection within {seconds:g} s"
        except OSError as error:
            reason = why(error.errno)
    return reason


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Keep Python from looking for garbage: with all that a program holds, that halts us for milliseconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
