"""What a proof found out, for people: the checks, the load, the GPUs, and last, where eyes are, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from composer.checks.report import Outcome, Report, Result
from composer.console.tables import facts, table
from composer.reports import summary
from composer.reports.evidence import Run
from composer.words import plain

_STYLES: Final[dict[Outcome, str]] = {
    "passed": "green",
    "failed": "bold red",
    "error": "bold red",
    "unverified": "yellow",
    "skipped": "dim",
}
_NARROW: Final = 72
"""Columns below which a check takes several lines."""
_EVIDENCE: Final = 12
"""Lines of evidence below a check that failed; all of it is in the reports that are written to files."""
_LOG: Final = 30
_LOAD: Final[Mapping[str, str]] = {
    "load": "load",
    "sent as": "sent as",
    "requests/s": "per s",
    **{name: name for name in ("p50", "p90", "p99", "errors", "batch")},
}
"""What a terminal has room for of a run, and what it is called there."""


def report_text(report: Report) -> Iterator[RenderableType]:
    """A report: what passed and what did not, then why, then what it comes to."""
    if report.results:
        yield _Checks(report.results)
        yield Text()
    yield from _load(report)
    yield from _gpus(report)
    whys = summary.whys(report)
    if report.log and _of_the_server(report) and not any(why.lines for why in whys):
        yield Text("the last lines of the server:", style="bold")
        yield from (Text(f"  {line}", style="dim") for line in _one_line_each(report.log[-_LOG:]))
        yield Text()
    for why in whys:
        yield from _why(why)
    yield _verdict(report)
    if any(result.outcome == "unverified" for result in report.results):
        yield Text(summary.UNVERIFIED)


def _of_the_server(report: Report) -> bool:
    """Whether something failed that the server's log may say something of: it is not there for every wrong answer."""
    return any(not result.ok and result.kind in ("health", "logs") for result in report.results)


def proof_text(report: Report | None) -> Iterator[RenderableType]:
    """A report in a few lines: what it comes to, what did not pass, and the load."""
    if report is None:
        yield facts([("proof", "none: the image was not started, and its label says so")])
        return
    yield facts([("proof", summary.tally(report))])
    rest = [result for result in report.results if result.outcome != "passed"]
    yield from (Text(plain(f"  {result.outcome}  {result.id}: {result.message}")) for result in rest)
    if any(result.outcome == "unverified" for result in rest):
        yield Text(f"  {summary.UNVERIFIED}")
    if summary.load_runs(report):
        yield Text()
        yield from _load(report)


def _verdict(report: Report) -> Text:
    server = f", by {plain(report.about.server)}" if report.about.server else ""
    word = summary.verdict(report)
    style = {"passed": "bold green", "failed": "bold red", "unverified": "bold yellow"}[word]
    return Text.assemble((summary.VERDICTS[word], style), f": {summary.tally(report)}{server}")


class _Checks:
    """All checks below the headings of their kinds: a row each, or on a narrow terminal a paragraph."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < _NARROW:
            yield from _paragraphs(self._results)
        else:
            yield _rows(self._results)


def _rows(results: Sequence[Result]) -> Table:
    made = table("OUTCOME", "CHECK", "SECONDS", "WHAT", numbers=("SECONDS",))
    for heading, found in summary.by_kind(results):
        made.add_row(Text(heading, style="bold"))
        for result in found:
            what = Text("\n").join(_what(result))
            made.add_row(_outcome(result), Text(plain(result.id)), f"{result.seconds:.2f}", what)
    return made


def _paragraphs(results: Sequence[Result]) -> Iterator[RenderableType]:
    for heading, found in summary.by_kind(results):
        yield Text(heading, style="bold")
        for result in found:
            yield Text.assemble(_outcome(result), f" {plain(result.id)} ({result.seconds:.2f} s)")
            yield from (Padding(line, (0, 0, 0, 2)) for line in _what(result))


def _outcome(result: Result) -> Text:
    return Text(result.outcome, style=_STYLES[result.outcome])


def _what(result: Result) -> Iterator[Text]:
    """What is said of a check: of one that failed, also what to do, and what it was judged by."""
    yield Text(plain(result.message))
    if result.hint:
        yield Text.assemble(("hint: ", "bold"), plain(result.hint))
    if not result.ok:
        lines = summary.proof_lines(result)
        yield from (Text(f"| {line}", style="dim") for line in _one_line_each(islice(lines, _EVIDENCE)))
        if left := sum(1 for _ in lines):
            yield Text(f"| and {left} more, which --report html=report.html shows", style="dim")


def _one_line_each(lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    return (" ".join(plain(line).splitlines()) for line in lines)


def _why(why: summary.Why) -> Iterator[Text]:
    about = f" (model {why.model})" if why.model else ""
    yield Text.assemble((f"{why.title[:1].upper()}{why.title[1:]}", "bold red"), about, (f"  [{why.id}]", "dim"))
    for name, said in (("why", why.why), ("do this", why.fix)):
        if said:
            yield _hanging(name, said)
    yield from (Text(f"  | {line}", style="dim") for line in _one_line_each(why.lines[-_LOG:]))
    yield Text()


def _hanging(name: str, said: str) -> Text:
    """A name, and what is said below each other beside it: a command of several lines can be copied as it stands."""
    lines = f"\n{' ' * 11}".join(said.splitlines())
    return Text.assemble((f"  {f'{name}:':8} ", "bold"), lines)


def _load(report: Report) -> Iterator[RenderableType]:
    """Every run, so that they can be compared; what is left out of the rows is told where it is worth telling."""
    runs = summary.load_runs(report)
    if not runs:
        return
    rows = [dict(zip(summary.LOAD_HEADERS, row, strict=True)) for row in summary.load_rows(runs)]
    cells = [[row[header] for header in _LOAD] for row in rows]
    lines = [Text.assemble((f"{row[0]}, {row[1]}: ", "bold"), _load_line(row)) for row in cells]
    for row, above in zip(cells[:0:-1], cells[-2::-1], strict=True):
        row[0] = "" if row[0] == above[0] else row[0]
    yield _Fitting(_table(list(_LOAD.values()), cells, left=2), lines)
    yield from (Text(note) for run in runs for note in _troubles(run))
    yield Text()


def _load_line(cells: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(list(_LOAD)[2:], cells[2:], strict=True))


def _troubles(run: Run) -> Iterator[str]:
    name = f"{run.label}, {summary.sent_as(run)}"
    yield from (f"{name}: {error}" for error in summary.errors_of(run))
    if run.wrong:
        yield f"{name}: {run.wrong:,.0f} of {run.verified or 0:,.0f} answers that were checked are wrong"


def _gpus(report: Report) -> Iterator[RenderableType]:
    gpus, uses = summary.gpus_of(report)
    tables = ((summary.GPU_HEADERS, summary.gpu_rows(gpus)), (summary.USE_HEADERS, summary.use_rows(uses)))
    for headers, rows in tables:
        if cells := list(rows):
            lines = [Text("; ".join(map(" ".join, zip(headers, row, strict=True)))) for row in cells]
            yield _Fitting(_table(headers, cells, left=len(headers)), lines)
            yield Text()


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> Table:
    titles = [header.upper() for header in headers]
    made = table(*titles, numbers=titles[left:])
    for row in rows:
        made.add_row(*map(Text, row))
    return made


class _Fitting:
    """A table, or lines that say the same where it is too wide for the terminal."""

    def __init__(self, made: Table, lines: Sequence[Text]) -> None:
        self._table = made
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=10_000)
        if console.measure(self._table, options=wide).maximum <= options.max_width:
            yield self._table
        else:
            yield from self._lines
