"""What a load is held to, and what is said of what came of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from composer import words
from composer.checks.load.batches import Batches
from composer.load import Closed, Measured, Open, Shape
from composer.load.records import percentile
from composer.protocol import http

if TYPE_CHECKING:
    from composer.recipe_proof import Load

PERCENTILES: Final = (50, 90, 95, 99, 99.9)
"""What evidence tells of latencies, besides their least, greatest and mean."""

LATE: Final = 0.01
"""Seconds by which one request in a hundred may leave after it was due, until that is worth a word."""

_BUSY: Final = 0.9
"""The part of the time for which this side computes, from which on it may be what bounds the figures."""

_WIDTH: Final = 0.25
"""Seconds that the last point of a timeline covers at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a load: what was sent how, what came of it, and the batches that the server made of it."""

    shape: Shape
    measured: Measured
    batches: Batches | None


# -- judging -----------------------------------------------------------------------------------


def misses(wanted: Load, runs: Sequence[Run]) -> Iterator[str]:
    """Everything that is not as wanted."""
    return (f"{fault} ({named(run.shape)})" for run in runs for fault in _faults(wanted, run))


def _faults(wanted: Load, run: Run) -> Iterator[str]:
    measured, slo = run.measured, wanted.slo
    if measured.stopped:
        yield f"given up: {measured.stopped}"
    yield from _failures(measured, slo.error_rate)
    for fault, count in _most(measured.wrong):
        yield f"{count} of {measured.verified} verified answers are wrong: {fault}"
    for percent in (50, 90, 95, 99):
        limit = getattr(slo, f"p{percent}")
        if limit is not None and measured.ok and measured.percentile(percent) > limit:
            yield f"p{percent} {words.latency(measured.percentile(percent))}, at most {words.latency(limit)}"
    if slo.min_throughput is not None and measured.throughput < slo.min_throughput:
        yield f"{words.digits(measured.throughput)} answers a second, at least {words.digits(slo.min_throughput)}"
    yield from _unbatched(wanted, run)


def _failures(measured: Measured, allowed: float) -> Iterator[str]:
    failed = sum(measured.errors.values())
    if failed and measured.error_rate > allowed:
        reasons = ", ".join(f"{count} x {_said(reason)}" for reason, count in _most(measured.errors))
        limit = f", at most {100 * allowed:g} %" if allowed else ""
        yield f"{failed} of {measured.sent} requests failed{limit}: {reasons}"
    elif not measured.ok and not measured.stopped:
        yield "no request was answered"


def _unbatched(wanted: Load, run: Run) -> Iterator[str]:
    if wanted.expect_batching is None or run.measured.stopped:
        return
    least = wanted.expect_batching.min_avg_batch
    if run.batches is None:
        yield "whether the server batches is not known: it gave no statistics"
    elif (average := run.batches.average) is None:
        yield "the server counts no execution of the model"
    elif average < least and not _too_few(run.shape, wanted):
        yield f"{average:.2f} inferences in one execution on average, at least {least:g}"


def _too_few(shape: Shape, wanted: Load) -> bool:
    """Whether a run has too few requests under way at once to fill a batch, and another run has more."""
    most = max(wanted.concurrency or (1,))
    least = wanted.expect_batching.min_avg_batch if wanted.expect_batching else 0.0
    return isinstance(shape, Closed) and shape.concurrency < min(least, most)


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first, three of them."""
    return sorted(counts.items(), key=lambda item: -item[1])[:3]


def _said(reason: str) -> str:
    """A reason in Triton's own words, without the JSON around them."""
    status, mark, body = reason.partition(": ")
    return f"{status}: {http.complaint(body.encode())}" if mark and status.startswith("HTTP ") else reason


# -- what is said ------------------------------------------------------------------------------


def hints(runs: Sequence[Run]) -> str:
    """What keeps the figures from being those of the server alone."""
    return " ".join(dict.fromkeys(filter(None, map(_hint, runs))))


def _hint(run: Run) -> str:
    measured = run.measured
    late = percentile(measured.late, 99)
    if measured.cpu_seconds > _BUSY * measured.seconds > 0:
        return "The core that sent the requests was busy all the time: the server may be faster than that."
    if late > LATE:
        return f"One request in a hundred left {words.latency(late)} after it was due or later; that counts as latency."
    return ""


def told(runs: Sequence[Run]) -> str:
    """What came of runs that are as wanted."""
    return "; ".join(map(_told, runs))


def _told(run: Run) -> str:
    measured = run.measured
    latency = f"p50 {words.latency(measured.percentile(50))}, p99 {words.latency(measured.percentile(99))}"
    average = run.batches.average if run.batches else None
    batched = f", {average:.1f} in a batch" if average and average >= 1.05 else ""
    return f"{named(run.shape)}: {words.digits(measured.throughput)}/s, {latency}{batched}"


def named(shape: Shape) -> str:
    """A way to send, in words."""
    if isinstance(shape, Open):
        return f"{shape.rate:g} a second"
    return f"concurrency {shape.concurrency}"


# -- evidence ----------------------------------------------------------------------------------


def evidence_of(wanted: Load, runs: Sequence[Run]) -> dict[str, Any]:
    """All figures, as JSON values."""
    return {"runs": [_to_json(wanted, run) for run in runs]}


def _to_json(wanted: Load, run: Run) -> dict[str, Any]:
    measured, shape = run.measured, run.shape
    sent_as = {"rate": shape.rate} if isinstance(shape, Open) else {"concurrency": shape.concurrency}
    return {
        "label": wanted.id,
        "protocol": "grpc" if wanted.protocol == "grpc" else f"http-{wanted.encoding}",
        **sent_as,
        "sent": measured.sent,
        "ok": measured.ok,
        "errors": _errors(measured),
        "seconds": measured.seconds,
        "throughput": measured.throughput,
        "latency": _latencies(measured),
        "histogram": [list(row) for row in measured.histogram()],
        "verified": measured.verified,
        "wrong": sum(measured.wrong.values()),
        "client_cpu_seconds": measured.cpu_seconds,
        "batches": run.batches.to_json() if run.batches else None,
        "timeline": _timeline(measured),
        "late": {"p99": percentile(measured.late, 99), "max": measured.late[-1]} if measured.late else None,
        "stopped": measured.stopped,
    }


def _latencies(measured: Measured) -> dict[str, float]:
    found = measured.latencies
    if not found:
        return {}
    return {
        "min": found[0],
        "mean": math.fsum(found) / len(found),
        **{f"p{percent:g}": measured.percentile(percent) for percent in PERCENTILES},
        "max": found[-1],
    }


def _errors(measured: Measured) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for reason, count in measured.errors.items():
        counts[_said(reason)] += count
    return dict(counts)


def _timeline(measured: Measured) -> list[list[float | None]]:
    """For each second its number, answers a second, and p99. The last is shorter, and left out if it says nothing."""
    points: list[list[float | None]] = []
    for one in measured.timeline:
        width = min(1.0, measured.seconds - one.number)
        if width >= _WIDTH or not points:
            points.append([one.number, one.answers / width if width else 0.0, one.p99 if one.answers else None])
    return points
