"""What stood in the way of a connection: exceptions that know what was tried, in what order, and why it failed."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Who was asked, or which address, and why it was in vain. `passing`: another time it may be otherwise."""

    who: str
    why: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.who}: {self.why}"


class Unresolved(socket.gaierror):
    """Nobody knows an address of a host. `tried` are those who were asked, in order."""

    def __init__(self, host: str, tried: Sequence[Tried]) -> None:
        unsure = any(one.passing for one in tried)
        super().__init__(socket.EAI_AGAIN if unsure else socket.EAI_NONAME, "; ".join(map(str, tried)))
        self.host = host
        self.tried = tuple(tried)

    @property
    def why(self) -> str:
        """All that was tried, in words."""
        return f"its name could not be resolved (DNS: {self.strerror})"


class Unconnected(OSError):
    """No address of a host takes a connection. `tried` are the addresses, in order."""

    def __init__(self, host: str, tried: Sequence[Tried]) -> None:
        super().__init__("; ".join(map(str, tried)))
        self.host = host
        self.tried = tuple(tried)

    @property
    def why(self) -> str:
        """All that was tried, in words."""
        return f"it takes no connection (TCP: {self})"


class Obstructed(OSError):
    """A proxy does not let us through. `proxy` is its address without the login, `why` what it says, or the way to it.

    `status` is that of its answer, if it gave any.
    """

    def __init__(self, proxy: str, why: str, *, status: int | None = None) -> None:
        super().__init__(f"{proxy}: {why}")
        self.proxy = proxy
        self.why = why
        self.status = status
