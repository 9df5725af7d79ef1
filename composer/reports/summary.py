"""What a report says, in words and rows: the same for terminals, Markdown and pages, which only lay it out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from composer import words
from composer.checks.report import Kind, Outcome, Report, Result
from composer.reports import evidence
from composer.reports.evidence import Gpu, Run, Use

Verdict = Literal["passed", "failed", "unverified"]

UNVERIFIED: Final = (
    "unverified: it could not be seen on this machine, and may be wrong elsewhere. It does not count as passed."
)

KINDS: Final[Mapping[Kind, str]] = {
    "image": "Image",
    "health": "Health",
    "logs": "Logs",
    "inference": "Answers",
    "gpu": "GPU",
    "load": "Load",
}
"""The kinds of checks as headings, in the order in which they run."""

_AGAIN: Final = "after:"
"""How the names of checks begin that are made a second time, at the end."""

_WORST: Final[Sequence[Outcome]] = ("error", "failed", "unverified", "skipped", "passed")

VERDICTS: Final[Mapping[Verdict, str]] = {
    "passed": "Passed",
    "failed": "Failed",
    "unverified": "Not verified",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """A diagnosis: what happened, why, what to do, and the server's lines that say so. `model` is empty for the server
    as a whole."""

    id: str
    title: str
    why: str
    fix: str
    model: str
    lines: Sequence[str]


def verdict(report: Report) -> Verdict:
    """What it comes to. Where nothing failed and nothing passed either, nothing was verified."""
    if report.ok:
        return "passed"
    return "unverified" if all(result.ok for result in report.results) else "failed"


def tally(report: Report) -> str:
    """`4 passed, 1 unverified`: the words in the order in which they first came."""
    outcomes = [result.outcome for result in report.results]
    return ", ".join(f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes)) or "nothing was checked"


def counts(results: Sequence[Result]) -> Mapping[Outcome, int]:
    """How many there are of each outcome that there is, in the order in which reports name them."""
    outcomes = [result.outcome for result in results]
    return {word: outcomes.count(word) for word in get_args(Outcome) if word in outcomes}


def by_kind(results: Sequence[Result]) -> Iterator[tuple[str, Sequence[Result]]]:
    """The results below their headings; apart at the end what was checked once more."""
    first = [result for result in results if not result.id.startswith(_AGAIN)]
    for kind, heading in KINDS.items():
        if found := [result for result in first if result.kind == kind]:
            yield heading, found
    if again := [result for result in results if result.id.startswith(_AGAIN)]:
        yield "Afterwards", again


def worst_first(results: Sequence[Result]) -> Sequence[Result]:
    """The results, what failed before the others; else in their order."""
    return sorted(results, key=lambda result: _WORST.index(result.outcome))


def whys(report: Report) -> Sequence[Why]:
    """The diagnoses of a report, the most telling first."""
    return tuple(_why(one) for one in report.diagnoses)


def _why(one: Mapping[str, Any]) -> Why:
    found = {name: evidence.text(one.get(name)) for name in ("id", "title", "why", "fix", "model")}
    said = one.get("lines")
    lines = said if isinstance(said, list | tuple) else ()
    return Why(**found, lines=tuple(words.plain(str(line)) for line in lines))


def name_of(report: Report) -> str:
    """What a report is of: the recipe's name or the image's, and the platform."""
    name = report.about.name or words.masked(report.about.image) or "a server"
    return words.plain(f"{name} ({report.about.platform})" if report.about.platform else name)


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """What was checked, by whom and when, as far as it is known."""
    about = report.about
    known = {
        "image": words.masked(about.image),
        "digest": about.digest,
        "size": _size(about.size, about.upstream_size),
        "platform": about.platform,
        "release": about.release,
        "server": about.server,
        "runner": about.runner if about.engine in ("", about.runner) else f"{about.runner} ({about.engine})",
        "started": about.started,
        "took": words.duration(about.seconds) if about.seconds else "",
        "by": about.tool,
    }
    yield from ((name, words.plain(value)) for name, value in known.items() if value)
    for model, digest in about.models.items():
        yield f"model {words.plain(model)}", words.plain(digest)


def _size(size: int, upstream: int) -> str:
    ratio = words.ratio(upstream, size)
    return f"{words.size(size)}{f': {ratio}' if ratio else ''}" if size else ""


def proof_lines(result: Result) -> Iterator[str]:
    """The evidence of a result, a line each: what was answered, what else there is, the server's own lines. Digests,
    which say nothing to people, are left out."""
    yield from evidence.problems(result)
    for way in evidence.ways(result):
        status = f" {way.status}" if way.status else ""
        time = f" in {way.time}" if way.time else ""
        yield f"{way.name}:{status}{time}"
        for one in way.outputs:
            off = f", off by {one.max_abs} (relative {one.max_rel or '?'})" if one.max_abs else ""
            yield f"  {one.name}: {one.datatype} {one.shape}{off}"
    yield from (f"{name}: {value}" for name, value in evidence.rest(result) if not name.endswith("sha256"))
    yield from evidence.lines(result)


# -- load -----------------------------------------------------------------------------------------------------------

LOAD_HEADERS: Final = ("load", "sent as", "requests/s", "p50", "p90", "p99", "requests", "errors", "wrong", "batch")
"""The columns of `load_rows`."""


def load_runs(report: Report) -> tuple[Run, ...]:
    """Every run of every load check."""
    return tuple(run for result in report.results for run in evidence.runs(result))


def load_rows(runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """A row of texts for each run."""
    for run in runs:
        yield (
            run.label,
            sent_as(run),
            _digits(run.throughput),
            *(_latency(run.latency.get(name)) for name in ("p50", "p90", "p99")),
            _digits(run.sent),
            _errors(run),
            "-" if not run.verified and not run.wrong else f"{run.wrong or 0:,.0f} of {run.verified or 0:,.0f}",
            "-" if run.average_batch is None else f"{run.average_batch:.2f}",
        )


def sent_as(run: Run) -> str:
    """`8 at once, grpc`, or `200/s, http-binary`."""
    strength = f"{words.digits(run.rate)}/s" if run.rate is not None else ""
    if run.concurrency is not None:
        strength = f"{run.concurrency:.0f} at once"
    return ", ".join(part for part in (strength, run.protocol) if part)


def errors_of(run: Run) -> Iterator[str]:
    """Why a run was given up, and why its requests failed, the most frequent first."""
    if run.stopped:
        yield f"given up: {run.stopped}"
    for reason, many in sorted(run.errors.items(), key=lambda item: -item[1]):
        yield f"{many:,.0f} x {reason}"


def _errors(run: Run) -> str:
    return "0" if not run.failed else f"{run.failed:,.0f}"


def _digits(value: float | None) -> str:
    return "-" if value is None else words.digits(value)


def _latency(value: float | None) -> str:
    return "-" if value is None else words.latency(value)


# -- GPU ------------------------------------------------------------------------------------------------------------

GPU_HEADERS: Final = ("gpu", "id", "memory", "driver", "compute capability")
USE_HEADERS: Final = ("model", "instances", "executions", "proof")


def gpus_of(report: Report) -> tuple[tuple[Gpu, ...], tuple[Use, ...]]:
    """The GPUs that were seen, each once, and what models had to do with them, as it was last seen."""
    seen = {one.uuid: one for result in report.results for one in evidence.gpus(result)}
    used = {one.model: one for result in report.results for one in evidence.uses(result)}
    return tuple(seen.values()), tuple(used.values())


def gpu_rows(gpus: Sequence[Gpu]) -> Iterator[tuple[str, ...]]:
    """A row of texts for each GPU."""
    for one in gpus:
        memory = "-" if one.memory is None else words.size(int(one.memory))
        yield one.name or "?", one.uuid or "?", memory, one.driver or "-", one.capability or "-"


def use_rows(uses: Sequence[Use]) -> Iterator[tuple[str, ...]]:
    """A row of texts for each model."""
    for one in uses:
        counted = [f"{many:,.0f} on {gpu}" for gpu, many in one.executions.items()] or ["none on a GPU"]
        counted += [f"{one.elsewhere:,.0f} elsewhere"] if one.elsewhere else []
        yield one.model, one.kinds or "-", ", ".join(counted), one.proof or "none"
