"""Reports as JUnit XML, in the shape that Jenkins' xunit plugin publishes and GitLab, GitHub's actions and Azure read.

A report is a `testsuite`, a check a `testcase` whose class is its kind. What is unverified is `skipped`: JUnit has no
word for it, and passed it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from xml.etree import ElementTree as Xml

from composer.checks.report import Outcome, Report, Result
from composer.reports import summary
from composer.words import plain

_ELEMENTS: Final[dict[Outcome, str]] = {
    "failed": "failure",
    "error": "error",
    "skipped": "skipped",
    "unverified": "skipped",
}
_FOREIGN: Final = re.compile("[^\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write, and carriage returns and tabs, which attributes do not keep."""


def junit_text(reports: Sequence[Report]) -> str:
    """The reports as one XML document."""
    results = [result for report in reports for result in report.results]
    root = Xml.Element("testsuites", {"name": "tricompose", **_totals(results), "time": _time(_seconds(reports))})
    root.extend(_suite(report) for report in reports)
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def _suite(report: Report) -> Xml.Element:
    results = report.results
    skipped = str(sum(_ELEMENTS.get(result.outcome) == "skipped" for result in results))
    found = {"name": summary.name_of(report), **_totals(results), "skipped": skipped, "time": _time(_seconds([report]))}
    if report.about.started:
        found["timestamp"] = report.about.started.removesuffix("Z")
    suite = Xml.Element("testsuite", {name: _xml(value) for name, value in found.items()})
    properties = Xml.SubElement(suite, "properties")
    for name, value in summary.facts(report):
        Xml.SubElement(properties, "property", {"name": _xml(name), "value": _xml(value)})
    suite.extend(_case(result) for result in results)
    if said := "\n".join(_said(report)):
        Xml.SubElement(suite, "system-out").text = _xml(said)
    return suite


def _totals(results: Sequence[Result]) -> dict[str, str]:
    elements = [_ELEMENTS.get(result.outcome) for result in results]
    return {
        "tests": str(len(results)),
        "failures": str(elements.count("failure")),
        "errors": str(elements.count("error")),
    }


def _case(result: Result) -> Xml.Element:
    about = {"classname": f"tricompose.{result.kind}", "name": _xml(result.id), "time": _time(result.seconds)}
    case = Xml.Element("testcase", about)
    evidence = "\n".join(summary.proof_lines(result))
    if result.outcome in _ELEMENTS:
        first = result.message if result.outcome in ("failed", "error") else f"{result.outcome}: {result.message}"
        one = Xml.SubElement(case, _ELEMENTS[result.outcome], {"type": result.outcome, "message": _xml(first)})
        if not result.ok:
            hint = f"hint: {result.hint}" if result.hint else ""
            one.text = _xml("\n".join(part for part in (result.message, hint, evidence) if part))
    said = [result.message, evidence] if result.outcome == "passed" else [result.hint, evidence] if result.ok else []
    if any(said):
        Xml.SubElement(case, "system-out").text = _xml("\n".join(filter(None, said)))
    return case


def _said(report: Report) -> Iterator[str]:
    for why in summary.whys(report):
        yield f"{why.title} [{why.id}]"
        yield from (f"{name}: {value}" for name, value in (("why", why.why), ("do this", why.fix)) if value)
        yield from (f"  {line}" for line in why.lines)
        yield ""
    yield from report.log


def _seconds(reports: Sequence[Report]) -> float:
    """How long it took; of one that does not say, the time of its checks."""
    return sum(one.about.seconds or sum(result.seconds for result in one.results) for one in reports)


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


def _xml(text: str) -> str:
    return _FOREIGN.sub("?", plain(text))
