"""When the next request is sent: once an answer is there, or when the clock says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """`concurrency` clients, each of which sends its next request when its answer is there."""

    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """`rate` requests a second at equal distances, whatever becomes of those before.

    A latency counts from the time at which its request was to be sent, so a server that halts is not spared the
    requests that would have come meanwhile.
    """

    rate: float


Shape = Closed | Open
