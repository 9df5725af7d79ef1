"""The connections to a server, and the free places on them."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from composer.load.connection import Address, Connection, Done, Wire, why

MOST: Final = 1000
"""Connections to which a pool grows at most."""

Over = Callable[[float, float, str, bytes, bytes], None]
"""Told of each request that is over: when it was started and ended, why it failed, headers, body."""

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
"""Seconds between attempts to connect after ones that failed: doubled each time."""

_SELECTABLE: Final = 1024
"""File descriptors from here on are too large for select(2)."""


class Pool:
    """Keeps `wanted` connections, makes new ones where some break, and sends requests over those with room.

    `in_flight` is the number of requests that are not over. `trouble` says why connecting fails, and
    `trouble_since` since when there was no connection that worked.
    """

    def __init__(self, wire: Wire, address: Address, wanted: int, over: Over, clock: Callable[[], float]) -> None:
        self.in_flight = 0
        self.trouble = ""
        self.trouble_since: float | None = None
        self._wanted = wanted
        self._wire = wire
        self._address = address
        self._over = over
        self._clock = clock
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._fresh: dict[int, float] = {}
        self._blocked: set[int] = set()
        self._leaving: set[int] = set()
        self._free: deque[Connection] = deque()
        self._touched: list[Connection] = []
        self._next_try = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def ready(self) -> bool:
        """Whether all connections are made."""
        return len(self._connections) >= self._wanted and not self._fresh

    @property
    def shortage(self) -> str:
        """Why not all are made that are wanted; "" if they are."""
        made = len(self._connections) - len(self._fresh)
        if made >= self._wanted:
            return ""
        return f"{made} of {self._wanted} connections could be made: {self.trouble or 'the server takes no more'}"

    def send(self, started: float) -> bool:
        """Start a request if there is room for it. It leaves with the next `flush`."""
        while self._free:
            connection = self._free.popleft()
            if connection.open and not connection.broken:
                connection.send(started)
                self._touched.append(connection)
                self.in_flight += 1
                return True
        return False

    def grow(self, places: int) -> None:
        """Have more connections, so that so many more requests find room. Not while some are being made."""
        if self.ready:
            self._wanted = max(self._wanted, min(MOST, self._wanted - (-places // self._wire.places)))

    def flush(self) -> None:
        """Let go what was started."""
        for connection in self._touched:
            self._flush(connection)
        self._touched.clear()

    def wait(self, seconds: float) -> None:
        """Wait for the server, no longer than that, and take in what it sends."""
        self._renew()
        fine = 0 < seconds < 0.01 and self._epoll.fileno() < _SELECTABLE
        if fine:  # epoll counts in milliseconds, and rounds up
            select.select([self._epoll], [], [], seconds)
        for number, events in self._epoll.poll(0 if fine else max(0.0, seconds)):
            connection = self._connections[number]
            self._settle(connection, connection.ready(events))

    def expire(self, seconds: float) -> None:
        """Give up what was started so many seconds ago: requests, and connections that are still being made."""
        now = self._clock()
        for connection in [*self._connections.values()]:
            if self._fresh.get(connection.socket.fileno(), now) <= now - seconds:
                connection.broken = f"the server accepts no connection within {seconds:g} s"
            self._settle(connection, connection.expire(now - seconds, f"no answer within {seconds:g} s"))

    def close(self, reason: str) -> None:
        """Let go of all connections. Requests that are not over fail for that reason."""
        if self._epoll.closed:
            return
        self._wanted = 0
        for connection in [*self._connections.values()]:
            connection.broken = reason
            self._drop(connection)
        self._epoll.close()

    # -- connections -------------------------------------------------------------------------------

    def _settle(self, connection: Connection, done: Sequence[Done]) -> None:
        """Tell of the requests that are over, and see what has become of their connection."""
        if done:
            ended = self._clock()
            self.in_flight -= len(done)
            self._free.extend([connection] * len(done))
            for started, failure, head, body in done:
                self._over(started, ended, failure, head, body)
        if connection.broken:
            self._drop(connection)
            return
        if self._fresh and connection.open and self._fresh.pop(connection.socket.fileno(), None) is not None:
            self._free.extend([connection] * connection.room)
            self.trouble, self.trouble_since, self._pause = "", None, _FIRST_PAUSE
        if not connection.open and connection.socket.fileno() not in self._fresh:
            self._leaving.add(connection.socket.fileno())
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        if connection.broken:
            self._drop(connection)
        else:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Ask to be told when a socket takes bytes again, or no longer."""
        number = connection.socket.fileno()
        if connection.blocked is not (number in self._blocked):
            (self._blocked.add if connection.blocked else self._blocked.discard)(number)
            self._epoll.modify(number, select.EPOLLIN | (select.EPOLLOUT if connection.blocked else 0))

    def _renew(self) -> None:
        while len(self._connections) - len(self._leaving) < self._wanted and self._clock() >= self._next_try:
            try:
                connection = self._wire.connect(self._address)
            except OSError as error:
                self._failed(why(error.errno))
                return
            number = connection.socket.fileno()
            self._epoll.register(number, select.EPOLLIN | select.EPOLLOUT)
            self._connections[number] = connection
            self._blocked.add(number)
            self._fresh[number] = self._clock()
            if connection.broken:
                self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        number = connection.socket.fileno()
        if number < 0:  # dropped before
            return
        self._epoll.unregister(number)
        del self._connections[number]
        self._blocked.discard(number)
        self._leaving.discard(number)
        if self._fresh.pop(number, None) is not None:
            self._failed(connection.broken)
        pending = connection.pending()
        ended = self._clock()
        self.in_flight -= len(pending)
        reason = connection.broken
        connection.close()
        for started in pending:
            self._over(started, ended, reason, b"", b"")

    def _failed(self, reason: str) -> None:
        """Connecting failed: wait before the next attempt."""
        now = self._clock()
        self.trouble = reason
        if len(self._connections) > len(self._fresh):
            self.trouble_since = None
        elif self.trouble_since is None:
            self.trouble_since = now
        self._next_try = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
