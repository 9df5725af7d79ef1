"""Reports as Markdown, as GitHub shows it on the page of a job (`$GITHUB_STEP_SUMMARY`), and GitLab in a comment."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Final

from composer.checks.report import Outcome, Report, Result
from composer.reports import summary
from composer.words import plain

LIMIT: Final = 1_000_000
"""Bytes of all that is written: GitHub takes 1 MiB for a step, and refuses the whole of what is longer."""

_MARKS: Final[dict[Outcome, str]] = {"passed": "✅", "failed": "❌", "error": "❌", "skipped": "➖", "unverified": "⚠️"}
_HEADS: Final[dict[summary.Verdict, str]] = {"passed": "✅", "failed": "❌", "unverified": "⚠️"}
_SPECIAL: Final = re.compile(r"[\\`*\[\]|~$<>&]|(?<![^\W_])_|_(?![^\W_])")
_LONG: Final = 2_000
"""Letters of a text of which more is cut off."""
_LAST: Final = 100
"""Lines that are folded; of more, the last."""


def markdown_text(reports: Sequence[Report]) -> str:
    """The reports, one below the other. What there is no room for is left out, and that is said."""
    text = ""
    for number, report in enumerate(reports):
        share = (LIMIT - len(text.encode())) // (len(reports) - number)
        text += _fitted(report, share)
    return text


def _fitted(report: Report, limit: int) -> str:
    """As many parts of a report as so many bytes hold."""
    note = f"There is more than fits here: see the JSON or HTML report of {_inline(summary.name_of(report))}.\n\n"
    parts = list(_parts(report))
    sizes = [len(part.encode()) for part in parts]
    if sum(sizes) <= limit:
        return "".join(parts)
    kept, room = [], limit - len(note.encode())
    for part, size in zip(parts, sizes, strict=True):
        if size <= room:
            kept.append(part)
            room -= size
    return "".join(kept) + note


def _parts(report: Report) -> Iterator[str]:
    """A report, the most important first; each part can be left out."""
    yield _title(report)
    for why in summary.whys(report):
        yield _diagnosis(why)
        if why.lines:
            yield _folded("What the server said", why.lines)
    yield from _checks(report.results)
    yield from _details(report)


def _title(report: Report) -> str:
    word = summary.verdict(report)
    found = f"## {_HEADS[word]} {summary.VERDICTS[word]}: {_inline(summary.name_of(report))}\n\n{summary.tally(report)}"
    return f"{found}, by {_inline(report.about.server)}\n\n" if report.about.server else f"{found}\n\n"


def _diagnosis(why: summary.Why) -> str:
    about = f" (model {_inline(why.model)})" if why.model else ""
    said = (("Why", why.why), ("Do this", why.fix))
    rest = "".join(f"**{name}:** {_lines(one)}\n\n" for name, one in said if one)
    return f"### {_inline(why.title)}{about}\n\n{rest}"


def _checks(results: Sequence[Result]) -> Iterator[str]:
    if results:
        yield "| | check | seconds | |\n|---|---|--:|---|\n"
        yield from map(_row, summary.worst_first(results))
        yield "\n"
    if any(one.outcome == "unverified" for one in results):
        yield f"{summary.UNVERIFIED}\n\n"


def _row(result: Result) -> str:
    hint = f"<br>**Do this:** {_lines(result.hint)}" if result.hint else ""
    what = f"{_MARKS[result.outcome]} {result.outcome}"
    return f"| {what} | {_inline(result.id)} | {result.seconds:.2f} | {_lines(result.message)}{hint} |\n"


# -- what is folded, and left out where there is no room ------------------------------------------------------------


def _details(report: Report) -> Iterator[str]:
    if runs := summary.load_runs(report):
        yield _table(summary.LOAD_HEADERS, summary.load_rows(runs), left=2)
    gpus, uses = summary.gpus_of(report)
    if gpus:
        yield _table(summary.GPU_HEADERS, summary.gpu_rows(gpus), left=5)
    if uses:
        yield _table(summary.USE_HEADERS, summary.use_rows(uses), left=4)
    for result in summary.worst_first(report.results):
        if not result.ok and (proof := list(summary.proof_lines(result))):
            yield _folded(f"{result.id}: what it was judged by", proof)
    for run in runs:
        if errors := list(summary.errors_of(run)):
            yield _folded(f"{run.label} ({summary.sent_as(run)}): errors", errors)
    if log := report.log:
        yield _folded("The server's last lines", log)
    if facts := list(summary.facts(report)):
        yield _folded("What was checked", [f"{name}: {value}" for name, value in facts])


def _table(headers: Sequence[str], rows: Iterator[tuple[str, ...]], *, left: int) -> str:
    lines = [" | ".join(headers), " | ".join("---" if n < left else "--:" for n in range(len(headers)))]
    lines += [" | ".join(map(_inline, row)) for row in rows]
    return "".join(f"| {line} |\n" for line in lines) + "\n"


def _folded(title: str, lines: Sequence[str]) -> str:
    """Lines that are shown when somebody asks; of many the last."""
    left = max(0, len(lines) - _LAST)
    shown = [f"({left} lines before these are left out)"] if left else []
    shown += [_cut(line) for line in lines[left:]]
    text = html.escape(plain("\n".join(shown)), quote=False)
    about = html.escape(" ".join(plain(title).split()), quote=False)
    return f"<details><summary>{about}</summary>\n\n<pre>{text}</pre>\n\n</details>\n\n"


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]} ..."


def _lines(text: str) -> str:
    """A text whose lines stay lines, in a cell too."""
    return "<br>".join(_inline(line) for line in _cut(plain(text)).splitlines() if line.strip())


def _inline(text: str) -> str:
    """A text as one line that means nothing to Markdown, wherever it stands."""
    return _SPECIAL.sub(_escaped, _cut(" ".join(plain(text).split())))


def _escaped(found: re.Match[str]) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}")
