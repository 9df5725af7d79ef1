"""One connection that never blocks: bytes out, bytes in. What they mean, HTTP/1.1 and HTTP/2 say for themselves."""

from __future__ import annotations

import errno
import os
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

PIECE: Final = 1 << 16
"""Bytes that are read at once. Twice as much, and the C library would ask the kernel for memory every time."""

UNSENT: Final = "unsent"
"""The failure of a request that the server says it has not looked at: to be sent again."""

Done = tuple[float, str, bytes, bytes]
"""A request that is over: the time it was started with, why it failed ("" if it did not), headers, body."""


class Wire(Protocol):
    """How one request travels: where to, over which protocol, and all its bytes, ready to be sent."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server."""
        ...

    @property
    def places(self) -> int:
        """How many requests a connection carries at once, at most."""
        ...

    def connect(self, address: Address) -> Connection:
        """Begin to make a connection."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """A socket address that was resolved: the family and what `connect` takes."""

    family: int
    place: tuple[Any, ...]


class Connection(ABC):
    """A socket and what is on its way through it.

    `open` is whether requests can be sent; `broken`, once it is not empty, why there will be no more. `room` is how
    many requests it carries at once.
    """

    def __init__(self, address: Address, greeting: bytes) -> None:
        self.socket = socket.socket(address.family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open = False
        self.broken = ""
        self.room = 1
        self._connected = False
        self._unsent: bytes | memoryview = greeting
        problem = self.socket.connect_ex(address.place)
        if problem not in (0, errno.EINPROGRESS):
            self.broken = why(problem)

    @property
    def blocked(self) -> bool:
        """Whether it waits for the socket to take more bytes."""
        return not self._connected or len(self._unsent) > 0

    @abstractmethod
    def send(self, started: float) -> None:
        """Start a request, known by the time it was started with. It leaves with the next `flush`."""

    @abstractmethod
    def expire(self, before: float, reason: str) -> Sequence[Done]:
        """Give up the requests that were started before that time."""

    @abstractmethod
    def pending(self) -> Sequence[float]:
        """The times with which the requests were started that are not over."""

    @abstractmethod
    def _take(self, data: bytes) -> Sequence[Done]:
        """What bytes of the server mean; an empty piece is the end of all. May set `broken`."""

    @abstractmethod
    def _greeted(self) -> None:
        """The connection is made."""

    def ready(self, events: int) -> Sequence[Done]:
        """Do what the socket is ready for. Requests that fail with the connection are the caller's to collect."""
        if not self._connected:
            self._finish_connecting()
        if events & select.EPOLLOUT and not self.broken:
            self.flush()
        if not events & ~select.EPOLLOUT or self.broken:
            return ()
        try:
            data = self.socket.recv(PIECE)
        except BlockingIOError:
            return ()
        except OSError as error:
            self.broken = why(error.errno)
            return ()
        return self._take(data)

    def flush(self) -> None:
        """Send what the socket takes now."""
        if not self._connected or self.broken or not self._unsent:
            return
        try:
            count = self.socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken = why(error.errno)
            return
        self._unsent = b"" if count == len(self._unsent) else memoryview(self._unsent)[count:]

    def close(self) -> None:
        """Let go of the socket."""
        self.broken = self.broken or "closed"
        self.socket.close()

    def _finish_connecting(self) -> None:
        problem = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self.broken = why(problem)
            return
        self._connected = True
        self._greeted()

    def _queue(self, data: bytes) -> None:
        self._unsent = b"".join((self._unsent, data)) if self._unsent else data


def why(problem: int | None) -> str:
    """A failure of a socket, in words."""
    if problem == errno.ECONNREFUSED:
        return "the server refuses connections"
    if problem in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
        return "the server closed the connection without an answer"
    return f"the connection failed: {os.strerror(problem or 0)}"
