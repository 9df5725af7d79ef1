"""Reports as one HTML page that needs nothing else: no script, no network. What it says is decided here; the template
`report.html.j2` only lays it out, and escapes every text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from composer import words
from composer.checks.report import Outcome, Report, Result
from composer.rendering import render
from composer.reports import evidence, summary
from composer.reports.charts import MARKS, Chart, compared, load_charts
from composer.reports.document import jsonable
from composer.reports.evidence import Run, Way
from composer.reports.summary import Why
from composer.words import plain

_TEMPLATE: Final = "report.html.j2"
_MANY: Final = 12
"""Checks of which some can be hidden."""
_PARTS: Final = 5
"""Parts of an image that are shown each for itself."""
_LONG: Final = 120
"""Letters of evidence above which it gets a box of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A part of the whole: its name, how much it is, and its share in per cent."""

    name: str
    text: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A row, and what is folded below it. `boxes` are names and texts of several lines."""

    anchor: str
    id: str
    outcome: Outcome
    message: str
    hint: str
    time: str
    ways: Sequence[Way]
    facts: Sequence[tuple[str, str]]
    boxes: Sequence[tuple[str, str]]

    @property
    def folds(self) -> bool:
        """Whether there is something to fold."""
        return bool(self.hint or self.ways or self.facts or self.boxes)

    @property
    def ok(self) -> bool:
        """Whether it may stay folded."""
        return self.outcome not in ("failed", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Checks of one kind."""

    heading: str
    tally: str
    checks: Sequence[Check]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load check: its runs as a table, what has no room in it by run, and drawings."""

    check: Check
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    errors: Sequence[tuple[str, str]]
    batches: Sequence[tuple[str, str]]
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One report, laid out."""

    anchor: str
    verdict: str
    word: str
    name: str
    tally: str
    outcomes: Sequence[Bar]
    by: str
    whys: Sequence[Why]
    failed: Sequence[Check]
    facts: Sequence[tuple[str, str]]
    sizes: Sequence[Bar]
    parts: Sequence[Bar]
    groups: Sequence[Group]
    loads: Sequence[Load]
    compared: Sequence[Chart]
    gpus: Sequence[Sequence[str]]
    uses: Sequence[Sequence[str]]
    unseen: Sequence[str]
    log: str
    can_hide: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that the template is given."""

    title: str
    verdict: str
    sections: Sequence[Section]
    marks: Sequence[str] = MARKS
    gpu_headers: Sequence[str] = summary.GPU_HEADERS
    use_headers: Sequence[str] = summary.USE_HEADERS
    unverified: str = summary.UNVERIFIED


def page_text(reports: Sequence[Report]) -> str:
    """The reports as one HTML document."""
    sections = [_section(number, report) for number, report in enumerate(reports, 1)]
    order = ("failed", "unverified", "passed")
    worst = min((section.verdict for section in sections), key=order.index, default="unverified")
    title = ", ".join(f"{section.word}: {section.name}" for section in sections) or "Nothing was checked"
    return render(_TEMPLATE, "page", Page(title=title, verdict=worst, sections=sections))


def _section(number: int, report: Report) -> Section:
    checks = {id(one): _check(f"r{number}c{place}", one) for place, one in enumerate(report.results, 1)}
    gpus, uses = summary.gpus_of(report)
    verdict = summary.verdict(report)
    outcomes = summary.counts(report.results)
    return Section(
        anchor=f"r{number}",
        verdict=verdict,
        word=summary.VERDICTS[verdict],
        name=summary.name_of(report),
        tally=summary.tally(report),
        outcomes=list(_shares({word: (many, str(many)) for word, many in outcomes.items()})),
        by=_by(report),
        whys=summary.whys(report),
        failed=[checks[id(one)] for one in report.results if not one.ok],
        facts=list(summary.facts(report)),
        sizes=list(_sizes(report)),
        parts=list(_parts(report)),
        groups=[
            Group(heading=heading, tally=_tally(found), checks=[checks[id(one)] for one in found])
            for heading, found in summary.by_kind(report.results)
        ],
        loads=[_load(checks[id(one)], runs) for one in report.results if (runs := evidence.runs(one))],
        compared=list(compared(summary.load_runs(report))),
        gpus=list(summary.gpu_rows(gpus)),
        uses=list(summary.use_rows(uses)),
        unseen=[plain(one.message) for one in report.results if one.kind == "gpu" and one.outcome == "unverified"],
        log=plain("\n".join(report.log)),
        can_hide=len(report.results) > _MANY and 0 < outcomes.get("passed", 0) < len(report.results),
    )


def _by(report: Report) -> str:
    """What answered, how long it took, and when."""
    about = report.about
    took = words.duration(about.seconds) if about.seconds else ""
    began = about.started.replace("T", " ").replace("Z", " UTC")
    return plain(" · ".join(part for part in (about.server, about.runner, took, began) if part))


def _tally(results: Sequence[Result]) -> str:
    return ", ".join(f"{many} {word}" for word, many in summary.counts(results).items())


def _shares(parts: Mapping[str, tuple[int, str]]) -> Iterator[Bar]:
    """Bars that make up the whole together."""
    total = sum(many for many, _ in parts.values())
    for name, (many, text) in parts.items():
        yield Bar(name=name, text=text, share=round(100 * many / total, 2) if total else 0)


def _sizes(report: Report) -> Iterator[Bar]:
    """The upstream and the image, to the same scale."""
    about = report.about
    whole = max(about.size, about.upstream_size)
    if about.size and about.upstream_size:
        for name, size in (("full image", about.upstream_size), ("this image", about.size)):
            yield Bar(name=name, text=words.size(size), share=round(100 * size / whole, 2))


def _parts(report: Report) -> Iterator[Bar]:
    """What the image consists of, the largest first; the small ones that are many, together."""
    parts = sorted(report.about.parts.items(), key=lambda part: -part[1])
    shown, rest = parts[:_PARTS], parts[_PARTS:]
    if rest:
        shown.append((f"{len(rest)} more", sum(size for _, size in rest)))
    if len(shown) > 1:
        yield from _shares({plain(name): (size, words.size(size)) for name, size in shown})


def _check(anchor: str, result: Result) -> Check:
    facts = [(name, value) for name, value in evidence.rest(result) if len(value) <= _LONG and "\n" not in value]
    return Check(
        anchor=anchor,
        id=plain(result.id),
        outcome=result.outcome,
        message=plain(result.message),
        hint=plain(result.hint),
        time=_time(result.seconds),
        ways=evidence.ways(result),
        facts=facts,
        boxes=list(_boxes(result, [name for name, _ in facts])),
    )


def _boxes(result: Result, told: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is too long for a line, a name and a text each; deep values as JSON over several lines."""
    for name, text in evidence.rest(result):
        if name not in told:
            value = result.evidence.get(name)
            deep = isinstance(value, dict | list)
            pretty = json.dumps(jsonable(value), indent=2, ensure_ascii=False) if deep else text
            yield name, plain(pretty) if len(pretty) <= evidence.LONGEST else text
    if problems := evidence.problems(result):
        yield "what is wrong", "\n".join(problems)
    if lines := evidence.lines(result):
        yield "the server's lines", "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 0.0005:
        return ""
    return words.latency(seconds) if seconds < 1 else words.duration(seconds)


def _load(check: Check, runs: Sequence[Run]) -> Load:
    same = all(run.label == check.id for run in runs)
    named = [(summary.sent_as(run) if same else f"{run.label}, {summary.sent_as(run)}", run) for run in runs]
    return Load(
        check=check,
        headers=summary.LOAD_HEADERS[same:],
        rows=[row[same:] for row in summary.load_rows(runs)],
        errors=[(name, "; ".join(errors)) for name, run in named if (errors := list(summary.errors_of(run)))],
        batches=[(name, _batches(run)) for name, run in named if run.sizes],
        charts=list(load_charts(runs)),
    )


def _batches(run: Run) -> str:
    return ", ".join(f"{many:,.0f} of {size}" for size, many in run.sizes.items())
