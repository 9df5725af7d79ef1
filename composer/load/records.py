"""What was measured: every latency, exactly, and what follows from them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

REASONS: Final = 20
"""Different reasons of failure that are told apart."""

_OTHERS: Final = "other reasons"
_PER_DECADE: Final = 40
"""Buckets of a histogram for each factor of ten: each ends 5.9 % above the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What was answered in one second of a measurement: its number, how many answers, their 99th percentile."""

    number: int
    answers: int
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a load. Times in seconds.

    `sent` requests were counted, `ok` of them answered, the others failed: `errors` says why and how often. `seconds`
    is from the first request to the last answer. `latencies` are those of the `ok`, smallest first. Of `verified`
    answers some were `wrong`, by what is wrong with them. `cpu_seconds` is what the client itself used. `late` is, for
    requests with a time of their own, how long after it each was sent, smallest first. `stopped` says why the load
    ended before its time, if it did.
    """

    sent: int = 0
    ok: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: Sequence[float] = ()
    timeline: Sequence[Second] = ()
    verified: int = 0
    wrong: Mapping[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    late: Sequence[float] = ()
    stopped: str = ""

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.ok / self.seconds if self.seconds else 0.0

    @property
    def error_rate(self) -> float:
        """The part of the requests that failed, from 0 to 1."""
        return sum(self.errors.values()) / self.sent if self.sent else 0.0

    def percentile(self, percent: float) -> float:
        """The latency that so many percent of the answers did not exceed; NaN if there were none."""
        return percentile(self.latencies, percent)

    def histogram(self) -> list[tuple[float, int]]:
        """How many answers took no longer than that, and longer than what the bucket before says."""
        counts = Counter(math.ceil(math.log10(max(one, 1e-9)) * _PER_DECADE) for one in self.latencies)
        return [(10 ** (bucket / _PER_DECADE), counts[bucket]) for bucket in sorted(counts)]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the values that is not exceeded by `percent` of them (the nearest rank); NaN of nothing."""
    if not ordered:
        return math.nan
    # Rounded first: 99.9 % of 1000 are 999.0000000000001 in floating point, which would be the thousandth.
    return ordered[max(0, math.ceil(round(len(ordered) * percent / 100, 6)) - 1)]


class Recorder:
    """Takes down what happens. Its methods stand on the way of every request: they do next to nothing."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.last = begun
        self.answered_at = begun
        self.sent = 0
        self.late = array("d")
        self._latencies = array("d")
        self._errors: Counter[str] = Counter()
        self._second = begun + 1
        self._bounds = [0]

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return len(self._latencies)

    def ok(self, started: float, ended: float) -> None:
        """An answer came."""
        while ended >= self._second:
            self._second += 1
            self._bounds.append(len(self._latencies))
        self._latencies.append(ended - started)
        self.last = self.answered_at = ended

    def failed(self, reason: str, ended: float) -> None:
        """A request failed."""
        known = reason in self._errors or len(self._errors) < REASONS
        self._errors[reason if known else _OTHERS] += 1
        self.last = ended

    def fails_for(self, now: float) -> float:
        """Seconds for which requests have failed, and none was answered."""
        return now - self.answered_at if self.last > self.answered_at else 0.0

    def measured(self, *, cpu_seconds: float, stopped: str) -> Measured:
        """All of it, but for what verifying says."""
        return Measured(
            sent=self.sent,
            ok=len(self._latencies),
            errors=dict(self._errors),
            seconds=self.last - self.begun,
            timeline=self._timeline(),
            latencies=sorted(self._latencies),
            late=sorted(self.late),
            cpu_seconds=cpu_seconds,
            stopped=stopped,
        )

    def _timeline(self) -> list[Second]:
        ends = [*self._bounds[1:], len(self._latencies)]
        parts = (sorted(self._latencies[begin:end]) for begin, end in zip(self._bounds, ends, strict=True))
        return [Second(number=number, answers=len(part), p99=percentile(part, 99)) for number, part in enumerate(parts)]
